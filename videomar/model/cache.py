"""The key-value cache: a frame is run many times but remembered once.

Axes: B batch, N heads, S tokens, K head channels.
"""

from torch import Tensor


class KVCache:
    """Keys and values of the finished frames, per block, and a draft of the frame in work.

    Remembers `length` committed tokens. `write` places a draft behind them and may be repeated; `commit`
    keeps it.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._blocks: dict[int, tuple[Tensor, Tensor]] = {}

    def write(self, block: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Place a draft (B, N, S, K) of `block`; committed and drafted keys and values together.

        Raises:
            ValueError: committed and drafted tokens exceed the capacity.
        """
        end = self.length + keys.shape[2]
        if end > self.capacity:
            raise ValueError(f"cache: got {end} tokens, expected at most {self.capacity}; make it larger")
        if block not in self._blocks:
            shape = (*keys.shape[:2], self.capacity, keys.shape[3])
            self._blocks[block] = (keys.new_empty(shape), values.new_empty(shape))
        kept_keys, kept_values = self._blocks[block]
        kept_keys[:, :, self.length : end] = keys
        kept_values[:, :, self.length : end] = values
        return kept_keys[:, :, :end], kept_values[:, :, :end]

    def commit(self, num_tokens: int) -> None:
        """Keep the first `num_tokens` of the last draft."""
        self.length += num_tokens

"""The key-value cache: a frame is run many times but remembered once.

Axes: B batch, N heads, S tokens, K head channels.
"""

from torch import Tensor

from videomar.model.rope import Rotation, rotate


class KVCache:
    """Keys and values of finished frames, per block, and a draft of the frame being generated.

        | frame 0 | frame 1 | frame 2 | draft of frame 3 |        free        |
        0                             length                         capacity

    `write` replaces the draft; every pass over the frame does so. `commit` makes it a finished frame.
    `make_room` drops the oldest frames, so that a clip may be longer than the cache. The first `sink` tokens
    stay, and `turn_sink` brings their times after the dropped ones: all distances in time are then those of a
    clip that fits. Source: StreamingLLM (arXiv 2309.17453), which counts positions in the cache.
    """

    def __init__(self, capacity: int, sink: int = 0) -> None:
        self.capacity, self.sink = capacity, sink
        self.length = 0
        self._blocks: dict[int, tuple[Tensor, Tensor]] = {}
        self._sink_keys: dict[int, Tensor] = {}
        """Keys of the sink as they were written; turned again and again they would lose precision."""

    def write(self, block: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write a draft (B, N, S, K) of `block`; return committed and drafted keys and values together.

        The first draft of a block sets the largest B; later ones may be of its first rows only.

        Raises:
            ValueError: committed and drafted tokens exceed the capacity.
        """
        rows, end = len(keys), self.length + keys.shape[2]
        if end > self.capacity:
            raise ValueError(f"cache: got {end} tokens, expected at most {self.capacity}; make room first")
        if block not in self._blocks:
            shape = (*keys.shape[:2], self.capacity, keys.shape[3])
            self._blocks[block] = (keys.new_empty(shape), values.new_empty(shape))
        kept_keys, kept_values = self._blocks[block]
        kept_keys[:rows, :, self.length : end] = keys
        kept_values[:rows, :, self.length : end] = values
        return kept_keys[:rows, :, :end], kept_values[:rows, :, :end]

    def commit(self, num_tokens: int) -> None:
        """Keep the first `num_tokens` of the last draft."""
        self.length += num_tokens

    def make_room(self, num_tokens: int) -> int:
        """Drop as many of the oldest tokens behind the sink as `num_tokens` more need; return how many."""
        surplus = max(0, self.length + num_tokens - self.capacity)
        if surplus > 0:
            for kept in (tensor for pair in self._blocks.values() for tensor in pair):
                later = kept[:, :, self.sink + surplus : self.length].clone()
                kept[:, :, self.sink : self.length - surplus] = later
            self.length -= surplus
        return surplus

    def turn_sink(self, rotation: Rotation) -> None:
        """Turn the keys of the sink, as they were written, by a rotation."""
        for block, (keys, _) in self._blocks.items():
            first = self._sink_keys.setdefault(block, keys[:, :, : self.sink].clone())
            keys[:, :, : self.sink] = rotate(first, rotation)

"""Which of how many processes this one is, and what they tell each other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist

from videomar.errors import CheckpointError, VideomarError

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Worker:
    """Which of how many workers this process is, and where it computes."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def together(self, action: Callable[[], _T]) -> _T:
        """Do at every worker what may be refused at one; where one refuses, all do, and none waits for it.

        Raises:
            VideomarError: the action's own, or, at the others, a `CheckpointError` in its words.
        """
        refusal: VideomarError | None = None
        result: list[_T] = []
        try:
            result.append(action())
        except VideomarError as error:
            refusal = error
        said = [str(refusal) if refusal else None]
        if self.world_size > 1:
            said = [None] * self.world_size
            dist.all_gather_object(said, str(refusal) if refusal else None)
        if refusal:
            raise refusal
        for words in said:
            if words:
                raise CheckpointError(words)
        return result[0]

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over all workers, the same at each."""
        if self.world_size == 1:
            return list(values)
        # Double precision: what all workers decide by is then as exact as what one would.
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

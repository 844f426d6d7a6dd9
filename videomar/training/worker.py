"""The processes that train one run, and what they agree on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from videomar.errors import CheckpointError, VideomarError

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Worker:
    """The rank of this process among the workers of a run, and its device."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def together(self, action: Callable[[], _T]) -> _T:
        """Run an action at every worker; if it raises at one, raise at all, so that none waits for another.

        Raises:
            VideomarError: the action's own; at the other workers, a `CheckpointError` with its message.
        """
        refusal: VideomarError | None = None
        result: list[_T] = []
        try:
            result.append(action())
        except VideomarError as error:
            refusal = error
        messages = [str(refusal) if refusal else None]
        if self.world_size > 1:
            messages = [None] * self.world_size
            dist.all_gather_object(messages, str(refusal) if refusal else None)
        if refusal:
            raise refusal
        for message in messages:
            if message:
                raise CheckpointError(message)
        return result[0]

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums over all workers, the same at each."""
        if self.world_size == 1:
            return list(values)
        sums: list[float] = self.total(torch.tensor(values, dtype=torch.float64, device=self.device)).tolist()
        return sums

    def total(self, values: Tensor) -> Tensor:
        """Return the sums over all workers in float64, the same at each; the host does not wait for a GPU.

        Double precision, so that workers decide by numbers as exact as those of a single process.
        """
        total = values.double()
        if self.world_size > 1:
            total = total.clone() if total is values else total
            dist.all_reduce(total)
        return total

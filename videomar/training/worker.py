"""Which of how many processes this one is, and what they tell each other."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist


@dataclass(frozen=True, slots=True)
class Worker:
    """Which of how many workers this process is, and where it computes."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def wait_for_all(self) -> None:
        """Go on when every worker has come here."""
        if self.world_size > 1:
            dist.barrier()

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over all workers, the same at each."""
        if self.world_size == 1:
            return list(values)
        # Double precision: what all workers decide by is then as exact as what one would.
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

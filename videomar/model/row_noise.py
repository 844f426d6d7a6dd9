"""Randomness of a batch, row by row: what a clip draws does not depend on what is generated beside it.

Axes: B batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class RowNoise:
    """One generator for each row of a batch. Remembers their states."""

    def __init__(self, generator: torch.Generator | Sequence[torch.Generator], count: int) -> None:
        if isinstance(generator, torch.Generator):
            seeds = torch.randint(2**62, (count,), generator=generator, device=generator.device)
            generator = [torch.Generator(generator.device).manual_seed(seed) for seed in seeds.tolist()]
        if len(generator) != count:
            rule = "one, or one for each row"
            raise ValueError(f"generator: got {len(generator)} for {count} rows, expected {rule}")
        self._generators = list(generator)

    @property
    def count(self) -> int:
        """Rows, B."""
        return len(self._generators)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal (B, *shape)."""
        return torch.stack([torch.randn(shape, generator=g, device=g.device) for g in self._generators])

    def orders(self, size: int) -> Tensor:
        """A random order of `size` places for each row, (B, size)."""
        return torch.stack([torch.randperm(size, generator=g, device=g.device) for g in self._generators])

    def padded(self, count: int) -> "RowNoise":
        """With copies of the last row's generator until there are `count`."""
        last = self._generators[-1]
        copies = [last.clone_state() for _ in range(count - self.count)]
        return RowNoise([*self._generators, *copies], self.count + len(copies))


def pad_rows(x: Tensor, count: int) -> Tensor:
    """(B, ...) with its last row repeated until there are `count`."""
    missing = count - len(x)
    return torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing > 0 else x

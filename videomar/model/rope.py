"""Rotary position embedding over three axes: time, row, column.

Source: RoFormer (arXiv 2104.09864), eq. 34, one rotation per axis; channels i and i + d/2 of an axis of d
channels form a pair ("rotate-half").

Axes: B batch, N heads, S tokens, K head channels.
"""

from typing import NamedTuple

import torch
from torch import Tensor

BASE = 10_000.0


class Rotation(NamedTuple):
    """Cosines and signed sines (S, K) of every token's angles, and the channels of half an axis, per axis."""

    cos: Tensor
    sin: Tensor
    halves: list[int]

    def tokens(self, first: int, count: int) -> "Rotation":
        """Return the rotation of some consecutive tokens."""
        return Rotation(self.cos[first : first + count], self.sin[first : first + count], self.halves)


def grid_positions(frames: Tensor, grid: tuple[int, int]) -> Tensor:
    """Integer (time, row, column) of every token, (S, 3); `frames` (T,) holds indices of frames."""
    rows, columns = (torch.arange(size, device=frames.device) for size in grid)
    return torch.cartesian_prod(frames, rows, columns)


def rotation_at(positions: Tensor, axis_dims: tuple[int, int, int]) -> Rotation:
    """Rotation of tokens at `positions` (S, 3), for heads whose channels are split as `axis_dims`."""
    cos, sin = [], []
    for axis, dim in enumerate(axis_dims):
        half = dim // 2
        frequencies = BASE ** -(torch.arange(half, device=positions.device, dtype=torch.float64) / half)
        angles = (positions[:, axis, None] * frequencies).float()
        cos += [angles.cos(), angles.cos()]
        sin += [-angles.sin(), angles.sin()]
    return Rotation(torch.cat(cos, -1), torch.cat(sin, -1), [dim // 2 for dim in axis_dims])


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate queries or keys (B, N, S, K); scores then depend on relative positions only."""
    parts = x.split([half for half in rotation.halves for _ in range(2)], -1)
    # Rotating the pair (x, y) needs x cos - y sin and y cos + x sin: exchanging the halves of each axis puts
    # every channel's partner in its place. The signs are in `sin`.
    partners = torch.cat([part for pair in zip(parts[1::2], parts[::2], strict=True) for part in pair], -1)
    return x * rotation.cos.to(x.dtype) + partners * rotation.sin.to(x.dtype)

"""The sequence that the trunk reads: latent frames in some order, and which frames each may look at.

Source: VideoMAR (arXiv 2506.14168) for the causal order; MAGI (arXiv 2501.12389), complete teacher forcing,
for complete and masked frames in one sequence.

Axes: B batch, T frames of the sequence, L tokens per frame, S = T L tokens, P token channels.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Frames(NamedTuple):
    """Latent frames as the trunk reads them."""

    tokens: Tensor
    """(B, T, L, P); what stands in hidden places has no effect."""
    token_mask: Tensor
    """(B, T, L), True = hidden."""
    grid: tuple[int, int]
    """Rows and columns of tokens in a frame; their product is L."""
    times: Tensor
    """Time index of each frame, (T,)."""
    sees: Tensor | None = None
    """(T, T), True where the row's frame looks at the column's; None = at every one."""
    noise_levels: Tensor | None = None
    """Share of noise, 0..1, in the tokens of each frame, (B, T) or (1, T); None = no noise."""


def causal(tokens: Tensor, token_mask: Tensor, grid: tuple[int, int], levels: Tensor | None = None) -> Frames:
    """Clips (B, T, L, P) from frame 0 on: a frame looks at itself and at earlier ones."""
    times = torch.arange(tokens.shape[1], device=tokens.device)
    return Frames(tokens, token_mask, grid, times, times[:, None] >= times, levels)


def complete_and_masked(
    complete: Tensor, tokens: Tensor, token_mask: Tensor, grid: tuple[int, int], levels: Tensor | None = None
) -> Frames:
    """Complete frames 0..T-2, then frames 1..T-1 once more with hidden tokens.

    A complete frame looks at itself and at earlier complete ones; a masked frame at itself and at the
    complete ones before it, which is what it has in generation. A still image is one masked frame.

    Args:
        complete: tokens of the finished frames, with the noise of `levels`, (B, T, L, P).
        tokens: the same without noise.
        token_mask: hidden tokens of the masked frames (B, T, L), True = hidden.
        grid: rows and columns of tokens.
        levels: share of noise in `complete`, (B, T).
    """
    num_frames, device = tokens.shape[1], tokens.device
    first = min(1, num_frames - 1)
    before = torch.arange(num_frames - 1, device=device)
    learnt = torch.arange(first, num_frames, device=device)
    times = torch.cat([before, learnt])
    masked = torch.arange(len(times), device=device) >= len(before)
    same = torch.eye(len(times), dtype=torch.bool, device=device)
    sees = same | (~masked & (times[:, None] > times))
    return Frames(
        torch.cat([complete[:, :-1], tokens[:, first:]], 1),
        torch.cat([torch.zeros_like(token_mask[:, :-1]), token_mask[:, first:]], 1),
        grid,
        times,
        sees,
        None if levels is None else torch.cat([levels[:, :-1], torch.zeros_like(levels[:, first:])], 1),
    )

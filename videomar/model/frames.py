"""The sequence that the trunk reads: latent frames in some order, and which frames each attends to.

Source: VideoMAR (arXiv 2506.14168) for the causal order; MAGI (arXiv 2501.12389), complete teacher forcing,
for complete and masked frames in one sequence.

Axes: B batch, T frames of the sequence, L tokens per frame, S = T L tokens, P token channels.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Frames(NamedTuple):
    """Latent frames as the trunk reads them, with the frames that each attends to."""

    tokens: Tensor
    """(B, T, L, P); the values of hidden tokens have no effect."""
    token_mask: Tensor
    """(B, T, L), True = hidden."""
    previous: Tensor
    """Tokens at the same places of the frame before, as the trunk sees that one, (B, T, L, P); zeros before
    the first frame. Only those at hidden tokens have an effect."""
    grid: tuple[int, int]
    """Rows and columns of tokens in a frame; their product is L."""
    positions: Tensor
    """Index of each frame in its clip, (T,)."""
    attn_mask: Tensor | None = None
    """(T, T), True where the row's frame attends to the column's; None = to every one."""
    noise_levels: Tensor | None = None
    """Share of noise, 0..1, in the tokens of each frame, (B, T) or (1, T); None = no noise."""


def frames_before(tokens: Tensor) -> Tensor:
    """Return the frame before each frame of clips (B, T, L, P), zeros before the first."""
    return torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], 1)


def causal(tokens: Tensor, token_mask: Tensor, grid: tuple[int, int], levels: Tensor | None = None) -> Frames:
    """Return clips (B, T, L, P) from frame 0 on: a frame attends to itself and to earlier ones."""
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    # A token that is hidden is hidden from the frame after it, too.
    previous = frames_before(tokens.masked_fill(token_mask[..., None], 0.0))
    return Frames(tokens, token_mask, previous, grid, positions, positions[:, None] >= positions, levels)


def complete_and_masked(
    complete: Tensor, tokens: Tensor, token_mask: Tensor, grid: tuple[int, int], levels: Tensor | None = None
) -> Frames:
    """Return complete frames 0..T-2, followed by frames 1..T-1 once more with hidden tokens.

    All frames of a clip are learnt in one pass. A masked frame attends to what it has in generation: itself
    and the complete frames before it. A complete frame must not depend on masked ones, because the cache
    holds no such frames. For T = 4, with c = complete, m = masked, x = the row attends to the column:

             c0 c1 c2 m1 m2 m3
        c0 [  x  .  .  .  .  . ]
        c1 [  x  x  .  .  .  . ]   causal over complete frames
        c2 [  x  x  x  .  .  . ]
        m1 [  x  .  .  x  .  . ]
        m2 [  x  x  .  .  x  . ]   strictly earlier complete frames, and itself
        m3 [  x  x  x  .  .  x ]

    A still image is one masked frame.

    Args:
        complete: tokens of the complete frames, with the noise of `levels`, (B, T, L, P).
        tokens: the same without noise; the masked frames are taken from them.
        token_mask: hidden tokens of the masked frames (B, T, L), True = hidden.
        grid: rows and columns of tokens.
        levels: share of noise in `complete`, (B, T).
    """
    num_frames, device = tokens.shape[1], tokens.device
    first = min(1, num_frames - 1)
    before = torch.arange(num_frames - 1, device=device)
    learnt = torch.arange(first, num_frames, device=device)
    positions = torch.cat([before, learnt])
    masked = torch.arange(len(positions), device=device) >= len(before)
    same = torch.eye(len(positions), dtype=torch.bool, device=device)
    attn_mask = same | (~masked & (positions[:, None] > positions))
    return Frames(
        torch.cat([complete[:, :-1], tokens[:, first:]], 1),
        complete_and_masked_tokens(token_mask),
        torch.cat([torch.zeros_like(complete[:, :-1]), frames_before(complete)[:, first:]], 1),
        grid,
        positions,
        attn_mask,
        None if levels is None else torch.cat([levels[:, :-1], torch.zeros_like(levels[:, first:])], 1),
    )


def complete_and_masked_tokens(token_mask: Tensor) -> Tensor:
    """Return the hidden tokens of `complete_and_masked` from those of the clips, (B, T, L)."""
    first = min(1, token_mask.shape[1] - 1)
    return torch.cat([torch.zeros_like(token_mask[:, :-1]), token_mask[:, first:]], 1)

"""The training objective: which frames of a batch are learnt, which tokens are hidden, and the loss by frame.

Source: VideoMAR (arXiv 2506.14168), next-frame diffusion loss, for `single_frame`; MAGI (arXiv 2501.12389),
complete teacher forcing, for `all_frames`; MAR (arXiv 2406.11838), section 3.4, for the share of hidden
tokens. A masked frame is learnt under the same conditions in both objectives: the loss of frame k is the same
for the same hidden tokens and noise.

Axes: B batch, C channels, T latent frames, H W latent rows and columns, L tokens per frame, P token channels,
M caption tokens, E caption channels.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from videomar.config import TrainParams
from videomar.model.frames import Frames, causal, complete_and_masked


class Clips(NamedTuple):
    """A batch of clips to train on."""

    latents: Tensor
    """Normalised latents (B, C, T, H, W)."""
    text: Tensor
    """Caption states (B, M, E)."""
    text_mask: Tensor
    """Real caption tokens (B, M), True = real."""
    conditions: Mapping[str, Tensor] = {}
    """Numbers by name, each (B,); NaN = unknown."""


class FrameLosses(NamedTuple):
    """The loss of a batch, and its errors by frame of the clips."""

    mean: Tensor
    """Mean error of the hidden tokens, a scalar; the only field with a gradient."""
    sums: Tensor
    """Sum of the errors of the hidden tokens of each frame of the clips, (T,)."""
    counts: Tensor
    """Number of hidden tokens of each frame, (T,)."""


def frame_losses(errors: Tensor, frames: Frames, num_frames: int) -> FrameLosses:
    """Sum errors (R n,) of the n hidden tokens, each learnt R times, by frame of the clip."""
    index = frames.positions[:, None].expand_as(frames.token_mask)[frames.token_mask]
    token_errors = errors.detach().view(-1, len(index)).mean(0)
    sums = token_errors.new_zeros(num_frames).index_add_(0, index, token_errors)
    counts = token_errors.new_zeros(num_frames).index_add_(0, index, torch.ones_like(token_errors))
    return FrameLosses(errors.mean(), sums, counts)


def draw_frames(
    tokens: Tensor, grid: tuple[int, int], params: TrainParams, generator: torch.Generator
) -> Frames:
    """Draw the sequence to train on from clips (B, T, L, P); its hidden tokens are those that are learnt."""
    if params.objective == "all_frames":
        token_mask = _draw_mask(tokens, params, generator)
        complete, levels = add_history_noise(tokens, params.history_noise, generator)
        return complete_and_masked(complete, tokens, token_mask, grid, levels)
    target = draw_target_frames(tokens.shape[0], tokens.shape[1], generator)
    # Frames after the last target could not influence anything.
    tokens = tokens[:, : int(target.max()) + 1]
    is_target = torch.arange(tokens.shape[1], device=tokens.device) == target[:, None]
    token_mask = _draw_mask(tokens, params, generator) & is_target[..., None]
    noisy, levels = add_history_noise(tokens, params.history_noise, generator)
    if levels is not None:
        levels = levels.masked_fill(is_target, 0.0)
    return causal(torch.where(is_target[..., None, None], tokens, noisy), token_mask, grid, levels)


def add_history_noise(
    tokens: Tensor, highest: float, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Return frames (B, T, L, P), each mixed with noise of its own level, and the levels (B, T).

    Levels are uniform in 0..highest. The mixture is that of rectified flow: (1 - level) tokens + level noise.
    """
    if not highest:
        return tokens, None
    levels = highest * torch.rand(tokens.shape[:2], generator=generator, device=tokens.device)
    noise = torch.randn(tokens.shape, generator=generator, device=tokens.device)
    return torch.lerp(tokens, noise, levels[..., None, None]), levels


def draw_target_frames(batch_size: int, num_frames: int, generator: torch.Generator) -> Tensor:
    """Draw the frame to learn in each clip, (B,): uniform over all but the first; 0 for still images."""
    if num_frames == 1:
        return torch.zeros(batch_size, dtype=torch.long, device=generator.device)
    return torch.randint(1, num_frames, (batch_size,), generator=generator, device=generator.device)


def draw_hidden_counts(
    count: int, tokens_per_frame: int, ratio: tuple[float, float, float], generator: torch.Generator
) -> Tensor:
    """Draw the number of hidden tokens of each masked frame, (count,): ceil(L r).

    `ratio` holds the smallest r, and mean and deviation of the normal that is truncated to [smallest, 1].
    """
    smallest, mean, std = ratio
    drawn = torch.empty(count, device=generator.device)
    torch.nn.init.trunc_normal_(drawn, mean, std, smallest, 1.0, generator=generator)
    return (drawn * tokens_per_frame).ceil().long()


def draw_token_mask(counts: Tensor, tokens_per_frame: int, generator: torch.Generator) -> Tensor:
    """Hide `counts` random tokens of each row: (B, L), True = hidden."""
    order = torch.rand(len(counts), tokens_per_frame, generator=generator, device=counts.device).argsort(1)
    return order.argsort(1) < counts[:, None]


def _draw_mask(tokens: Tensor, params: TrainParams, generator: torch.Generator) -> Tensor:
    """Draw hidden tokens (B, T, L), for each frame independently."""
    batch_size, num_frames, tokens_per_frame = tokens.shape[:3]
    counts = draw_hidden_counts(
        batch_size * num_frames,
        tokens_per_frame,
        (params.mask_ratio_min, params.mask_ratio_mean, params.mask_ratio_std),
        generator,
    )
    return draw_token_mask(counts, tokens_per_frame, generator).unflatten(0, (batch_size, num_frames))

"""What one training step asks of the network: which frames are learnt, what is hidden, what is known.

Source: VideoMAR (arXiv 2506.14168), next-frame diffusion loss, for `single_frame`; MAGI (arXiv 2501.12389),
complete teacher forcing, for `all_frames`. A masked frame is learnt under the same conditions in both: the
loss of frame k is the same for the same hidden tokens and noise.

Axes: B batch, C channels, T latent frames, H W latent rows and columns, L tokens per frame, P token channels,
M caption tokens, E caption channels.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from videomar.config import TrainParams
from videomar.model.frames import Frames, causal, complete_and_masked
from videomar.model.masking import draw_hidden_counts, draw_target_frames, draw_token_mask


class Clips(NamedTuple):
    """A batch to learn from."""

    latents: Tensor
    """Normalised latents (B, C, T, H, W)."""
    text: Tensor
    """Caption states (B, M, E)."""
    text_mask: Tensor
    """Real caption tokens (B, M), True = real."""
    conditions: Mapping[str, Tensor] = {}
    """Numbers by name, each (B,); NaN = unknown."""


class FrameLosses(NamedTuple):
    """What is learnt from, and where in the clips it comes from."""

    mean: Tensor
    """Mean error of the hidden tokens, a scalar; the one that has a gradient."""
    sums: Tensor
    """Sum of the errors of the hidden tokens of each frame of the clips, (T,)."""
    counts: Tensor
    """How many hidden tokens that is, (T,)."""


def frame_losses(errors: Tensor, frames: Frames, num_frames: int) -> FrameLosses:
    """Errors (R n,) of the n hidden tokens, each learnt R times, by the frame of the clip they lie in."""
    index = frames.times[:, None].expand_as(frames.token_mask)[frames.token_mask]
    of_token = errors.detach().view(-1, len(index)).mean(0)
    sums = of_token.new_zeros(num_frames).index_add_(0, index, of_token)
    counts = of_token.new_zeros(num_frames).index_add_(0, index, torch.ones_like(of_token))
    return FrameLosses(errors.mean(), sums, counts)


def draw_frames(
    tokens: Tensor, grid: tuple[int, int], params: TrainParams, generator: torch.Generator
) -> Frames:
    """The sequence to learn from clips (B, T, L, P); the places it hides are those that are learnt."""
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
    """Frames (B, T, L, P), each mixed with noise of a level of its own, and the levels (B, T).

    Levels are uniform in 0..highest. The mixture is that of rectified flow: (1 - level) tokens + level noise.
    """
    if not highest:
        return tokens, None
    levels = highest * torch.rand(tokens.shape[:2], generator=generator, device=tokens.device)
    noise = torch.randn(tokens.shape, generator=generator, device=tokens.device)
    return torch.lerp(tokens, noise, levels[..., None, None]), levels


def _draw_mask(tokens: Tensor, params: TrainParams, generator: torch.Generator) -> Tensor:
    """Hidden places (B, T, L) of every frame, drawn for each by itself."""
    batch_size, num_frames, tokens_per_frame = tokens.shape[:3]
    counts = draw_hidden_counts(
        batch_size * num_frames,
        tokens_per_frame,
        (params.mask_ratio_min, params.mask_ratio_mean, params.mask_ratio_std),
        generator,
    )
    return draw_token_mask(counts, tokens_per_frame, generator).unflatten(0, (batch_size, num_frames))

"""The training objective: which frames of a batch are learnt, which tokens are hidden, and the loss by frame.

Source: VideoMAR (arXiv 2506.14168), next-frame diffusion loss, for `single_frame`; MAGI (arXiv 2501.12389),
complete teacher forcing, for `all_frames`; MAR (arXiv 2406.11838), section 3.4, for the share of hidden
tokens. A masked frame is learnt under the same conditions in both objectives: the loss of frame k is the same
for the same hidden tokens and noise.

Axes: B batch, C channels, T latent frames, H W latent rows and columns, L tokens per frame, P token channels,
M caption tokens, E caption channels.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from videomar.compute.device import send
from videomar.compute.seeding import on_host
from videomar.config import TrainParams
from videomar.model.frames import Frames, causal, complete_and_masked, complete_and_masked_tokens


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
    simulated: Tensor | None = None
    """Whether each clip is simulated (B,); None = unknown, which counts as simulated."""


class Hidden(NamedTuple):
    """The tokens that a batch is trained on, drawn on the host, which so knows their number."""

    token_mask: Tensor
    """Of the frames of the clips that are read, (B, T, L), True = hidden."""
    places: Tensor
    """Places of the n learnt tokens among all of the sequences, (n,), sequence by sequence."""
    target: Tensor | None
    """The frame of each clip that is learnt (B,); None = all but the first."""

    def to(self, device: torch.device) -> "Hidden":
        """Copy to a device, which the host does not wait for."""
        target = None if self.target is None else send(self.target, device)
        return Hidden(send(self.token_mask, device), send(self.places, device), target)


class FrameLosses(NamedTuple):
    """The loss of a batch, and its errors by frame of the clips."""

    mean: Tensor
    """Mean error of the hidden tokens, a scalar; the only field with a gradient."""
    sums: Tensor
    """Sum of the errors of the hidden tokens of each frame of the clips, (T,)."""
    counts: Tensor
    """Number of hidden tokens of each frame, (T,)."""


def frame_losses(errors: Tensor, index: Tensor, num_frames: int) -> FrameLosses:
    """Sum errors (R n,) of the n hidden tokens, each learnt R times, by frame of the clip; `index` (n,)."""
    token_errors = errors.detach().view(-1, len(index)).mean(0)
    sums = token_errors.new_zeros(num_frames).index_add_(0, index, token_errors)
    counts = token_errors.new_zeros(num_frames).index_add_(0, index, torch.ones_like(token_errors))
    return FrameLosses(errors.mean(), sums, counts)


def draw_dropped(clips: Clips, params: TrainParams, generator: torch.Generator) -> Tensor:
    """Draw which clips are trained with the null text and without conditions, (B,), True = these."""
    drawn = torch.rand(len(clips.latents), generator=generator, device=clips.latents.device)
    dropped = drawn < params.cond_drop_prob
    if clips.simulated is None or params.real_cond_drop_prob is None:
        return dropped
    return torch.where(clips.simulated, dropped, drawn < params.real_cond_drop_prob)


def draw_hidden(shape: Sequence[int], params: TrainParams, generator: torch.Generator) -> Hidden:
    """Draw the tokens to learn of clips (B, T, L, ...), with a generator of the host."""
    batch_size, num_frames, tokens_per_frame = shape[:3]
    if params.objective == "all_frames":
        token_mask = _draw_mask((batch_size, num_frames, tokens_per_frame), params, generator)
        return Hidden(token_mask, _places(complete_and_masked_tokens(token_mask)), None)
    target = draw_target_frames(batch_size, num_frames, generator)
    # Frames after the last target could not influence anything.
    num_read = int(target.max()) + 1
    is_target = torch.arange(num_read) == target[:, None]
    token_mask = _draw_mask((batch_size, num_read, tokens_per_frame), params, generator)
    token_mask &= is_target[..., None]
    return Hidden(token_mask, _places(token_mask), target)


def _places(token_mask: Tensor) -> Tensor:
    return token_mask.flatten().nonzero().squeeze(1)


def draw_frames(
    tokens: Tensor,
    grid: tuple[int, int],
    params: TrainParams,
    generator: torch.Generator,
    hidden: Hidden | None = None,
) -> Frames:
    """Draw the sequence to train on from clips (B, T, L, P); its hidden tokens are those that are learnt.

    Args:
        tokens: of the clips.
        grid: rows and columns of tokens.
        params: objective, mask ratio, history noise.
        generator: source of all randomness, on the device of the tokens.
        hidden: the tokens to learn, on that device; None = draw them now.
    """
    if hidden is None:
        hidden = draw_hidden(tokens.shape, params, on_host(generator)).to(tokens.device)
    if hidden.target is None:
        complete, levels = add_history_noise(tokens, params.history_noise, generator)
        return complete_and_masked(complete, tokens, hidden.token_mask, grid, levels)
    tokens = tokens[:, : hidden.token_mask.shape[1]]
    is_target = torch.arange(tokens.shape[1], device=tokens.device) == hidden.target[:, None]
    noisy, levels = add_history_noise(tokens, params.history_noise, generator)
    if levels is not None:
        levels = levels.masked_fill(is_target, 0.0)
    return causal(torch.where(is_target[..., None, None], tokens, noisy), hidden.token_mask, grid, levels)


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


def _draw_mask(shape: tuple[int, int, int], params: TrainParams, generator: torch.Generator) -> Tensor:
    """Draw hidden tokens (B, T, L), for each frame independently."""
    batch_size, num_frames, tokens_per_frame = shape
    counts = draw_hidden_counts(
        batch_size * num_frames,
        tokens_per_frame,
        (params.mask_ratio_min, params.mask_ratio_mean, params.mask_ratio_std),
        generator,
    )
    return draw_token_mask(counts, tokens_per_frame, generator).unflatten(0, (batch_size, num_frames))

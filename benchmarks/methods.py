"""Ways to learn and to sample that the product does not have, for comparison with those that it has.

Each is put in place of the product's own while a benchmark runs, so that everything else stays the same:
network, data, optimizer, passes over the trunk for each frame, and what judges the clips.

- `later_frames`: a frame is hidden as in VideoMAR, and all frames after it are hidden whole and learnt, too.
- `whole_clip`: tokens of all frames but the given ones are hidden at random, every frame attends to every
  other one, and the clip is unmasked as one picture: MAR (arXiv 2406.11838) on the tokens of a clip.
- `twice_the_size` and `twice_as_wide`: clips of the kind `image_large` at other sizes. Wide pictures are the
  middle of pictures of twice the size, so that bodies are twice as large and may be cut off.

Axes: B batch, C channels, T latent frames, H W latent rows and columns, L tokens per frame, P token channels,
D hidden size, r tokens revealed in a pass.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from videomar.compute.device import has_bfloat16
from videomar.config import Params, SampleParams, TrainParams
from videomar.errors import DataError
from videomar.model import generation, videomar
from videomar.model.frames import Frames, causal
from videomar.model.generation import RowNoise, hidden_after
from videomar.model.head import DiffusionHead, GuidedHidden
from videomar.model.linear import in_bfloat16
from videomar.model.objective import Hidden, draw_hidden_counts, draw_target_frames, draw_token_mask
from videomar.model.patchify import patchify, token_grid, unpatchify
from videomar.model.transformer import Trunk
from videomar.sampling import sample, tasks
from videomar.training import micro_batches

_MOST_GIVEN = 2
"""Latent frames that clips are continued from, at most."""
_FINE = 10_000
"""Parts of a whole, fine enough for a share of the tokens of any clip."""


class Method(NamedTuple):
    """A way to learn, or to sample, other than the product's."""

    learns: bool
    """Whether training differs; sampling alone otherwise."""
    applied: Callable[[], AbstractContextManager[object]]
    """Returns a context in which the product learns and samples this way."""

    def refuse(self, params: Params) -> None:
        """Refuse what a method that learns otherwise does not know.

        Raises:
            DataError: the network draws differences, is shown the frame before, or has conditions.
        """
        model = params.model
        if self.learns and (model.residual or model.feed_previous or model.conditions):
            found = f"residual {model.residual}, feed_previous {model.feed_previous}, {model.conditions}"
            raise DataError(f"model: got {found}, expected false, false and no conditions with this method")


def later_frames(shape: Sequence[int], params: TrainParams, generator: torch.Generator) -> Hidden:
    """Draw a frame of each clip (B, T, L, ...) whose tokens are hidden in part, and hide all after it."""
    batch_size, num_frames, tokens_per_frame = shape[:3]
    target = draw_target_frames(batch_size, num_frames, generator)
    ratio = (params.mask_ratio_min, params.mask_ratio_mean, params.mask_ratio_std)
    counts = draw_hidden_counts(batch_size, tokens_per_frame, ratio, generator)
    partly = draw_token_mask(counts, tokens_per_frame, generator)[:, None]  # (B, 1, L)
    after = torch.arange(num_frames) - target[:, None]  # (B, T)
    return _hidden((after > 0)[..., None] | ((after == 0)[..., None] & partly))


def whole_clip(shape: Sequence[int], params: TrainParams, generator: torch.Generator) -> Hidden:
    """Hide a share of the tokens of all frames after the one or two that are given."""
    batch_size, num_frames, tokens_per_frame = shape[:3]
    most = max(1, min(_MOST_GIVEN, num_frames - 1))
    given = torch.randint(1, most + 1, (batch_size, 1), generator=generator)
    new = (torch.arange(num_frames) >= given).repeat_interleave(tokens_per_frame, 1)  # (B, T L)
    ratio = (params.mask_ratio_min, params.mask_ratio_mean, params.mask_ratio_std)
    shares = draw_hidden_counts(batch_size, _FINE, ratio, generator) / _FINE
    counts = (shares * new.sum(1)).ceil()
    order = torch.rand(new.shape, generator=generator).masked_fill(~new, math.inf).argsort(1).argsort(1)
    return _hidden((order < counts[:, None]).unflatten(1, (num_frames, tokens_per_frame)))


def _hidden(token_mask: Tensor) -> Hidden:
    return Hidden(token_mask, token_mask.flatten().nonzero().squeeze(1), None)


def _learnt_in_order(causally: bool) -> Callable[..., Frames]:
    def draw_frames(
        tokens: Tensor,
        grid: tuple[int, int],
        params: TrainParams,
        _generator: torch.Generator,
        hidden: Hidden,
    ) -> Frames:
        """Return the clips in their order, with the hidden tokens that were drawn."""
        if params.history_noise:
            raise DataError(f"train.history_noise: got {params.history_noise}, expected 0 with this method")
        return _in_order(tokens, hidden.token_mask, grid, causally)

    return draw_frames


def _in_order(tokens: Tensor, token_mask: Tensor, grid: tuple[int, int], causally: bool) -> Frames:
    frames = causal(tokens, token_mask, grid)
    return frames if causally else frames._replace(attn_mask=None)


@torch.no_grad()
def generate_whole_clips(
    trunk: Trunk,
    head: DiffusionHead,
    context: Tensor,
    num_frames: int,
    captions: tuple[Tensor, Tensor],
    sampling: SampleParams,
    generator: torch.Generator | Sequence[torch.Generator],
) -> Iterator[Tensor]:
    """Yield the new latent frames (B, C, 1, H, W) of clips that are unmasked as a whole.

    As many passes as frame by frame, over all frames each; without guidance, at one temperature.
    """
    if sampling.cfg_scale != 1:
        raise DataError(f"sample.cfg_scale: got {sampling.cfg_scale}, expected 1 for whole clips")
    if has_bfloat16(context.device):
        trunk, head = in_bfloat16(trunk), in_bfloat16(head)
    patch_size, grid, (batch_size, _, given) = (
        trunk.params.patch_size,
        token_grid(context, trunk.params.patch_size),
        context.shape[:3],
    )
    num_tokens, new = grid[0] * grid[1], num_frames - given
    noise = RowNoise(generator, batch_size)
    order = noise.orders(new * num_tokens) + given * num_tokens  # (B, new L)
    known = patchify(context, patch_size).flatten(1, 2)  # (B, given L, P)
    missing = known.new_zeros(batch_size, new * num_tokens, known.shape[2])
    tokens = torch.cat([known, missing], 1)  # (B, T L, P)
    hidden = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device).scatter(1, order, True)
    with generation._computing(trunk, context.device, tokens.shape[0] * tokens.shape[1]):
        conditioning = trunk.encode_text(*captions, {})
        passes, left, step = sampling.num_unmask_steps * new, new * num_tokens, 0
        while left:
            after = hidden_after(step, passes, new * num_tokens, left)
            index = order[:, after:left, None]  # (B, r, 1)
            shape = (num_frames, num_tokens)
            frames = _in_order(tokens.unflatten(1, shape), hidden.unflatten(1, shape), grid, causally=False)
            vectors = trunk.forward_tokens(frames, conditioning).flatten(1, 2)  # (B, T L, D)
            shown = torch.take_along_dim(vectors, index, 1)
            drawn = _draw(head, shown, noise, sampling)
            tokens = tokens.scatter(1, index.expand_as(drawn), drawn)
            hidden = hidden.scatter(1, index[..., 0], False)
            left, step = after, step + 1
    made = tokens.clamp(-sampling.clamp, sampling.clamp).unflatten(1, (num_frames, num_tokens))
    yield from (unpatchify(made[:, frame, None], patch_size, grid) for frame in range(given, num_frames))


def _draw(head: DiffusionHead, shown: Tensor, noise: RowNoise, sampling: SampleParams) -> Tensor:
    def draw() -> Tensor:
        return noise.normal(shown.shape[1], head.token_channels)

    drawn = head.sample(GuidedHidden(shown), sampling.temperature, sampling.num_diffusion_steps, draw)
    return head.from_drawn(drawn, torch.zeros_like(drawn))


@contextlib.contextmanager
def _learning(
    draw_hidden: Callable[..., Hidden], causally: bool, **others: Callable[..., Any]
) -> Iterator[None]:
    """Draw hidden tokens, and the sequence that is read, another way; `others` are names of the network's."""
    changes = {"draw_hidden": draw_hidden, "draw_frames": _learnt_in_order(causally), **others}
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(micro_batches, "draw_hidden", draw_hidden))
        for name, function in changes.items():
            stack.enter_context(mock.patch.object(videomar, name, function))
        yield


def _twice_as_wide() -> AbstractContextManager[object]:
    """Clips of the kind `image_large` are as high as trained and twice as wide."""

    def size(_task: tasks.Task, shape: Sequence[int], _models: object) -> tuple[int, int]:
        return shape[1], 2 * shape[2]

    return mock.patch.object(sample, "_larger_size", size)


METHODS: Mapping[str, Method] = {
    "": Method(False, contextlib.nullcontext),
    "later_frames": Method(True, lambda: _learning(later_frames, causally=True)),
    "whole_clip": Method(
        True, lambda: _learning(whole_clip, causally=False, generate_frames=generate_whole_clips)
    ),
    "twice_the_size": Method(False, lambda: mock.patch.object(tasks, "LARGER", 2.0)),
    "twice_as_wide": Method(False, _twice_as_wide),
}
"""By the name that a file of claims uses; without a name, the product's own."""

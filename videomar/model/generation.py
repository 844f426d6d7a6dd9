"""Generation: frame by frame over a cache, each frame by iterative unmasking.

Source: VideoMAR (arXiv 2506.14168), section 3; MAR (arXiv 2406.11838) for the order and the reveal schedule.

Axes: B batch, C channels, T latent frames, H W latent rows and columns, L tokens per frame, P token channels.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

from videomar.config import SampleParams
from videomar.model.cache import KVCache
from videomar.model.masking import hidden_after
from videomar.model.patchify import patchify, unpatchify
from videomar.model.transformer import TextMemory, Trunk

if TYPE_CHECKING:
    from videomar.model.videomar import VideoMAR

# (hidden vectors (copies B, L, D), places (B, r) to draw, guidance weight, temperature) -> tokens (B, r, P)
Draw = Callable[[Tensor, Tensor, float, float], Tensor]


@torch.no_grad()
def generate(
    model: "VideoMAR",
    context: Tensor,
    num_frames: int,
    text: Tensor,
    text_mask: Tensor,
    sampling: SampleParams,
    generator: torch.Generator,
) -> Tensor:
    """Continue clips; see `VideoMAR.generate`.

    Raises:
        ValueError: the context is not shorter than the clip asked for, or holds no frame.
    """
    given = context.shape[2]
    if not 1 <= given < num_frames:
        raise ValueError(
            f"context: got {given} latent frames, expected 1 to {num_frames - 1}; ask for a longer clip"
        )
    patch_size = model.params.patch_size
    grid = (context.shape[3] // patch_size, context.shape[4] // patch_size)
    guided = sampling.cfg_scale != 1
    memory = _read_text(model.trunk, text, text_mask, guided)
    frames = list(patchify(context, patch_size).unbind(1))
    cache = KVCache(num_frames * frames[0].shape[1])
    session = _Session(model.trunk, grid, memory, cache, 2 if guided else 1)

    def draw(hidden: Tensor, index: Tensor, weight: float, temperature: float) -> Tensor:
        shown = torch.take_along_dim(hidden, index.repeat(session.copies, 1)[..., None], 1)
        with_text, *null = shown.chunk(session.copies)
        noise = torch.randn(
            (*index.shape, model.head.token_channels), generator=generator, device=hidden.device
        )
        tokens = model.head.sample(
            with_text.flatten(0, 1),
            null[0].flatten(0, 1) if null else None,
            weight,
            temperature * noise.flatten(0, 1),
            sampling.num_diffusion_steps,
        )
        return rearrange(tokens, "(b r) p -> b r p", b=len(index))

    for frame in frames:
        session.remember(frame)
    for index in range(given, num_frames):
        frame = _unmask(
            session, draw, frames[-1], sampling, _temperature(sampling, index, given, num_frames), generator
        )
        if index > given:
            frame = frame.clamp(-sampling.clamp, sampling.clamp)
        session.remember(frame)
        frames.append(frame)
    return unpatchify(torch.stack(frames, 1), patch_size, grid)


class _Session:
    """The trunk over one batch of clips: its captions, its finished frames, and rows doubled for guidance."""

    def __init__(
        self, trunk: Trunk, grid: tuple[int, int], memory: TextMemory, cache: KVCache, copies: int
    ) -> None:
        self.trunk, self.grid, self.memory, self.cache, self.copies = trunk, grid, memory, cache, copies

    def look(self, frame: Tensor, hidden: Tensor) -> Tensor:
        """Hidden vectors (copies B, L, D) of a frame (B, L, P) with tokens (B, L) hidden; nothing is kept."""
        tokens, mask = frame.repeat(self.copies, 1, 1)[:, None], hidden.repeat(self.copies, 1)[:, None]
        return self.trunk.run(tokens, mask, self.grid, self.memory, self.cache)[:, 0]

    def remember(self, frame: Tensor) -> None:
        """Read a finished frame (B, L, P) and keep its keys and values."""
        self.look(frame, torch.zeros(frame.shape[:2], dtype=torch.bool, device=frame.device))
        self.cache.commit(frame.shape[1])


def _unmask(
    session: _Session,
    draw: Draw,
    like: Tensor,
    sampling: SampleParams,
    temperature: float,
    generator: torch.Generator,
) -> Tensor:
    """One new frame, shaped `like` (B, L, P), revealed in random order over `num_unmask_steps` passes."""
    batch_size, num_tokens = like.shape[:2]
    frame = torch.zeros_like(like)
    hidden = torch.ones(batch_size, num_tokens, dtype=torch.bool, device=like.device)
    order = torch.rand(batch_size, num_tokens, generator=generator, device=like.device).argsort(1)
    left = num_tokens
    for step in range(sampling.num_unmask_steps):
        after = hidden_after(step, sampling.num_unmask_steps, num_tokens, left)
        index = order[:, after:left]
        weight = 1 + (sampling.cfg_scale - 1) * (num_tokens - after) / num_tokens
        tokens = draw(session.look(frame, hidden), index, weight, temperature)
        frame = frame.scatter(1, index[..., None].expand_as(tokens), tokens)
        hidden = hidden.scatter(1, index, False)
        left = after
        if left == 0:
            break
    return frame


def _read_text(trunk: Trunk, text: Tensor, text_mask: Tensor, guided: bool) -> TextMemory:
    """Captions of all rows; with guidance the same rows follow once more with the null text."""
    if not guided:
        return trunk.read_text(text, text_mask)
    drop = torch.arange(2, device=text.device).repeat_interleave(len(text)) == 1
    return trunk.read_text(text.repeat(2, 1, 1), text_mask.repeat(2, 1), drop)


def _temperature(sampling: SampleParams, index: int, given: int, num_frames: int) -> float:
    """Progressive: linear from `temperature` in the first generated frame to `final_temperature`."""
    share = (index - given) / max(1, num_frames - 1 - given)
    return sampling.temperature + (sampling.final_temperature - sampling.temperature) * share

"""Generation: frame by frame over a cache, each frame by iterative unmasking.

Source: VideoMAR (arXiv 2506.14168), section 3; MAR (arXiv 2406.11838) for order, reveal schedule and linear
guidance; DiSA (arXiv 2505.20297) for fewer head steps in later passes.

Axes: B batch, C channels, T latent frames, H W latent rows and columns, L tokens per frame, P token channels,
r tokens revealed in a pass.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from videomar.config import SampleParams
from videomar.config.models import CONDITIONS
from videomar.errors import DataError
from videomar.model.conditions import HISTORY_NOISE
from videomar.model.frames import Frames
from videomar.model.head import Condition
from videomar.model.kv_cache import KVCache
from videomar.model.linear import smallest_batch
from videomar.model.masking import hidden_after
from videomar.model.patchify import patchify, token_grid, unpatchify
from videomar.model.row_noise import RowNoise, pad_rows
from videomar.model.transformer import Memory, Trunk

if TYPE_CHECKING:
    from videomar.model.videomar import VideoMAR


def generate(
    model: "VideoMAR",
    context: Tensor,
    num_frames: int,
    captions: tuple[Tensor, Tensor],
    sampling: SampleParams,
    generator: torch.Generator | Sequence[torch.Generator],
) -> Tensor:
    """Continue clips; see `VideoMAR.generate`. `captions` holds states (B, M, E) and mask (B, M)."""
    patch_size = model.params.patch_size
    made = generate_frames(model, context, num_frames, captions, sampling, generator)
    # Joined as tokens: a decoder's last bits depend on how the latents lie in memory.
    frames = [patchify(frame, patch_size) for frame in (context, *made)]
    return unpatchify(torch.cat(frames, 1), patch_size, token_grid(context, patch_size))


@torch.no_grad()
def generate_frames(
    model: "VideoMAR",
    context: Tensor,
    num_frames: int,
    captions: tuple[Tensor, Tensor],
    sampling: SampleParams,
    generator: torch.Generator | Sequence[torch.Generator],
) -> Iterator[Tensor]:
    """The new latent frames (B, C, 1, H, W), each as soon as it is done; who stops asking stops the work."""
    _check_context(context, num_frames)
    _check_told(model.params.conditions, sampling)
    batch_size, given = len(context), context.shape[2]
    grid = token_grid(context, model.params.patch_size)
    num_tokens = grid[0] * grid[1]
    count = max(batch_size, smallest_batch(context.device))
    noise = RowNoise(generator, batch_size).padded(count)
    text, text_mask = (pad_rows(part, count) for part in captions)
    guided = sampling.cfg_scale != 1
    session = _Session(
        model.trunk,
        grid,
        _read_captions(model.trunk, text, text_mask, sampling, guided),
        KVCache(min(num_frames, sampling.window_frames or num_frames) * num_tokens),
        2 if guided else 1,
    )
    for frame in patchify(pad_rows(context, count), model.params.patch_size).unbind(1):
        session.remember(frame, 0.0)
    for index in range(given, num_frames):
        frame = _unmask(model, session, noise, sampling, _temperature(sampling, index, given, num_frames))
        if index > given:
            frame = frame.clamp(-sampling.clamp, sampling.clamp)
        yield unpatchify(frame[:batch_size, None], model.params.patch_size, grid)
        if index < num_frames - 1:
            level = sampling.history_noise
            mixed = torch.lerp(frame, noise.normal(*frame.shape[1:]), level) if level else frame
            session.remember(mixed, level)


class _Session:
    """The trunk over one batch of clips: its captions, its finished frames, and rows doubled for guidance."""

    def __init__(
        self, trunk: Trunk, grid: tuple[int, int], memory: Memory, cache: KVCache, copies: int
    ) -> None:
        self.trunk, self.grid, self.memory, self.cache, self.copies = trunk, grid, memory, cache, copies
        self.time = 0

    def look(self, frame: Tensor, hidden: Tensor, copies: int, level: float = 0.0) -> Tensor:
        """Hidden vectors (copies B, L, D) of a frame (B, L, P) with tokens (B, L) hidden; nothing is kept.

        The first copy is that with the caption; `level` is the share of noise in the frame.
        """
        self.cache.make_room(frame.shape[1])
        frames = Frames(
            frame.repeat(copies, 1, 1)[:, None],
            hidden.repeat(copies, 1)[:, None],
            self.grid,
            torch.tensor([self.time], device=frame.device),
            noise_levels=torch.tensor([[level]], device=frame.device),
        )
        return self.trunk.run(frames, self.memory.rows(copies * len(frame)), self.cache)[:, 0]

    def remember(self, frame: Tensor, level: float) -> None:
        """Read a finished frame (B, L, P) and keep its keys and values."""
        nothing = torch.zeros(frame.shape[:2], dtype=torch.bool, device=frame.device)
        self.look(frame, nothing, self.copies, level)
        self.cache.commit(frame.shape[1])
        self.time += 1


def _unmask(
    model: "VideoMAR", session: _Session, noise: RowNoise, sampling: SampleParams, temperature: float
) -> Tensor:
    """One new frame (B, L, P), revealed in random order over `num_unmask_steps` passes."""
    num_tokens, channels = session.grid[0] * session.grid[1], model.head.token_channels
    order = noise.orders(num_tokens)
    frame = torch.zeros(*order.shape, channels, device=order.device)
    hidden = torch.ones_like(order, dtype=torch.bool)
    left, step = num_tokens, 0
    while left:
        after = hidden_after(step, sampling.num_unmask_steps, num_tokens, left)
        index = order[:, after:left]
        weight = _guidance_weight(sampling, 1 - after / num_tokens)
        seen = session.look(frame, hidden, 1 if weight == 1 else session.copies)
        shown = torch.take_along_dim(seen, index.repeat(len(seen) // len(index), 1)[..., None], 1)
        tokens = _draw(model, shown, weight, temperature, _head_steps(sampling, step), noise)
        frame = frame.scatter(1, index[..., None].expand_as(tokens), tokens)
        hidden = hidden.scatter(1, index, False)
        left, step = after, step + 1
    return frame


def _draw(
    model: "VideoMAR", shown: Tensor, weight: float, temperature: float, steps: int, noise: RowNoise
) -> Tensor:
    """Tokens (B, r, P) from hidden vectors (copies B, r, D) of the places to reveal."""

    def draw() -> Tensor:
        return noise.normal(shown.shape[1], model.head.token_channels)

    first, *null = shown.split(noise.count)
    condition = Condition(first, null[0] if null else None, weight)
    return model.head.sample(condition, temperature, steps, draw)


def _read_captions(
    trunk: Trunk, text: Tensor, text_mask: Tensor, sampling: SampleParams, guided: bool
) -> Memory:
    """Captions and conditions of all rows; with guidance the same rows follow once more without both."""
    told = {name: getattr(sampling, name) for name in CONDITIONS if name != HISTORY_NOISE}
    conditions = {
        name: torch.tensor([value], device=text.device) for name, value in told.items() if value is not None
    }
    if not guided:
        return trunk.read(text, text_mask, conditions)
    drop = torch.arange(2, device=text.device).repeat_interleave(len(text)) == 1
    return trunk.read(text.repeat(2, 1, 1), text_mask.repeat(2, 1), conditions, drop)


def _guidance_weight(sampling: SampleParams, revealed: float) -> float:
    """Linear in the revealed share of the frame; 1, which needs no null branch, below `cfg_from`."""
    return 1 + (sampling.cfg_scale - 1) * revealed if revealed >= sampling.cfg_from else 1.0


def _head_steps(sampling: SampleParams, step: int) -> int:
    """Head steps in pass `step` of a frame: linear from the first pass to the last."""
    share = step / max(1, sampling.num_unmask_steps - 1)
    first, last = sampling.num_diffusion_steps, sampling.final_diffusion_steps
    return round(first + (last - first) * share)


def _temperature(sampling: SampleParams, index: int, given: int, num_frames: int) -> float:
    """Progressive: linear from the first generated frame towards what the frame after the last would have."""
    share = (index - given) / (num_frames - given)
    return sampling.temperature + (sampling.final_temperature - sampling.temperature) * share


def _check_told(known: Sequence[str], sampling: SampleParams) -> None:
    for name in CONDITIONS:
        value = getattr(sampling, name)
        if value not in (None, 0.0 if name == HISTORY_NOISE else None) and name not in known:
            raise DataError(
                f"sample.{name}: got {value}, expected none: this model was not trained to be told; "
                f"add {name} to model.conditions and train"
            )


def _check_context(context: Tensor, num_frames: int) -> None:
    given = context.shape[2]
    if not 1 <= given < num_frames:
        raise DataError(
            f"context: got {given} latent frames, expected 1 to {num_frames - 1}; ask for a longer clip"
        )
    wrong = int((~context.isfinite()).sum())
    if wrong:
        raise DataError(
            f"context: got {wrong} values of {context.numel()} that are not finite, expected none; "
            "look at the picture and the tokenizer it came from"
        )

"""Generation: frame by frame over a cache, each frame by iterative unmasking.

Source: VideoMAR (arXiv 2506.14168), section 3; MAR (arXiv 2406.11838) for order, reveal schedule and linear
guidance; DiSA (arXiv 2505.20297) for fewer head steps in later passes.

Axes: B batch, C channels, T latent frames, H W latent rows and columns, L tokens per frame, P token channels,
D hidden size, r tokens revealed in a pass, R rows: B, or 2 B with guidance (the captioned ones first).
"""

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from videomar.compute.device import autocast, has_bfloat16
from videomar.config import SampleParams
from videomar.config.models import CONDITIONS
from videomar.errors import DataError
from videomar.model.conditions import HISTORY_NOISE
from videomar.model.frames import Frames
from videomar.model.head import DiffusionHead, GuidedHidden
from videomar.model.kv_cache import KVCache
from videomar.model.linear import in_bfloat16, smallest_batch
from videomar.model.patchify import patchify, token_grid, unpatchify
from videomar.model.replay import Replayed
from videomar.model.rope import rotation_at
from videomar.model.transformer import Conditioning, Trunk

# Recording a pass takes the time of three.
_MANY_PASSES = 8
# Operations of a layer that take one thread a few milliseconds.
_WORTH_THREADS = 2e8


@torch.no_grad()
def generate_frames(
    trunk: Trunk,
    head: DiffusionHead,
    context: Tensor,
    num_frames: int,
    captions: tuple[Tensor, Tensor],
    sampling: SampleParams,
    generator: torch.Generator | Sequence[torch.Generator],
) -> Iterator[Tensor]:
    """Yield each new latent frame (B, C, 1, H, W) as it is generated; stop iterating to cancel."""
    _check_context(context, num_frames)
    _check_conditions(trunk.params.conditions, sampling)
    device = context.device
    if has_bfloat16(device):
        trunk, head = in_bfloat16(trunk), in_bfloat16(head)
    patch_size, (batch_size, _, given) = trunk.params.patch_size, context.shape[:3]
    grid = token_grid(context, patch_size)
    num_tokens = grid[0] * grid[1]
    # Copies of the last row: a clip generated alone gets the same bits as one beside others.
    count = max(batch_size, smallest_batch(device))
    noise = RowNoise(generator, batch_size).padded(count)
    text, text_mask = (_pad_rows(part, count) for part in captions)
    guided = sampling.cfg_scale != 1
    window = min(num_frames, sampling.window_frames or num_frames)
    cache = KVCache(window * num_tokens, sampling.sink_frames * num_tokens)
    sampler = _Sampler(head, noise, sampling)
    rows = count * (2 if guided else 1)
    # No `yield` is inside such a context: the caller's own code would run in it.
    with _computing(trunk, device, rows * num_tokens):
        conditioning = _encode_captions(trunk, text, text_mask, sampling, guided)
        session = _Session(trunk, grid, conditioning, cache, 2 if guided else 1, num_frames)
        for frame in patchify(_pad_rows(context, count), patch_size).unbind(1):  # (B, L, P) each
            session.append(frame, 0.0)
    for index in range(given, num_frames):
        temperature = _temperature(sampling, index, given, num_frames)
        with _computing(trunk, device, rows * num_tokens):
            frame = _unmask(session, sampler, temperature)
        if index > given:
            frame = frame.clamp(-sampling.clamp, sampling.clamp)
        yield unpatchify(frame[:batch_size, None], patch_size, grid)
        if index < num_frames - 1:
            # Later frames see this one as training's frames see their history: with noise, and its level.
            level = sampling.history_noise
            mixed = torch.lerp(frame, noise.normal(*frame.shape[1:]), level) if level else frame
            with _computing(trunk, device, rows * num_tokens):
                session.append(mixed, level)


@contextlib.contextmanager
def _computing(trunk: Trunk, device: torch.device, num_tokens: int) -> Iterator[None]:
    """Context of passes over `num_tokens` of all rows: the device's number format, and one thread if small.

    Threads wait for each other at every operation. For small ones that is longer than they compute, and ten
    times as long where another program takes one of the cores (docs/LOG.md).
    """
    params, threads = trunk.params, torch.get_num_threads()
    layer = 2 * num_tokens * params.hidden_size**2 * params.mlp_ratio
    alone = device.type == "cpu" and layer < _WORTH_THREADS
    if alone:
        torch.set_num_threads(1)
    try:
        with autocast(device):
            yield
    finally:
        if alone:
            torch.set_num_threads(threads)


class RowNoise:
    """One random generator per row: what a clip draws does not depend on the clips generated beside it."""

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
        """Draw standard normal noise (B, *shape)."""
        return _stacked([torch.randn(shape, generator=g, device=g.device) for g in self._generators])

    def orders(self, size: int) -> Tensor:
        """Draw a permutation of `size` tokens for each row, (B, size)."""
        return torch.stack([torch.randperm(size, generator=g, device=g.device) for g in self._generators])

    def padded(self, count: int) -> "RowNoise":
        """Return these and copies of the last row's generator, `count` in all."""
        last = self._generators[-1]
        copies = [last.clone_state() for _ in range(count - self.count)]
        return RowNoise([*self._generators, *copies], self.count + len(copies))


def _stacked(rows: list[Tensor]) -> Tensor:
    # A single row needs no kernel.
    return rows[0][None] if len(rows) == 1 else torch.stack(rows)


def _pad_rows(x: Tensor, count: int) -> Tensor:
    """Repeat the last row of (B, ...) until there are `count` rows."""
    missing = count - len(x)
    return torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing > 0 else x


class _Session:
    """The trunk over one batch of clips: its captions and its finished frames."""

    def __init__(
        self,
        trunk: Trunk,
        grid: tuple[int, int],
        conditioning: Conditioning,
        cache: KVCache,
        copies: int,
        num_frames: int,
    ) -> None:
        self.trunk, self.grid, self.conditioning, self.cache = trunk, grid, conditioning, cache
        self.copies = copies
        """R / B."""
        self.num_frames = 0
        """Finished frames."""
        rows, num_tokens = len(conditioning.text_mask) // copies, grid[0] * grid[1]
        self.previous = conditioning.text_mask.new_zeros(rows, num_tokens, trunk.z_proj.in_features).float()
        """The last of them, (B, L, P); zeros before the first."""
        self._dropped = 0
        """Frames that the window has left behind."""
        # Of all frames of the clip, once; a tensor made for each pass would be copied from the host.
        self._positions = torch.arange(num_frames, device=conditioning.text_mask.device)
        self._rotation = trunk.rotation_of(self._positions, grid)
        # By a number of frames, whatever the place in the picture.
        self._times = rotation_at(F.pad(self._positions[:, None], (0, 2)), trunk.params.rope_axis_dims)
        self._passes: dict[int, Replayed] = {}
        """Passes over the next frame, by their copies."""

    def forward(self, frame: Tensor, hidden: Tensor, copies: int, level: float = 0.0) -> Tensor:
        """Return hidden vectors (copies B, L, D) of the next frame (B, L, P) with tokens (B, L) hidden.

        Nothing is kept. The first copy has the caption. `level` is the share of noise in the frame.
        """
        num_tokens, device = frame.shape[1], frame.device
        self._make_room(num_tokens)
        frames = Frames(
            frame.repeat(copies, 1, 1)[:, None],  # (R, 1, L, P)
            hidden.repeat(copies, 1)[:, None],  # (R, 1, L)
            self.previous.repeat(copies, 1, 1)[:, None],  # (R, 1, L, P)
            self.grid,
            self._positions[self.num_frames : self.num_frames + 1],
            noise_levels=torch.full((1, 1), level, device=device),
        )
        conditioning = self.conditioning.first_rows(copies * len(frame))
        rotation = self._rotation.tokens(self.num_frames * num_tokens, num_tokens)
        return self.trunk.forward_tokens(frames, conditioning, self.cache, rotation)[:, 0]

    def forward_again(self, frame: Tensor, hidden: Tensor, copies: int) -> Tensor:
        """Return the same as `forward` for a frame that gets many passes; the next one overwrites it."""
        # What moves the cache is no kernel of a pass.
        self._make_room(frame.shape[1])
        if copies not in self._passes:
            self._passes[copies] = Replayed(lambda frame, hidden: (self.forward(frame, hidden, copies),))
        return self._passes[copies](frame, hidden)[0]

    def _make_room(self, num_tokens: int) -> None:
        """Let the window slide if it is full; the sink's times follow it."""
        dropped = self.cache.make_room(num_tokens) // num_tokens
        if dropped and self.cache.sink:
            self._dropped += dropped
            self.cache.turn_sink(self._times.tokens(self._dropped, 1))

    def append(self, frame: Tensor, level: float) -> None:
        """Append a finished frame (B, L, P): its keys and values stay in the cache."""
        nothing = torch.zeros(frame.shape[:2], dtype=torch.bool, device=frame.device)
        self.forward(frame, nothing, self.copies, level)
        self.cache.commit(frame.shape[1])
        self.num_frames += 1
        self.previous = frame
        self._passes.clear()  # their kernels know the places of this frame


class _Sampler:
    """The head as it samples one batch of clips: its noise, and its kernels once recorded."""

    def __init__(self, head: DiffusionHead, noise: RowNoise, sampling: SampleParams) -> None:
        self.head, self.noise, self.sampling = head, noise, sampling
        self._step = Replayed(head.step)

    def draw(self, shown: Tensor, weight: float, temperature: float, step: int) -> Tensor:
        """Sample what the head draws (B, r, P) from the hidden vectors (R, r, D) revealed in pass `step`."""

        def noise() -> Tensor:
            return self.noise.normal(shown.shape[1], self.head.token_channels)

        captioned, *null = shown.split(self.noise.count)
        guided = GuidedHidden(captioned, null[0] if null else None, weight)
        return self.head.sample(guided, temperature, _head_steps(self.sampling, step), noise, self._step)


def _unmask(session: _Session, sampler: _Sampler, temperature: float) -> Tensor:
    """Generate a frame (B, L, P): its tokens are revealed in random order over `num_unmask_steps` passes."""
    sampling, num_tokens = sampler.sampling, session.grid[0] * session.grid[1]
    reveal_order = sampler.noise.orders(num_tokens)  # (B, L), read from the end: the last r hidden come next
    shape = (*reveal_order.shape, sampler.head.token_channels)
    frame = torch.zeros(shape, device=reveal_order.device)  # (B, L, P)
    hidden = torch.ones_like(reveal_order, dtype=torch.bool)  # (B, L)
    forward = session.forward_again if sampling.num_unmask_steps >= _MANY_PASSES else session.forward
    left, step = num_tokens, 0
    while left:
        after = hidden_after(step, sampling.num_unmask_steps, num_tokens, left)
        index = reveal_order[:, after:left]  # (B, r)
        weight = _guidance_weight(sampling, 1 - after / num_tokens)
        # Without guidance in this pass only the captioned copy is computed.
        vectors = forward(frame, hidden, 1 if weight == 1 else session.copies)  # (R, L, D)
        index_by_row = index.repeat(len(vectors) // len(index), 1)[..., None]  # (R, r, 1)
        shown = torch.take_along_dim(vectors, index_by_row, 1)  # (R, r, D)
        drawn = sampler.draw(shown, weight, temperature, step)
        places = index[..., None].expand_as(drawn)
        tokens = sampler.head.from_drawn(drawn, session.previous.gather(1, places))
        frame = frame.scatter(1, places, tokens)
        hidden = hidden.scatter(1, index, False)
        left, step = after, step + 1
    return frame


def hidden_after(step: int, num_steps: int, num_tokens: int, hidden: int) -> int:
    """Tokens still hidden after pass `step` of `num_steps`, when `hidden` were before it.

    The cosine schedule of MAR, held between 1 and hidden - 1 so that every pass reveals something; the last
    pass reveals the rest.
    """
    if step == num_steps - 1 or hidden <= 1:
        return 0
    planned = math.floor(num_tokens * math.cos(math.pi / 2 * (step + 1) / num_steps))
    return max(1, min(planned, hidden - 1))


def _encode_captions(
    trunk: Trunk, text: Tensor, text_mask: Tensor, sampling: SampleParams, guided: bool
) -> Conditioning:
    """Encode captions and conditions of all rows; with guidance the same rows follow without both."""
    values = {name: getattr(sampling, name) for name in CONDITIONS if name != HISTORY_NOISE}
    conditions = {
        name: torch.full((1,), value, device=text.device)
        for name, value in values.items()
        if value is not None
    }
    if not guided:
        return trunk.encode_text(text, text_mask, conditions)
    drop = torch.arange(2, device=text.device).repeat_interleave(len(text)) == 1
    return trunk.encode_text(text.repeat(2, 1, 1), text_mask.repeat(2, 1), conditions, drop)


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


def _check_conditions(known: Sequence[str], sampling: SampleParams) -> None:
    for name in CONDITIONS:
        value = getattr(sampling, name)
        if value not in (None, 0.0 if name == HISTORY_NOISE else None) and name not in known:
            raise DataError(
                f"sample.{name}: got {value}, expected none: this model was trained without this condition; "
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
            "check the picture and the tokenizer it came from"
        )

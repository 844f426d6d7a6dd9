"""The samplers that `benchmarks.sampling` compares, and the models that they sample from.

All samplers run the same code on the same weights, so a difference is one of method: `Sampler` names the
method, and `DIFFERENCES` the single steps from the paper's to ours. The paper's sampler has our cache, our
batches and our recorded kernels; what it pays for is what it asks for.

Written without presets/, pyarrow and pydantic: bare GPU machines have none of them.

Axes: B batch, C channels, T latent frames, H W latent rows and columns, L tokens per frame, P token channels,
R rows: B, or 2 B with guidance; M caption tokens, E caption channels, D hidden size.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from benchmarks.record import ROOT
from benchmarks.training_subjects import PRESETS
from videomar.checkpoint import load
from videomar.checkpoint.manifest import ModelShape
from videomar.compute.seeding import step_generator
from videomar.config import SampleParams
from videomar.model import generation
from videomar.model.frames import Frames, frames_before
from videomar.model.generation import generate_frames
from videomar.model.transformer import Trunk
from videomar.model.videomar import VideoMAR

SHIPPED = ROOT / "videomar/shipped"
PAPER = SampleParams(
    num_unmask_steps=64, num_diffusion_steps=100, final_diffusion_steps=100, cfg_scale=3.0, cfg_from=0.0,
    temperature=0.95, final_temperature=0.9, clamp=2.0, window_frames=0, sink_frames=0, history_noise=0.0,
    carry=0.0, fps=None, motion=None,
)  # fmt: skip
"""Section `sample` of presets/paper.yaml."""
MEDIUM = SampleParams(
    num_unmask_steps=16, num_diffusion_steps=25, final_diffusion_steps=10, cfg_scale=2.0, cfg_from=0.2,
    temperature=0.9, final_temperature=0.9, clamp=6.0, window_frames=0, sink_frames=1, history_noise=0.05,
    carry=0.1, fps=None, motion=None,
)  # fmt: skip
"""The same of presets/medium.yaml."""
_LATENT_CHANNELS = 16


class Subject(NamedTuple):
    """A model that is sampled from, and the clips that it was made for."""

    name: str
    model: VideoMAR
    shape: ModelShape
    sampling: SampleParams
    """Our way to sample from it."""
    num_frames: int
    """Latent frames of a clip as trained, T, the given one included."""
    side: int
    """Latent rows and columns, H = W."""

    @property
    def tokens_per_frame(self) -> int:
        """L."""
        return (self.side // self.shape.params.patch_size) ** 2

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.model.trunk.mask_token.device


class Inputs(NamedTuple):
    """What clips are made from: random numbers with the deviation of the real ones, as time needs no more."""

    context: Tensor
    """(B, C, 1, H, W)."""
    text: Tensor
    """(B, M, E)."""
    text_mask: Tensor
    """(B, M), all real."""

    @classmethod
    def draw(cls, subject: Subject, batch: int) -> "Inputs":
        """Draw the same inputs for the same sizes; the first clips of a larger batch are others."""
        shape, noise = subject.shape, step_generator(3, 0, device=subject.device)
        sizes = (
            (batch, shape.latent_channels, 1, subject.side, subject.side),
            (batch, shape.max_text_tokens, shape.text_channels),
        )
        context, text = (torch.randn(size, generator=noise, device=noise.device) for size in sizes)
        return cls(context, text, torch.ones(text.shape[:2], dtype=torch.bool, device=noise.device))


@dataclass(frozen=True, slots=True)
class Sampler:
    """One way to generate clips."""

    sampling: SampleParams
    text_reused: bool = True
    """Whether keys and values of the caption are computed once a clip, and not in every pass."""
    cached: bool = True
    """Whether finished frames stay in the cache; without it every pass computes all frames so far."""
    recorded: bool = True
    """Whether passes and head steps are recorded and replayed; on a CPU they never are."""
    batched: bool = True
    """Whether the clips of a batch are generated together, and not one after the other."""
    least_rows: int = 0
    """Rows that a smaller batch is padded to, where that is more than ours needs."""

    def frames(self, model: VideoMAR, inputs: Inputs, num_frames: int) -> Iterator[Tensor]:
        """Yield new latent frames (B, C, 1, H, W); clip by clip, (1, C, 1, H, W), if it does not batch."""
        rows = range(len(inputs.context))
        for part in [list(rows)] if self.batched else [[row] for row in rows]:
            context, text, text_mask = (values[part] for values in inputs)
            noise = [step_generator(4, row, device=context.device) for row in part]
            with self._in_place():
                yield from generate_frames(
                    model.trunk, model.head, context, num_frames, (text, text_mask), self.sampling, noise
                )

    @contextlib.contextmanager
    def _in_place(self) -> Iterator[None]:
        """Let `generate_frames` do what this sampler does differently."""
        with contextlib.ExitStack() as changes:
            if not self.text_reused:
                each_pass = functools.partialmethod(Trunk.encode_text, reused=False)
                changes.enter_context(mock.patch.object(Trunk, "encode_text", each_pass))
            if not self.cached:
                changes.enter_context(mock.patch.object(generation, "_Session", _UncachedSession))
            if self.least_rows:
                changes.enter_context(mock.patch.object(generation, "smallest_batch", self._least_rows))
            if not self.recorded:
                changes.enter_context(without_recordings())
            yield

    def _least_rows(self, _device: torch.device) -> int:
        return self.least_rows


class _UncachedSession(generation._Session):
    """The trunk over one batch of clips without a cache: a pass computes all frames so far."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._finished: list[Tensor] = []
        """Frames (B, L, P)."""
        self._levels: list[float] = []
        """Share of noise in each."""

    def forward(self, frame: Tensor, hidden: Tensor, copies: int, level: float = 0.0) -> Tensor:
        """Return hidden vectors (copies B, L, D) of the next frame; see the class with a cache."""
        tokens = torch.stack([*self._finished, frame], 1).repeat(copies, 1, 1, 1)  # (R, T, L, P)
        token_mask = torch.zeros(tokens.shape[:3], dtype=torch.bool, device=frame.device)
        token_mask[:, -1] = hidden.repeat(copies, 1)
        positions = self._positions[: self.num_frames + 1]
        frames = Frames(
            tokens,
            token_mask,
            frames_before(tokens),
            self.grid,
            positions,
            positions[:, None] >= positions,
            torch.tensor([[*self._levels, level]], device=frame.device),
        )
        rotation = self._rotation.tokens(0, tokens.shape[1] * tokens.shape[2])
        conditioning = self.conditioning.first_rows(len(tokens))
        return self.trunk.forward_tokens(frames, conditioning, None, rotation)[:, -1]

    def append(self, frame: Tensor, level: float) -> None:
        """Append a finished frame (B, L, P): no pass writes it anywhere."""
        self._finished.append(frame)
        self._levels.append(level)
        self.num_frames += 1
        self.previous = frame
        self._passes.clear()

    def _make_room(self, num_tokens: int) -> None:
        """Do nothing: there is no window."""


Take = Callable[[Sampler, Sampler], Sampler]
"""Returns the first sampler with one thing of the second."""


def _of_sampling(*keys: str) -> Take:
    def take(base: Sampler, other: Sampler) -> Sampler:
        values = {key: getattr(other.sampling, key) for key in keys}
        return replace(base, sampling=replace(base.sampling, **values))

    return take


def _head_steps(base: Sampler, other: Sampler) -> Sampler:
    """Take the steps of the first pass; those of the last keep their share of them."""
    return _with_steps(base, other.sampling.num_diffusion_steps, base.sampling)


def _annealing(base: Sampler, other: Sampler) -> Sampler:
    """Take the share of the steps that is left in the last pass."""
    return _with_steps(base, base.sampling.num_diffusion_steps, other.sampling)


def _with_steps(base: Sampler, first: int, annealed: SampleParams) -> Sampler:
    last = max(1, round(first * annealed.final_diffusion_steps / annealed.num_diffusion_steps))
    steps = {"num_diffusion_steps": first, "final_diffusion_steps": last}
    return replace(base, sampling=replace(base.sampling, **steps))


DIFFERENCES: Mapping[str, Take] = {
    "text keys": lambda base, other: replace(base, text_reused=other.text_reused),
    "null branch": _of_sampling("cfg_scale", "cfg_from"),
    "head steps": _head_steps,
    "annealing": _annealing,
    "reveals": _of_sampling("num_unmask_steps"),
}
"""In which ways the paper's sampler and ours differ in cost, in the order of the ladder between them."""


def our_sampler(subject: Subject) -> Sampler:
    """Return the sampler of this project for a model."""
    return Sampler(subject.sampling)


def paper_sampler(subject: Subject) -> Sampler:
    """Return the paper's sampler: a pass for each token up to 64, guided always, 100 head steps in each.

    With the flow head of these models the steps are Euler's, which cost the same as those of DDPM.
    """
    passes = min(PAPER.num_unmask_steps, subject.tokens_per_frame)
    return Sampler(replace(PAPER, num_unmask_steps=passes), text_reused=False)


def ablated(ours: Sampler, paper: Sampler, device: torch.device) -> dict[str, Sampler | None]:
    """Return our sampler with one thing at a time taken back; None where that changes nothing.

    Cache and batches are the paper's, too: what they buy is measured against samplers without.
    """
    found = {f"{name} of the paper": take(ours, paper) for name, take in DIFFERENCES.items()}
    found |= {"without cache": replace(ours, cached=False), "clip by clip": replace(ours, batched=False)}
    recorded = replace(ours, recorded=False) if device.type == "cuda" else ours
    found |= {"without recorded kernels": recorded}
    return {name: None if sampler == ours else sampler for name, sampler in found.items()}


def climbed(ours: Sampler, paper: Sampler) -> dict[str, Sampler]:
    """Return the paper's sampler with one thing more of ours at a time, if it changes something."""
    reached, found = paper, {}
    for name, take in DIFFERENCES.items():
        before, reached = reached, take(reached, ours)
        if reached != before:
            found[f"and our {name}"] = reached
    return found


def load_subject(name: str, device: torch.device, depth: int | None = None) -> Subject:
    """Load the shipped model, or draw the weights of a preset's network of `depth` blocks; None = all."""
    if name == "shipped":
        loaded = load(SHIPPED, str(device))
        # Not `load_generation_params`, which needs a YAML parser; the file is JSON.
        params = json.loads((SHIPPED / "params.yaml").read_text("utf-8"))
        ingest, tokenizer = params["ingest"], params["tokenizer"]
        return Subject(
            name=name,
            model=loaded.model,
            shape=loaded.shape,
            sampling=SampleParams(**params["sample"]),
            num_frames=1 + (ingest["num_frames"] - 1) // tokenizer["time_stride"],
            side=ingest["size_px"] // tokenizer["space_stride"],
        )
    preset = PRESETS[name]
    network = replace(preset.model, depth=depth or preset.model.depth)
    shape = ModelShape(network, _LATENT_CHANNELS, *reversed(preset.caption))
    side = preset.size_px // preset.space_stride
    return Subject(name, random_model(shape, device), shape, MEDIUM, preset.latent_frames, side)


def random_model(shape: ModelShape, device: torch.device) -> VideoMAR:
    """Draw the weights of a network, also those that training finds at zero."""
    with torch.device(device):
        network = shape.build().initialise(step_generator(0, -1, device=device)).eval().requires_grad_(False)
        # Zero-initialised layers would make every token zero.
        for weight in network.head.net.final.parameters():
            weight.normal_(0, 0.02, generator=step_generator(1, 0, device=device))
    return network


def without_recordings() -> contextlib.AbstractContextManager[object]:
    """Start every kernel by itself, as where there are no CUDA graphs."""
    return mock.patch.object(generation, "Replayed", lambda function: function)


@contextlib.contextmanager
def in_float32() -> Iterator[None]:
    """Generate as on hardware without bfloat16."""
    with (
        mock.patch.object(generation, "has_bfloat16", return_value=False),
        mock.patch.object(generation, "autocast", return_value=contextlib.nullcontext()),
    ):
        yield

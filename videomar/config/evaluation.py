"""Sections `sample`, `suite`, `gate`: how clips are generated and evaluated, and when a model is promoted."""

from typing import Annotated

from videomar.config.section import SHARE, Device, Resource, Rule, at_least, require, section

_WINDOW = Rule("0, or at least 2", lambda value: value == 0 or value >= 2)
_CARRY = Rule("0, or 0.001 to 1", lambda value: value == 0 or 0.001 <= value <= 1)
_CONFIDENCE = Rule("between 0 and 1", lambda value: 0 < value < 1)


@section("sample")
class SampleParams:
    """How a clip is generated. Section `sample`."""

    num_unmask_steps: Annotated[int, at_least(1)]
    """Trunk passes per frame."""
    num_diffusion_steps: Annotated[int, at_least(1)]
    """Head steps per token in the first pass of a frame."""
    final_diffusion_steps: Annotated[int, at_least(1)]
    """The same in its last pass; between them it changes linearly (DiSA, arXiv 2505.20297)."""
    cfg_scale: float
    """Guidance weight once all tokens are revealed; 1 = off."""
    cfg_from: Annotated[float, SHARE]
    """Revealed share of a frame, 0..1, below which guidance is off and its null branch is not computed."""
    temperature: float
    """Scale of the head's noise in the first generated frame; 1 = as trained."""
    final_temperature: float
    """The same at the end of the clip; between them it changes linearly."""
    clamp: float
    """Largest magnitude of a token after the first generated frame."""
    window_frames: Annotated[int, _WINDOW]
    """Latent frames that a new frame attends to, itself included; 0 = all. For clips longer than trained."""
    sink_frames: Annotated[int, at_least(0)] = 0
    """First latent frames that stay visible when the window slides, as if right before it; 0 = none.
    With `window_frames` there must be room for them, one more and the new one."""
    history_noise: Annotated[float, SHARE]
    """Noise level, 0..1, added to finished frames and given to the model as a condition; 0 = none."""
    carry: Annotated[float, _CARRY]
    """How much a decoded place may change, in units of [-1, 1], before it loses the detail that the tokenizer
    did not keep of the last given picture; 0 = the frames as decoded. See videomar/sampling/carry.py."""
    fps: float | None
    """Frames a second given as a condition; null = none."""
    motion: float | None
    """Motion score (mean absolute change of neighbouring frames, 0..255) as a condition; null = none."""

    def __post_init__(self) -> None:
        fits = not self.window_frames or self.sink_frames <= self.window_frames - 2
        rule = f"at most sample.window_frames {self.window_frames} less 2"
        require(fits, "sample.sink_frames", self.sink_frames, rule)


@section("suite")
class SuiteParams:
    """Which held-out clips are generated, and which metrics score them. Section `suite`."""

    simulated_clips: Annotated[int, at_least(0)]
    real_clips: Annotated[int, at_least(0)]
    context_frames: tuple[int, ...]
    """Latent frames of context, one entry for each kind of task; 1 (one picture) and 2 must be among them."""
    seeds: Annotated[int, at_least(1)]
    """Clips generated for each picture and prompt, each with other noise, to separate luck from skill."""
    extra_clips: Annotated[int, at_least(0)]
    """Clips of each group that are also generated twice as long, 1.5 times as large, and with a wrong prompt,
    from every seed."""
    long_clips: Annotated[int, at_least(0)] = 0
    """Simulated clips that are also generated four times as long and 1.5 times as large, beside what the
    simulator draws of the same scene; scored at twice the length, too."""
    metric_clips: Annotated[int, at_least(0)]
    """Clips of each group that metrics without a network score; PSNR scores all."""
    feature_clips: Annotated[int, at_least(0)]
    """Clips of each group that metrics with a network score, too: tenths of a second for each clip."""
    extractor: str
    """Features of the Fréchet distance: `random`, `backbone`, or a folder with a VideoMAE or an I3D."""
    batch_size: Annotated[int, at_least(1)]
    threads: Resource[Annotated[int, at_least(1)]]
    device: Device
    """What generates clips, and runs the networks of metrics."""
    seed: int

    def __post_init__(self) -> None:
        frames = self.context_frames
        rule = "different numbers above 0, with 1 and 2"
        fits = {1, 2} <= set(frames) and min(frames) >= 1 and len(set(frames)) == len(frames)
        require(fits, "suite.context_frames", list(frames), rule)
        rule = f"at most suite.metric_clips {self.metric_clips}"
        require(self.feature_clips <= self.metric_clips, "suite.feature_clips", self.feature_clips, rule)
        require(self.extra_clips <= self.metric_clips, "suite.extra_clips", self.extra_clips, rule)


@section("gate")
class GateParams:
    """When a candidate becomes champion. Section `gate`."""

    min_clips: Annotated[int, at_least(2)]
    """The gate ranks models on no fewer clips than this, and compares secondary figures on no fewer shots."""
    confidence: Annotated[float, _CONFIDENCE]
    """Level of the bootstrap intervals."""
    margin_db: Annotated[float, at_least(0)]
    """How much worse than the champion's a secondary metric may be, decibels."""
    margins: dict[str, float]
    """The same for metrics of the catalogue by name, each in its own unit."""
    seed: int

    def __post_init__(self) -> None:
        for name, margin in self.margins.items():
            require(margin >= 0, f"gate.{name}", margin, "0 or more")

"""Sections of what follows training: sampling, judging."""

from videomar.config.section import Resource, place_of, require, section


@section
class SampleParams:
    """How a clip is generated. Section `sample`."""

    num_unmask_steps: int
    """Trunk passes per frame."""
    num_diffusion_steps: int
    """Head steps per token in the first pass of a frame."""
    final_diffusion_steps: int
    """The same in its last pass; between them it changes linearly (DiSA, arXiv 2505.20297)."""
    cfg_scale: float
    """Guidance weight once all tokens are revealed; 1 = off."""
    cfg_from: float
    """Revealed share of a frame, 0..1, below which guidance is off and its null branch is not computed."""
    temperature: float
    """Scale of the head's noise in the first generated frame; 1 = as trained."""
    final_temperature: float
    """What it tends to towards the end of the clip, linearly."""
    clamp: float
    """Largest magnitude of a token after the first generated frame."""
    window_frames: int
    """Latent frames that a frame in work can see, itself included; 0 = all. For clips longer than trained."""
    history_noise: float
    """Noise level, 0..1, of generated frames once they are finished, told to the model; 0 = none."""
    fps: float | None
    """Frames a second that the model is told; null = not told."""
    motion: float | None
    """Motion score (mean absolute change of neighbouring frames, 0..255) asked for; null = not told."""

    def __post_init__(self) -> None:
        for name in ("num_unmask_steps", "num_diffusion_steps", "final_diffusion_steps"):
            require(getattr(self, name) >= 1, f"sample.{name}", getattr(self, name), "at least 1")
        for name in ("cfg_from", "history_noise"):
            require(0 <= getattr(self, name) <= 1, f"sample.{name}", getattr(self, name), "0 to 1")
        require(
            self.window_frames == 0 or self.window_frames >= 2,
            "sample.window_frames",
            self.window_frames,
            "0, or at least 2",
        )


@section
class SuiteParams:
    """Which held-out clips are generated and judged, and how closely. Section `suite`."""

    simulated_clips: int
    real_clips: int
    context_frames: tuple[int, ...]
    """Latent frames given, one entry for each kind of task; 1 (one picture) and 2 belong to it."""
    seeds: int
    """Clips made of each picture and prompt, each with noise of its own: luck is told from skill by them."""
    extra_clips: int
    """Clips of each group that are also made twice as long, half as large again, and with the wrong prompt
    from every seed."""
    metric_clips: int
    """Clips of each group that every metric without a network is asked of; PSNR is asked of all."""
    feature_clips: int
    """Clips of each group that metrics of a network are asked of, too: tenths of a second for each clip."""
    extractor: str
    """Features of the Fréchet distance: `random`, `backbone`, or a folder with a VideoMAE or an I3D."""
    batch_size: int
    threads: Resource[int]
    seed: int

    def __post_init__(self) -> None:
        frames = self.context_frames
        rule = "different numbers above 0, with 1 and 2"
        fits = {1, 2} <= set(frames) and min(frames) >= 1 and len(set(frames)) == len(frames)
        require(fits, "suite.context_frames", list(frames), rule)
        for name in ("seeds", "batch_size", "threads"):
            where = place_of("suite", SuiteParams, name)
            require(getattr(self, name) >= 1, where, getattr(self, name), "at least 1")
        for name in ("simulated_clips", "real_clips", "extra_clips", "metric_clips", "feature_clips"):
            require(getattr(self, name) >= 0, f"suite.{name}", getattr(self, name), "0 or more")
        rule = f"at most suite.metric_clips {self.metric_clips}"
        require(self.feature_clips <= self.metric_clips, "suite.feature_clips", self.feature_clips, rule)
        require(self.extra_clips <= self.metric_clips, "suite.extra_clips", self.extra_clips, rule)


@section
class GateParams:
    """When a candidate becomes champion. Section `gate`."""

    min_clips: int
    """Fewer judged clips than this are too few to rank."""
    confidence: float
    """Level of the bootstrap intervals."""
    margin_db: float
    """How much worse than the champion a secondary figure may be, decibels."""
    margins: dict[str, float]
    """The same for metrics of the catalogue by name, each in its own unit."""
    seed: int

    def __post_init__(self) -> None:
        require(0 < self.confidence < 1, "gate.confidence", self.confidence, "between 0 and 1")
        require(self.min_clips >= 2, "gate.min_clips", self.min_clips, "at least 2")
        for name, margin in {"margin_db": self.margin_db, **self.margins}.items():
            require(margin >= 0, f"gate.{name}", margin, "0 or more")

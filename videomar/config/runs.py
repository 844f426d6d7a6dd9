"""Sections of a run: training, sampling, judging."""

from videomar.config.section import require, require_one_of, section

OBJECTIVES = ("single_frame", "all_frames")
TIMES = ("logit_normal", "uniform")


@section
class CurriculumStage:
    """One stretch of training. An entry of `train.curriculum`."""

    num_latent_frames: int
    """Latent frames of each clip that are used, T; 0 = all."""
    steps: int
    batch_size: int
    """Clips in one step, over all workers."""


@section
class TrainParams:
    """Optimisation and curriculum. Section `train`."""

    curriculum: tuple[CurriculumStage, ...]
    """Stages in order; the last has the full length."""
    objective: str
    """`single_frame` (the paper: one frame of each clip is learnt) or `all_frames` (all but the first)."""
    learning_rate: float
    """Highest learning rate of AdamW."""
    final_learning_rate_share: float
    """Share of it that is left at the last step (cosine decay)."""
    warmup_steps: int
    weight_decay: float
    betas: tuple[float, float]
    max_grad_norm: float
    ema_decay: float
    batch_multiplier: int
    """Independent draws of time and noise for each hidden token."""
    time_distribution: str
    """Where the flow head is trained between token and noise: `logit_normal` or `uniform`. DDPM: uniform."""
    mask_ratio_min: float
    """Smallest hidden share of a target frame; drawn from a normal (mean, std), truncated to [min, 1]."""
    mask_ratio_mean: float
    mask_ratio_std: float
    cond_drop_prob: float
    """Probability that a clip is trained with the null text, and with all conditions unknown."""
    condition_drop_prob: float
    """Probability that one of `model.conditions` is unknown to a clip, whatever becomes of its caption."""
    history_noise: float
    """Highest noise level, 0..1, added to the finished frames of a clip and told to the model; 0 = none."""
    simulated_share: float
    """Share of each batch drawn from simulated clips, where both kinds are there."""
    log_every: int
    checkpoint_every: int
    keep_checkpoints: int
    num_workers: int
    """Ray Train workers; they share each batch."""
    threads_per_worker: int
    seed: int

    @property
    def max_steps(self) -> int:
        """Steps of all stages together."""
        return sum(stage.steps for stage in self.curriculum)

    def __post_init__(self) -> None:
        require_one_of(self.objective, "train.objective", OBJECTIVES)
        require_one_of(self.time_distribution, "train.time_distribution", TIMES)
        require(0 <= self.history_noise < 1, "train.history_noise", self.history_noise, "0 to below 1")
        require(len(self.curriculum) > 0, "train.curriculum", "no stage", "at least one stage")
        last = self.curriculum[-1].num_latent_frames
        require(last == 0, "train.curriculum", f"a last stage of {last} latent frames", "the full length (0)")
        for stage in self.curriculum:
            rule = f"a multiple of num_workers {self.num_workers}"
            require(
                stage.batch_size % self.num_workers == 0,
                "train.curriculum.batch_size",
                stage.batch_size,
                rule,
            )


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
    """Which held-out clips are generated and judged. Section `suite`."""

    simulated_clips: int
    real_clips: int
    batch_size: int
    threads: int
    seed: int


@section
class GateParams:
    """When a candidate becomes champion. Section `gate`."""

    min_clips: int
    """Fewer judged clips than this are too few to rank."""
    confidence: float
    """Level of the bootstrap intervals."""
    margin_db: float
    """How much worse than the champion a secondary figure may be, decibels."""
    seed: int

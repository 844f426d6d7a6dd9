"""Sections of a run: training, sampling, judging."""

from videomar.config.section import require, section


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
    mask_ratio_min: float
    """Smallest hidden share of the target frame; drawn from a normal (1, mask_ratio_std), truncated."""
    mask_ratio_std: float
    cond_drop_prob: float
    """Probability that a clip is trained with the null text."""
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
    """Head steps per token."""
    cfg_scale: float
    """Guidance weight once all tokens are revealed; 1 = off."""
    temperature: float
    """Scale of the head's starting noise in the first generated frame; 1 = as trained."""
    final_temperature: float
    """The same in the last frame; between them it changes linearly."""
    clamp: float
    """Largest magnitude of a token after the first generated frame."""

    def __post_init__(self) -> None:
        require(self.num_unmask_steps >= 1, "sample.num_unmask_steps", self.num_unmask_steps, "at least 1")
        require(
            self.num_diffusion_steps >= 1,
            "sample.num_diffusion_steps",
            self.num_diffusion_steps,
            "at least 1",
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

"""Section of a training run."""

from videomar.config.search import SearchSpace, Variant
from videomar.config.section import Resource, Selection, place_of, require, require_one_of, section

OBJECTIVES = ("single_frame", "all_frames")
TIMES = ("logit_normal", "uniform")
PRECISIONS = ("float32", "bfloat16")
AUTO = "auto"


@section
class CurriculumStage:
    """One stretch of training. An entry of `train.curriculum`.

    The only keys with defaults in params.yaml, so that a stage stays one short line: what a stage does not
    say is as it was before it.
    """

    num_latent_frames: int
    """Latent frames of each clip that are used, T; 0 = all, 1 = still images."""
    steps: int
    batch_size: int | str
    """Clips in one step, over all workers; `auto` = the largest power of two clips a worker and micro-batch
    within `resources.train.memory_gb`, measured before step 0 and recorded in the run's folder."""
    size_px: int = 0
    """Size that the clips were encoded at, one of `encode`; 0 = the largest."""
    target_loss: float | None = None
    """Validation loss at which the stage ends before its `steps`; null = never."""
    learning_rate: float | None = None
    """Highest learning rate in this stage; null = `train.learning_rate`."""
    objective: str | None = None
    """null = `train.objective`."""
    optimizer: str = "keep"
    """`keep`, or `reset`: moments are forgotten and the learning rate warms up again."""
    ema: str = "keep"
    """`keep`, or `reset`: the moving average starts again from the weights as they are."""

    def __post_init__(self) -> None:
        where = "train.curriculum"
        if isinstance(self.batch_size, str):
            rule = f"a number or `{AUTO}`"
            require(self.batch_size == AUTO, f"{where}.batch_size", self.batch_size, rule)
        else:
            require(self.batch_size >= 1, f"{where}.batch_size", self.batch_size, "at least 1")
        require(self.steps >= 1, f"{where}.steps", self.steps, "at least 1")
        for name in ("num_latent_frames", "size_px"):
            require(getattr(self, name) >= 0, f"{where}.{name}", getattr(self, name), "0 or more")
        rate = self.learning_rate
        require(rate is None or rate > 0, f"{where}.learning_rate", rate, "above 0, or null")
        if self.objective is not None:
            require_one_of(self.objective, f"{where}.objective", OBJECTIVES)
        for name in ("optimizer", "ema"):
            require_one_of(getattr(self, name), f"{where}.{name}", ("keep", "reset"))


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
    draw_latents: bool
    """Draw the latents of a clip anew from their distributions whenever it is seen, instead of taking their
    means; wants `encode.moments`."""
    accumulation: int
    """Micro-batches that each worker's part of a batch is worked through in, to save memory."""
    memory_gb: Resource[float]
    """Memory of one worker that a batch size of `auto` may fill, GB: of the device, or of the process. A run
    whose folder has a batch size recorded keeps it."""
    precision: str
    """`float32`, or `bfloat16`: matrix products in it where the hardware has them, weights in float32."""
    activation_checkpointing: bool
    """Compute each block's activations twice instead of keeping them: less memory, a third more time."""
    compile: bool
    """Compile the blocks with torch.compile: minutes before the first step, which must be won back."""
    validate_every: int
    """Steps between two validations, which the log shows and a stage's `target_loss` looks at; one more comes
    with its last step. 0 = none."""
    validation_clips: int
    """Clips of the split `val`, at most, that the validation loss is the mean of."""
    on_bad_step: Resource[str]
    """At a loss that is not finite, or a spike: `stop`, or `skip` the step's update."""
    spike_factor: float
    """A spike is a loss above this multiple of the median of the stage's latest steps; 0 = no such check."""
    max_skipped_steps: Resource[int]
    """Skipped steps of one stage before the run stops all the same."""
    log_every: int
    preview_every: Resource[int]
    """Steps between two previews, four held-out clips made by the moving average; 0 = none. What they cost is
    the time of sampling, which no figure of speed counts."""
    checkpoint_every: Resource[int]
    """Steps between two checkpoints; one more belongs to the last step of every stage."""
    keep_checkpoints: Resource[int]
    """Newest checkpoints that are kept."""
    keep_best: Resource[bool]
    """Keep the checkpoint of the present stage with the lowest validation loss, too. Where a checkpoint is no
    step of `validate_every`, it is validated for that alone."""
    num_workers: Resource[int]
    """Ray Train workers; they share each batch."""
    sharding: Resource[str]
    """`ddp`: every worker holds the whole model; `fsdp`: each holds a share of weights, their averages and
    optimizer states, for models that do not fit into one device."""
    device: Resource[str]
    """`cuda`: one GPU for each worker; `cpu`; `auto` = `cuda` where the cluster has a GPU at the start."""
    threads_per_worker: Resource[int]
    seed: int
    runs: Selection[tuple[Variant, ...]]
    """Runs side by side, each with parameters of its own; none, here and in `search` = one run of these."""
    search: Selection[SearchSpace]
    """More such runs: every combination of the values listed, or random draws from ranges."""
    num_samples: Selection[int]
    """Random draws, where `search` has a range; drawn by `seed`."""
    select_by: Selection[str]
    """Figure of the runs' logs by which the best becomes the candidate; the lowest wins."""
    asha: Selection[bool]
    """Stop runs early whose `select_by` is in the worse half at the first, second, fourth ... validation of
    the last stage (ASHA, arXiv 1810.05934). Which are, depends on timing: off = each run is deterministic."""

    def __post_init__(self) -> None:
        require_one_of(self.objective, "train.objective", OBJECTIVES)
        require_one_of(self.time_distribution, "train.time_distribution", TIMES)
        require_one_of(self.precision, "train.precision", PRECISIONS)
        require_one_of(self.sharding, "resources.train.sharding", ("ddp", "fsdp"))
        both = self.compile and self.sharding == "fsdp"
        rule = "false with resources.train.sharding: fsdp: together they are untried"
        require(not both, "train.compile", True, rule)
        require_one_of(self.device, "resources.train.device", ("auto", "cpu", "cuda"))
        require_one_of(self.on_bad_step, "resources.train.on_bad_step", ("stop", "skip"))
        self._check_numbers()
        rule = "0 (no check) or above 1"
        require(
            self.spike_factor == 0 or self.spike_factor > 1, "train.spike_factor", self.spike_factor, rule
        )
        rule = "false where runs have several workers"
        require(not self.asha or self.num_workers == 1, "train.asha", "true", rule)
        require(len(self.curriculum) > 0, "train.curriculum", "no stage", "at least one stage")
        last = self.curriculum[-1].num_latent_frames
        require(last == 0, "train.curriculum", f"a last stage of {last} latent frames", "the full length (0)")
        size_px = self.curriculum[-1].size_px
        require(size_px == 0, "train.curriculum", f"a last stage of {size_px} pixels", "the full size (0)")
        parts = self.num_workers * self.accumulation
        rule = f"a multiple of num_workers x accumulation = {parts}"
        for number, stage in enumerate(self.curriculum):
            where = f"train.curriculum.{number}.batch_size"
            fits = isinstance(stage.batch_size, str) or stage.batch_size % parts == 0
            require(fits, where, stage.batch_size, rule)
            alone = stage.batch_size != AUTO or self.sharding == "ddp"
            fsdp = "a number with resources.train.sharding: fsdp, as one process alone measures what fits"
            require(alone, where, stage.batch_size, fsdp)
            aims = stage.target_loss is not None and not self.validate_every
            require(not aims, "train.validate_every", 0, "above 0, as a stage has a target_loss")

    def _check_numbers(self) -> None:
        """Each number by itself."""
        counts = ("accumulation", "validation_clips", "log_every", "checkpoint_every", "keep_checkpoints")
        for name in (*counts, "num_samples", "batch_multiplier", "num_workers", "threads_per_worker"):
            require(getattr(self, name) >= 1, self._place(name), getattr(self, name), "at least 1")
        for name in ("learning_rate", "max_grad_norm", "memory_gb"):
            require(getattr(self, name) > 0, self._place(name), getattr(self, name), "above 0")
        numbers = ("weight_decay", "mask_ratio_std", "warmup_steps", "validate_every", "preview_every")
        for name in (*numbers, "max_skipped_steps"):
            require(getattr(self, name) >= 0, self._place(name), getattr(self, name), "0 or more")
        shares = ("final_learning_rate_share", "mask_ratio_min", "simulated_share")
        for name in (*shares, "cond_drop_prob", "condition_drop_prob"):
            require(0 <= getattr(self, name) <= 1, self._place(name), getattr(self, name), "0 to 1")
        for name in ("history_noise", "ema_decay"):
            require(0 <= getattr(self, name) < 1, self._place(name), getattr(self, name), "0 to below 1")
        fits = all(0 <= beta < 1 for beta in self.betas)
        require(fits, "train.betas", list(self.betas), "two numbers from 0 to below 1")

    @staticmethod
    def _place(key: str) -> str:
        return place_of("train", TrainParams, key)

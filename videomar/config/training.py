"""Section `train`: one training run, and several."""

from typing import Annotated

from videomar.config.search import SearchSpace, Variant
from videomar.config.section import (
    ABOVE_0,
    ABOVE_0_OR_NULL,
    BELOW_1,
    SHARE,
    Device,
    Name,
    Resource,
    Rule,
    Selection,
    at_least,
    one_of,
    require,
    section,
)

OBJECTIVES = ("single_frame", "all_frames")
TIMES = ("logit_normal", "uniform")
PRECISIONS = ("float32", "bfloat16")
AUTO = "auto"
_START = Rule(
    "a name, a folder or a version's number from 1",
    lambda value: value >= 1 if isinstance(value, int) else bool(value.strip()),
)
_SPIKE = Rule("0 (no check) or above 1", lambda value: value == 0 or value > 1)


@section("train.curriculum")
class CurriculumStage:
    """One stretch of training. An entry of `train.curriculum`.

    The only keys with defaults in params.yaml, so that a stage stays one short line: a key that a
    stage lacks changes nothing.
    """

    num_latent_frames: Annotated[int, at_least(0)]
    """Latent frames of each clip that are used, T; 0 = all; 1 = the first ones, and still pictures, which no
    other stage draws."""
    steps: Annotated[int, at_least(1)]
    batch_size: int | str
    """Clips in one step, over all workers; `auto` = the largest power of two clips a worker and micro-batch
    within `resources.train.memory_gb`, measured before step 0 and recorded in the run's folder."""
    size_px: Annotated[int, at_least(0)] = 0
    """Size that the clips were encoded at, one of `encode`; 0 = the largest."""
    target_loss: float | None = None
    """Validation loss at which the stage ends before its `steps`; null = never."""
    learning_rate: Annotated[float | None, ABOVE_0_OR_NULL] = None
    """Highest learning rate in this stage; null = `train.learning_rate`."""
    objective: Annotated[str | None, one_of(*OBJECTIVES)] = None
    """null = `train.objective`."""
    optimizer: Annotated[str, one_of("keep", "reset")] = "keep"
    """`keep`, or `reset`: AdamW's moments are cleared and the learning rate warms up again."""
    ema: Annotated[str, one_of("keep", "reset")] = "keep"
    """`keep`, or `reset`: the moving average starts again from the weights as they are."""

    def __post_init__(self) -> None:
        where = "train.curriculum"
        if isinstance(self.batch_size, str):
            rule = f"a number or `{AUTO}`"
            require(self.batch_size == AUTO, f"{where}.batch_size", self.batch_size, rule)
        else:
            require(self.batch_size >= 1, f"{where}.batch_size", self.batch_size, "at least 1")


@section("train.lora")
class LoraParams:
    """Low-rank adapters that are trained in place of the weights. Section `train.lora`."""

    rank: Annotated[int, at_least(1)]
    """Rows of the two thin matrices that stand for the change of a layer."""
    alpha: Annotated[int, at_least(1)]
    """The change is multiplied by alpha / rank."""


@section("train")
class TrainParams:
    """Optimisation and curriculum. Section `train`."""

    start_from: Name[Annotated[str | int | None, _START]]
    """Weights to start from: `champion`, `challenger`, a version's number, `shipped`, or a folder with a
    checkpoint; null = random ones. Results depend on the weights and not on the name: when the champion
    moves, `champion` means other weights, and the stage runs again."""
    lora: LoraParams | None
    """Train low-rank adapters of the linear layers of the trunk's blocks, and keep all other weights as they
    started; null = train all weights. Needs `start_from`. Checkpoints hold the sum of both."""
    curriculum: tuple[CurriculumStage, ...]
    """Stages in order; the last has the full length."""
    objective: Annotated[str, one_of(*OBJECTIVES)]
    """`single_frame` (the paper: loss of one frame of each clip) or `all_frames` (of all but the first)."""
    learning_rate: Annotated[float, ABOVE_0]
    """Highest learning rate of AdamW."""
    final_learning_rate_share: Annotated[float, SHARE]
    """Share of it that remains at the last step (cosine decay)."""
    warmup_steps: Annotated[int, at_least(0)]
    weight_decay: Annotated[float, at_least(0)]
    betas: tuple[float, float]
    max_grad_norm: Annotated[float, ABOVE_0]
    ema_decay: Annotated[float, BELOW_1]
    batch_multiplier: Annotated[int, at_least(1)]
    """Independent draws of time and noise for each hidden token."""
    time_distribution: Annotated[str, one_of(*TIMES)]
    """Where the flow head is trained between token and noise: `logit_normal` or `uniform`. DDPM: uniform."""
    mask_ratio_min: Annotated[float, SHARE]
    """Smallest hidden share of a target frame; drawn from a normal (mean, std), truncated to [min, 1]."""
    mask_ratio_mean: float
    mask_ratio_std: Annotated[float, at_least(0)]
    cond_drop_prob: Annotated[float, SHARE]
    """Probability that a clip is trained with the null text and without conditions."""
    real_cond_drop_prob: Annotated[float | None, SHARE] = None
    """The same for real clips, of which a few are learnt by heart by their captions; null =
    `cond_drop_prob`, as in files from before this key."""
    condition_drop_prob: Annotated[float, SHARE]
    """Dropout probability of each of `model.conditions` for a clip, independent of its caption's dropout."""
    history_noise: Annotated[float, BELOW_1]
    """Highest noise level, 0..1, added to the finished frames of a clip and given to the model; 0 = none."""
    simulated_share: Annotated[float, SHARE]
    """Share of each batch drawn from simulated clips, if both kinds exist."""
    draw_latents: bool
    """Draw the latents of a clip from their distributions at each use, instead of taking their means; needs
    `encode.moments`."""
    accumulation: Annotated[int, at_least(1)]
    """Micro-batches into which each worker splits its part of a batch, to save memory."""
    memory_gb: Resource[Annotated[float, ABOVE_0]]
    """Memory of one worker that a batch size of `auto` may use, GB: on the device, or of the process. A run
    with a batch size recorded in its folder keeps that."""
    precision: Annotated[str, one_of(*PRECISIONS)]
    """`float32`, or `bfloat16`: matrix products in it where the hardware can, weights in float32."""
    activation_checkpointing: bool
    """Compute each block's activations twice instead of keeping them: less memory, a third more time."""
    compile: bool
    """Compile the blocks with torch.compile: takes minutes before the first step."""
    validate_every: Annotated[int, at_least(0)]
    """Steps between two validations, which the log shows and `target_loss` of a stage is compared with; its
    last step is validated, too. 0 = none."""
    validation_clips: Annotated[int, at_least(1)]
    """Clips of the split `val`, at most, that the validation loss is the mean of."""
    on_bad_step: Resource[Annotated[str, one_of("stop", "skip")]]
    """At a loss that is not finite, or a spike: `stop`, or `skip` the step's update."""
    spike_factor: Annotated[float, _SPIKE]
    """A spike is a loss above this multiple of the median of the stage's latest steps; 0 = no such check."""
    max_skipped_steps: Resource[Annotated[int, at_least(0)]]
    """Skipped steps of one stage after which the run stops all the same."""
    log_every: Annotated[int, at_least(1)]
    preview_every: Resource[Annotated[int, at_least(0)]]
    """Steps between two previews, four held-out clips by the averaged weights; 0 = none. Their cost, the time
    of sampling, is not counted by metrics of speed."""
    checkpoint_every: Resource[Annotated[int, at_least(1)]]
    """Steps between two checkpoints; the last step of every stage has one, too."""
    keep_checkpoints: Resource[Annotated[int, at_least(1)]]
    """Newest checkpoints that are kept."""
    keep_best: Resource[bool]
    """Keep the checkpoint of the present stage with the lowest validation loss, too. A checkpoint at another
    step than those of `validate_every` is validated for this."""
    num_workers: Resource[Annotated[int | None, at_least(1)]]
    """Ray Train workers, which share each batch; null = one on a GPU, two on processors, see `workers_on`."""
    sharding: Resource[Annotated[str, one_of("ddp", "zero1", "fsdp")]]
    """`ddp`: every worker holds the whole model; `fsdp`: each holds a share of weights, their averages and
    optimizer states, for models that do not fit into one device; `zero1`: the same between steps, but during
    a step weights and gradients are whole, and travel once, not with every micro-batch."""
    device: Device
    """`cuda`: one GPU for each worker; `cpu`; `auto` = `cuda` where the cluster has a GPU at the start."""
    threads_per_worker: Resource[Annotated[int, at_least(1)]]
    seed: int
    runs: Selection[tuple[Variant, ...]]
    """Several runs, each with its overrides; none here and in `search` = one run with these parameters."""
    search: Selection[SearchSpace]
    """More such runs: every combination of the values listed, or random draws from ranges."""
    num_samples: Selection[Annotated[int, at_least(1)]]
    """Random draws if `search` has a range, with `seed`."""
    select_by: Selection[str]
    """Metric in the runs' logs; the run with the lowest value becomes the candidate."""
    asha: Selection[bool]
    """Stop runs early whose `select_by` is in the worse half at the first, second, fourth ... validation of
    the last stage (ASHA, arXiv 1810.05934). Timing decides which: off = every run is deterministic."""

    def __post_init__(self) -> None:
        both = self.compile and self.sharding != "ddp"
        rule = f"false with resources.train.sharding: {self.sharding}: together they are untried"
        require(not both, "train.compile", True, rule)
        rule = "false where runs have several workers"
        require(not self.asha or self.fewest_workers == 1, "train.asha", "true", rule)
        require(len(self.curriculum) > 0, "train.curriculum", "no stage", "at least one stage")
        last = self.curriculum[-1].num_latent_frames
        require(last == 0, "train.curriculum", f"a last stage of {last} latent frames", "the full length (0)")
        size_px = self.curriculum[-1].size_px
        require(size_px == 0, "train.curriculum", f"a last stage of {size_px} pixels", "the full size (0)")
        rule = "null without train.start_from: adapters change trained weights, not random ones"
        require(self.lora is None or self.start_from is not None, "train.lora", self.lora, rule)
        rule = "null with train.compile, or a resources.train.sharding but ddp: together they are untried"
        whole = self.sharding == "ddp" and not self.compile
        require(self.lora is None or whole, "train.lora", self.lora, rule)
        betas = all(0 <= beta < 1 for beta in self.betas)
        require(betas, "train.betas", list(self.betas), "two numbers from 0 to below 1")
        parts = self.fewest_workers * self.accumulation
        rule = f"a multiple of num_workers x accumulation = {parts}"
        for number, stage in enumerate(self.curriculum):
            where = f"train.curriculum.{number}.batch_size"
            fits = isinstance(stage.batch_size, str) or stage.batch_size % parts == 0
            require(fits, where, stage.batch_size, rule)
            alone = stage.batch_size != AUTO or self.sharding == "ddp"
            rule_alone = (
                f"a number with resources.train.sharding: {self.sharding}, as one process alone measures "
            )
            require(alone, where, stage.batch_size, rule_alone + "what fits")
            aims = stage.target_loss is not None and not self.validate_every
            require(not aims, "train.validate_every", 0, "above 0, as a stage has a target_loss")

    @property
    def fewest_workers(self) -> int:
        """Workers of a run that has no more of the machine than it needs, as beside other runs."""
        return self.num_workers or 1

    def workers_on(self, device: str) -> int:
        """Return the workers of a run that has the machine for itself, on `cuda` or `cpu`.

        Processors have two workers by default, if batches can be shared. Two processes wait for each other
        once in a step. Two threads do so at each of its thousand operations, and where another program takes
        one of two cores they wait longer than they compute (docs/LOG.md).
        """
        sizes = [stage.batch_size for stage in self.curriculum]
        shared = all(not isinstance(size, str) and size % (2 * self.accumulation) == 0 for size in sizes)
        return self.num_workers or (2 if shared and device == "cpu" else 1)

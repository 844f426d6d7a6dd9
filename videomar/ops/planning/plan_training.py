"""Training on GPUs that are not there: memory and seconds of each curriculum stage, and what would fit.

seconds = operations / (published rate x share of it)     matrix products
or launches x seconds of a launch                 whichever is more, for small networks
+ bytes / bandwidth                               optimizer, gradients between GPUs
"""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from videomar.checkpoint.manifest import ModelShape
from videomar.config import CurriculumStage, Params, TrainParams
from videomar.config.training import AUTO
from videomar.ops.planning.gpus import Fleet
from videomar.ops.planning.plan_counts import Cost, LatentShape, shapes_of_stage, tokens_of
from videomar.ops.planning.plan_memory import (
    FLOAT32,
    Memory,
    MicroBatch,
    Sizes,
    held_parameters,
    largest_batch,
    micro_batch,
    parameter_sizes,
    training_memory,
)
from videomar.ops.planning.plan_shares import Shares
from videomar.training.curriculum import stage_params
from videomar.training.throughput import BatchShape, matrix_weights, step_flops, supervised_tokens

HOUR_S = 3600.0
LAUNCH_S = 5e-6
"""From one kernel to the next where the GPU waits for Python."""
# Operations of one block and of head and loss, forward and backward, without views: a test counts them.
_BLOCK_LAUNCHES, _HEAD_LAUNCHES = 200, 500
BLOCK_FORWARD, HEAD_STEP = 60, 90
"""Operations of one block and of one evaluation of the head in inference."""
RECORDED_S = 2e-6
"""From one kernel to the next in a recorded graph, as passes and steps of generation are."""
DISK_GB_S = 1.0
"""Rate at which checkpoints are written."""
# AdamW reads weight, gradient and two moments and writes three of them; clipping reads the gradient twice and
# writes it; the average is read with the weight, and written: 13 values.
_UPDATE_BYTES = 13 * FLOAT32
AUTO_SHARE = 0.9
"""Share of a GPU's memory that `batch_size: auto` is planned with."""


class StepTime(NamedTuple):
    """Seconds of one step of training."""

    compute: float
    update: float
    exchange: float

    @property
    def total(self) -> float:
        """All parts, one after the other."""
        return sum(self)


class PlannedRun(NamedTuple):
    """A run on GPUs, and the network that it trains."""

    params: Params
    fleet: Fleet
    shares: Shares
    model: ModelShape

    @property
    def train(self) -> TrainParams:
        """Section `train` in the precision that the GPU has."""
        if self.fleet.gpu.bfloat16_tflops is None:
            return dataclasses.replace(self.params.train, precision="float32")
        return self.params.train

    def rate(self, work: str, precision: str = "bfloat16", gpus: int | None = None) -> float:
        """Operations a second of a kind of work, see `Shares`."""
        peak = self.fleet.gpu.tflops(precision) * 1e12 * self.shares.of(work)
        return peak * (self.fleet.count if gpus is None else gpus)


class PlannedStage(NamedTuple):
    """One curriculum stage: what it costs, and what one GPU holds at a time."""

    cost: Cost
    memory: Memory
    batch: MicroBatch
    params: TrainParams
    """Section `train` with the stage's own values."""


def train_stage(run: PlannedRun, number: int, shapes: Sequence[tuple[int, LatentShape]]) -> PlannedStage:
    """Plan one curriculum stage, for the sizes and latent shapes of the cached clips."""
    stage = run.train.curriculum[number]
    own = stage_params(stage, run.train)
    used = shapes_of_stage(shapes, stage)
    # Of clips of several shapes the largest decides the memory, and the mean the time.
    largest = max(used, key=math.prod)
    batch = stage_batch(run, stage, largest)
    size = stage.batch_size
    if not isinstance(size, int):
        size = batch.shape.batch_size * run.fleet.count * own.accumulation
    memory = training_memory(run.model, batch, own, run.fleet.count)
    times = step_time(run, batch, own)
    patch = run.model.params.patch_size
    mean = statistics.fmean(tokens_of(shape, patch, stage) for shape in used)
    step_s = times.compute * mean / tokens_of(largest, patch, stage) + times.update + times.exchange
    cost = Cost(
        f"train, curriculum stage {number}",
        stage.steps * size,
        round(stage.steps * size * mean),
        None,
        memory.total_gb,
        (stage.steps * step_s + _pauses_s(run, stage, batch)) / HOUR_S,
        stage.steps,
        step_s,
    )
    return PlannedStage(cost, memory, batch, own)


def stage_batch(run: PlannedRun, stage: CurriculumStage, largest: LatentShape) -> MicroBatch:
    """Return the micro-batch of one worker in a curriculum stage; `auto` fills the memory."""
    _, frames, rows, columns = largest
    patch = run.model.params.patch_size
    frames = min(frames, stage.num_latent_frames or frames)
    own = stage_params(stage, run.train)
    parts = run.fleet.count * own.accumulation
    captions = run.model.max_text_tokens
    size = 1 if stage.batch_size == AUTO else int(stage.batch_size)
    batch = micro_batch(size, frames, rows * columns // patch**2, captions, parts)
    if stage.batch_size == AUTO:
        most = AUTO_SHARE * run.fleet.gpu.memory_gb
        fit = largest_batch(run.model, batch, own, run.fleet.count, most)
        batch = dataclasses.replace(batch, shape=batch.shape._replace(batch_size=max(1, fit)))
    return batch


def step_time(run: PlannedRun, batch: MicroBatch, params: TrainParams) -> StepTime:
    """Return the seconds of a step: `accumulation` micro-batches, the exchange of gradients, the update."""
    model, fleet, count = run.model, run.fleet, run.fleet.count
    flops = step_flops(model, batch.shape, params)
    launches = _BLOCK_LAUNCHES * model.params.depth + _HEAD_LAUNCHES
    if params.activation_checkpointing:
        flops += recomputed_flops(model, batch.shape, params)
        launches += BLOCK_FORWARD * model.params.depth
    one = max(flops / run.rate("train", params.precision, gpus=1), launches * LAUNCH_S)
    sizes = parameter_sizes(model)
    held = held_parameters(sizes, params, count)
    update = _UPDATE_BYTES * held / (fleet.gpu.bandwidth_gb_s * 1e9)
    exchange = exchanged_bytes(sizes, count, params) / (fleet.link_gb_s * 1e9)
    return StepTime(params.accumulation * one, update, exchange)


def recomputed_flops(model: ModelShape, batch: BatchShape, params: TrainParams) -> float:
    """Return the operations of the forward passes that `activation_checkpointing` repeats: the trunk's."""
    head = 6 * matrix_weights(model).head * supervised_tokens(batch, params) * params.batch_multiplier
    return (step_flops(model, batch, params) - head) / 3


def exchanged_bytes(sizes: Sizes, count: int, params: TrainParams) -> float:
    """Return the bytes that each GPU sends in a step, in float32.

    `ddp`: gradients are reduced and spread once. `zero1`: gradients are reduced and weights spread once.
    `fsdp`: weights are gathered forward and backward, gradients reduced, in every micro-batch.
    """
    once = FLOAT32 * sizes.all * (count - 1) / count
    return once * (3 * params.accumulation if params.sharding == "fsdp" else 2)


def _pauses_s(run: PlannedRun, stage: CurriculumStage, batch: MicroBatch) -> float:
    """Seconds of a stage's validations and checkpoints."""
    train = run.train
    kept = stage.steps // train.checkpoint_every + 1
    seconds = kept * 4 * FLOAT32 * parameter_sizes(run.model).all / (DISK_GB_S * 1e9)
    shown = stage.steps // train.validate_every + 1 if train.validate_every else 0
    alone = batch.shape._replace(batch_size=1)
    own = dataclasses.replace(train, objective="all_frames")
    forward = step_flops(run.model, alone, own) / 3 / run.rate("train", own.precision, gpus=1)
    launches = BLOCK_FORWARD * run.model.params.depth + HEAD_STEP
    passes = math.ceil(train.validation_clips / run.fleet.count)
    return seconds + shown * passes * max(forward, launches * LAUNCH_S)


def fitting(run: PlannedRun, stages: Sequence[PlannedStage]) -> list[str]:
    """Return what training would refuse, which stages need more than a GPU has, and what would fit.

    Each way that is named is one change, with which all stages fit.
    """
    fleet, has = run.fleet, run.fleet.gpu.memory_gb
    parts = fleet.count * run.train.accumulation
    uneven = [
        f"{stage.cost.stage}: batch_size {size} is no multiple of {fleet.count} GPUs x accumulation "
        f"{run.train.accumulation}, which training refuses"
        for stage, size in zip(stages, (own.batch_size for own in run.train.curriculum), strict=True)
        if isinstance(size, int) and size % parts
    ]
    lines = [
        f"{stage.cost.stage}: needs {stage.memory.total_gb:.1f} GB with {stage.batch.shape.batch_size} clips "
        f"in a micro-batch, one {fleet.gpu.name} has {has:g}"
        for stage in stages
        if stage.memory.total_gb > has
    ]
    if not lines:
        return uneven

    def most(parts: int, workers: int = fleet.count, **changes: object) -> float:
        """Memory of the largest stage, with micro-batches of one of `parts` of today's."""
        peaks = []
        for _, _, batch, params in stages:
            part = batch.shape._replace(batch_size=math.ceil(batch.shape.batch_size / parts))
            smaller = dataclasses.replace(batch, shape=part)
            changed = dataclasses.replace(params, **{"compile": False, **changes})  # type: ignore[arg-type]
            peaks.append(training_memory(run.model, smaller, changed, workers).total_gb)
        return max(peaks)

    ways = []
    again = {"activation_checkpointing": True}
    largest = max(stage.batch.shape.batch_size for stage in stages)
    splits = [2**power for power in range(1, 21) if 2**power < 2 * largest]
    for split in (parts for parts in splits if most(parts) <= has):
        ways.append(f"train.accumulation: {split * run.train.accumulation} ({most(split):.1f} GB)")
        break
    if most(1, **again) <= has:
        ways.append(f"train.activation_checkpointing: true ({most(1, **again):.1f} GB)")
    for sharding in ("zero1", "fsdp"):
        for more in (2**power for power in range(11)):
            workers = fleet.count * more
            if workers > 1 and (need := most(more, workers, sharding=sharding)) <= has:
                ways.append(f"resources.train.sharding: {sharding} on {fleet.kind}:{workers} ({need:.1f} GB)")
                break
    if not ways and (both := [parts for parts in splits if most(parts, **again) <= has]):
        split = both[0] * run.train.accumulation
        need = most(both[0], **again)
        ways.append(f"train.accumulation: {split} and activation_checkpointing: true ({need:.1f} GB)")
    ways = ways or ["no change of these keys; take GPUs with more memory, or a smaller model"]
    return [*uneven, *lines, *(f"it fits with {way}" for way in ways)]

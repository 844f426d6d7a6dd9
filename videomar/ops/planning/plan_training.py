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
    MicroBatch,
    Sizes,
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


class Run(NamedTuple):
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


def train_stage(
    run: Run, number: int, shapes: Sequence[tuple[int, LatentShape]]
) -> tuple[Cost, dict[str, float], list[str]]:
    """Return cost, parts of the memory, and advice of one curriculum stage."""
    stage, name = run.train.curriculum[number], f"train, curriculum stage {number}"
    own = stage_params(stage, run.train)
    used = shapes_of_stage(shapes, stage)
    # Clips of several shapes: the largest decides the memory, the mean the time.
    largest = max(used, key=math.prod)
    batch = stage_batch(run, stage, largest)
    size = batch.shape.batch_size * run.fleet.count * own.accumulation
    if isinstance(stage.batch_size, int):
        size = stage.batch_size
    memory = training_memory(run.model, batch, own, run.fleet.count)
    times = step_time(run, batch, own)
    mean = statistics.fmean(tokens_of(shape, run.model.params.patch_size, stage) for shape in used)
    share = mean / tokens_of(largest, run.model.params.patch_size, stage)
    step_s = times.compute * share + times.update + times.exchange
    seconds = stage.steps * step_s + _pauses_s(run, stage, batch)
    cost = Cost(
        name,
        stage.steps * size,
        round(stage.steps * size * mean),
        None,
        memory.total_gb,
        seconds / HOUR_S,
        stage.steps,
        step_s,
    )
    parts = {key: value / 1e9 for key, value in memory._asdict().items()}
    return cost, parts, fitting(run, number, batch, own)


def stage_batch(run: Run, stage: CurriculumStage, largest: LatentShape) -> MicroBatch:
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


def step_time(run: Run, batch: MicroBatch, params: TrainParams) -> StepTime:
    """Return the seconds of a step: `accumulation` micro-batches, the exchange of gradients, the update."""
    model, fleet, count = run.model, run.fleet, run.fleet.count
    flops = step_flops(model, batch.shape, params)
    launches = _BLOCK_LAUNCHES * model.params.depth + _HEAD_LAUNCHES
    if params.activation_checkpointing:
        flops += recomputed_flops(model, batch.shape, params)
        launches += BLOCK_FORWARD * model.params.depth
    one = max(flops / run.rate("train", params.precision, gpus=1), launches * LAUNCH_S)
    sizes = parameter_sizes(model)
    sharded = params.sharding == "fsdp" and count > 1
    held = sizes.all / count if sharded else sizes.all
    update = _UPDATE_BYTES * held / (fleet.gpu.bandwidth_gb_s * 1e9)
    exchange = exchanged_bytes(sizes, count, params) / (fleet.link_gb_s * 1e9)
    return StepTime(params.accumulation * one, update, exchange)


def recomputed_flops(model: ModelShape, batch: BatchShape, params: TrainParams) -> float:
    """Return the operations of the forward passes that `activation_checkpointing` repeats: the trunk's."""
    head = 6 * matrix_weights(model).head * supervised_tokens(batch, params) * params.batch_multiplier
    return (step_flops(model, batch, params) - head) / 3


def exchanged_bytes(sizes: Sizes, count: int, params: TrainParams) -> float:
    """Return the bytes that each GPU sends in a step, in float32.

    `ddp`: gradients are reduced and spread once. `fsdp`: weights are gathered forward and backward, gradients
    reduced, in every micro-batch.
    """
    once = FLOAT32 * sizes.all * (count - 1) / count
    return once * (3 * params.accumulation if params.sharding == "fsdp" else 2)


def _pauses_s(run: Run, stage: CurriculumStage, batch: MicroBatch) -> float:
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


def fitting(run: Run, number: int, batch: MicroBatch, params: TrainParams) -> list[str]:
    """Return what a curriculum stage needs that a GPU does not have, and every single change that would do."""
    model, fleet, memory_gb = run.model, run.fleet, run.fleet.gpu.memory_gb

    def needs(clips: int, workers: int = fleet.count, **changes: object) -> float:
        trial = dataclasses.replace(batch, shape=batch.shape._replace(batch_size=clips))
        changed = dataclasses.replace(params, **{"compile": False, **changes})  # type: ignore[arg-type]
        return training_memory(model, trial, changed, workers).total_gb

    clips = batch.shape.batch_size
    need = needs(clips)
    if need <= memory_gb:
        return []
    where = f"stage {number} of the curriculum: {clips} clips in a micro-batch"
    lines = [f"{where} need {need:.1f} GB, one {fleet.gpu.name} has {memory_gb:.0f}"]
    ways = []
    fewer = largest_batch(model, batch, params, fleet.count, memory_gb)
    if fewer:
        split = params.accumulation * math.ceil(clips / fewer)
        ways.append(f"accumulation: {split} ({needs(math.ceil(clips * params.accumulation / split)):.1f} GB)")
    if not params.activation_checkpointing:
        less = needs(clips, activation_checkpointing=True)
        ways += [f"activation_checkpointing: true ({less:.1f} GB)"] if less <= memory_gb else []
    whole = clips * fleet.count
    for workers in (fleet.count * 2**power for power in range(11)):
        sharded = needs(math.ceil(whole / workers), workers, sharding="fsdp")
        if workers > 1 and sharded <= memory_gb:
            ways.append(f"{workers} GPUs with sharding: fsdp ({sharded:.1f} GB)")
            break
    if not ways:
        both = needs(1, activation_checkpointing=True)
        lines.append(
            f"nothing alone would do; one clip with activation_checkpointing takes {both:.1f} GB"
            f"{'' if both > memory_gb else ', which fits: set both'}"
        )
        return lines
    return [*lines, *(f"it fits with {way}" for way in ways)]

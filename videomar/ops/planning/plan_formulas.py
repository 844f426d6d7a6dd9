"""The cost of a run on GPUs that are not there, stage by stage: counts, published rates, stated shares.

Every number that is neither counted nor published stands in these modules with its reason, and is repeated in
the assumptions that the plan prints. Training is in `plan_training`.
"""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from videomar.checkpoint.manifest import ModelShape
from videomar.config import Params
from videomar.config.params import variants_of
from videomar.ops.planning.gpus import Fleet
from videomar.ops.planning.plan_counts import (
    Cost,
    LatentShape,
    Plan,
    PlannedClips,
    PlannedStrides,
    Videos,
    cached_shapes,
    latent_bytes,
    refuse_partial_tokens,
    sum_stages,
    tokens_of,
)
from videomar.ops.planning.plan_flops import (
    COSMOS_WEIGHTS,
    TextSize,
    caption_flops,
    generation_cost,
    text_size,
    tokenizer_flops,
)
from videomar.ops.planning.plan_memory import CONTEXT_GB, FLOAT32, MARGIN, itemsize, parameter_sizes
from videomar.ops.planning.plan_shares import read_shares
from videomar.ops.planning.plan_training import (
    BLOCK_FORWARD,
    DISK_GB_S,
    HEAD_STEP,
    HOUR_S,
    LAUNCH_S,
    RECORDED_S,
    PlannedRun,
    fitting,
    train_stage,
)
from videomar.sampling.tasks import tasks_of

SOURCE_FPS = 24.0
"""Frames a second of the raw videos, where none is there to look at."""
DECODED_PER_S = 310.0
"""Frames of 1280 x 720 H.264 that a CPU core decodes and scores a second: benchmarks/results/ingest.json."""
EVALUATE_S_PER_MPX = 0.4
"""CPU seconds per million generated pixels, two cores: metrics/evaluate.json of the shipped run."""


def plan_for(
    params: Params, clips: PlannedClips, videos: Videos, strides: PlannedStrides, fleet: Fleet
) -> Plan:
    """Plan a run on GPUs by formulas alone: nothing is measured, and no weights are read.

    Raises:
        VideomarError: a number that the formulas need is not in the files.
    """
    text = text_size(params.text)
    model = ModelShape(params.model, strides.channels, text.channels, params.text.max_tokens)
    shares = read_shares()
    run = PlannedRun(params, fleet, shares, model)
    shapes = cached_shapes(clips, params, strides)
    refuse_partial_tokens(shapes, params)
    stages = [train_stage(run, number, shapes) for number in range(len(params.train.curriculum))]
    train = sum_stages([stage.cost for stage in stages], max(1, len(variants_of(params))))
    costs = [
        _ingest(params, clips, videos),
        _train_tokenizer(run, clips, strides),
        _captions(run, clips, text),
        _encode(run, clips, shapes, videos, strides),
        *(stage.cost for stage in stages),
        train,
        *_sample_and_evaluate(run, clips, shapes),
    ]
    memory = {
        stage.cost.stage: {part: value / 1e9 for part, value in stage.memory._asdict().items()}
        for stage in stages
    }
    advice = fitting(run, stages)
    return Plan(costs, [*shares.lines(), *_assumptions(run, clips, videos, text)], advice, memory)


def _ingest(params: Params, clips: PlannedClips, videos: Videos) -> Cost:
    seconds = _decode_s(params, clips, videos) / params.ingest.num_workers
    return Cost("ingest", clips.total, hours=seconds / HOUR_S)


def _decode_s(params: Params, clips: PlannedClips, videos: Videos) -> float:
    """CPU seconds of one core to decode all videos."""
    length_s = clips.total * params.ingest.stride_frames / params.ingest.fps
    return (videos.frames or length_s * SOURCE_FPS) / DECODED_PER_S


def _pixels(clips: PlannedClips) -> float:
    """Mean pixels of a clip at its largest size, all frames."""
    return statistics.fmean(shape.height_px * shape.width_px * shape.num_frames for shape in clips.shapes)


def _train_tokenizer(run: PlannedRun, clips: PlannedClips, strides: PlannedStrides) -> Cost:
    params = run.params.tokenizer
    if params.pretrained is not None:
        return Cost("train_tokenizer", 0, hours=0.0)
    pixels = _pixels(clips)
    positions = pixels / strides.space_stride**2 / strides.time_stride
    flops = tokenizer_flops(params, (1, 1, round(positions)), 0).training * params.batch_size
    step_s = flops / run.rate("train_tokenizer", gpus=1)
    hours = params.steps * step_s / HOUR_S
    drawn = params.steps * params.batch_size
    return Cost("train_tokenizer", drawn, hours=hours, steps=params.steps, step_s=step_s)


def _encode(
    run: PlannedRun,
    clips: PlannedClips,
    shapes: Sequence[tuple[int, LatentShape]],
    videos: Videos,
    strides: PlannedStrides,
) -> Cost:
    """Cost of the stage `encode`: the tokenizer on all GPUs, or reading the clips if that takes longer."""
    params, count = run.params, round(len(shapes) * clips.scale)
    tokens = sum(tokens_of(shape, params.model.patch_size) for _, shape in shapes) * clips.scale
    own = params.tokenizer
    flops = 0.0
    for _, (_, frames, rows, columns) in shapes:
        pixels = (1 + (frames - 1) * strides.time_stride) * rows * columns * strides.space_stride**2
        flops += tokenizer_flops(own, (frames, rows, columns), pixels).encode * clips.scale
    reading_s = _decode_s(params, clips, videos) / params.encode.num_workers
    seconds = max(flops / run.rate("encode", "float32"), reading_s)
    stored = round(latent_bytes(shapes, params) * clips.scale)
    peak = COSMOS_WEIGHTS * FLOAT32 / 1e9 if own.pretrained is not None else None
    return Cost("encode", count, round(tokens), stored, peak, seconds / HOUR_S)


def _captions(run: PlannedRun, clips: PlannedClips, text: TextSize) -> Cost:
    most = run.params.text.max_tokens if text.layers else 0
    precision = "bfloat16" if text.gated else "float32"  # as published
    seconds = clips.total * caption_flops(text, most) / run.rate("captions", precision)
    stored = clips.total * most * text.channels * 2
    peak = text.weights * itemsize(precision if run.fleet.gpu.bfloat16_tflops else "float32") / 1e9
    return Cost("captions", clips.total, clips.total * most, stored, peak, seconds / HOUR_S)


def _sample_and_evaluate(
    run: PlannedRun, clips: PlannedClips, shapes: Sequence[tuple[int, LatentShape]]
) -> list[Cost]:
    """Costs of the stages `sample` and `evaluate`."""
    params, suite = run.params, run.params.suite
    _, frames, rows, columns = max((shape for _, shape in shapes), key=math.prod)
    tokens = rows * columns // run.model.params.patch_size**2
    count, seconds = 0, 0.0
    for task in tasks_of(suite):
        if task.maker == "linear":
            continue
        number, longer, larger = task.number(suite), task.length(frames), round(task.scale**2 * tokens)
        given = max(1, min(task.context, frames - 1))
        one = generation_cost(run.model, params.sample, larger, longer, given)
        kernels = one.passes * BLOCK_FORWARD * run.model.params.depth + one.head_steps * HEAD_STEP
        batches = math.ceil(number / suite.batch_size)
        compute = number * one.flops / run.rate("sample", gpus=1)
        seconds += max(compute, batches * kernels * RECORDED_S)
        count += number
    rows_at_once = suite.batch_size * (2 if params.sample.cfg_scale != 1 else 1)
    cache = (
        2 * run.model.params.depth * run.model.params.hidden_size * (frames * tokens + params.text.max_tokens)
    )
    weights = parameter_sizes(run.model).all
    peak = FLOAT32 * (weights + rows_at_once * cache) / 1e9
    if run.fleet.gpu.bfloat16_tflops:  # weights in it beside those in float32; the cache in it alone
        peak = (6 * weights + 2 * rows_at_once * cache) / 1e9
    sample = Cost("sample", count, count * frames * tokens, None, peak, seconds / HOUR_S)
    return [sample, evaluation(count, clips)]


def evaluation(count: int, clips: PlannedClips) -> Cost:
    """Cost of the stage `evaluate` for so many generated clips, on the CPU."""
    return Cost("evaluate", count, hours=EVALUATE_S_PER_MPX * count * _pixels(clips) / 1e6 / HOUR_S)


def _assumptions(run: PlannedRun, clips: PlannedClips, videos: Videos, text: TextSize) -> list[str]:
    params, fleet, gpu = run.params, run.fleet, run.fleet.gpu
    precision = run.train.precision
    lines = [
        f"{fleet}: {gpu.name}, {gpu.tflops(precision):g} TFLOPS in {precision} without sparsity, "
        f"{gpu.memory_gb:g} GB at {gpu.bandwidth_gb_s:g} GB/s, {fleet.link_gb_s:g} GB/s to each other "
        f"({gpu.source})",
        "nothing is measured, nothing is taken from caches; no stage reaches a target_loss before",
        f"train: one worker on each of {fleet.count} GPUs, whatever resources.train.num_workers is; exchange "
        "of gradients and update of weights do not overlap with anything",
        f"a kernel takes {1e6 * LAUNCH_S:g} microseconds at least, {1e6 * RECORDED_S:g} in generation",
        f"train: checkpoints are written at {DISK_GB_S:g} GB/s; without previews and the start of Ray",
        f"memory: {100 * MARGIN:.0f} % for fragments and {CONTEXT_GB} GB for CUDA are added; captions have "
        f"text.max_tokens {params.text.max_tokens} tokens",
        f"ingest: {DECODED_PER_S:g} frames of 720p a second on each of {params.ingest.num_workers} cores "
        "(resources.ingest.num_workers)" + ("" if videos.frames else f", {SOURCE_FPS:g} frames to a second"),
        f"encode: on all GPUs, or reading the clips with resources.encode.num_workers "
        f"{params.encode.num_workers}, as fast as ingest, if that takes longer",
        "captions: on all GPUs; train_tokenizer and sample: on one",
        f"evaluate: {EVALUATE_S_PER_MPX} s of CPU for a million pixels, from the shipped run",
        "curate and samples are not counted",
    ]
    if precision != params.train.precision:
        rule = f"train.precision: {params.train.precision} is refused on one {gpu.name}"
        lines.append(f"{rule}, which has no such products: planned in float32")
    pretrained = params.tokenizer.pretrained
    if pretrained is not None:
        lines.append("encode: as many operations for a pixel as Cosmos CV8x16x16, whatever tokenizer it is")
        if not Path(pretrained).is_dir():
            rule = "planned with channels and strides of section tokenizer"
            lines.append(f"tokenizer.pretrained: no folder {pretrained}; {rule}")
    if text.assumed:
        lines.append(f"text.encoder: no folder {params.text.encoder}; planned with the size of {text.name}")
    if not clips.counted:
        lines.append(f"clips: {clips.total:,}, none rejected, all of {params.ingest.num_frames} frames")
    return lines

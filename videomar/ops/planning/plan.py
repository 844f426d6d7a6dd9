"""The cost of the next run of the pipeline, stage by stage, from counts and short measurements."""

import itertools
import math
import os
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from videomar.checkpoint.manifest import ModelShape
from videomar.config import CurriculumStage, Params, TrainParams
from videomar.config.layout import Layout
from videomar.config.params import variants_of
from videomar.encoders.load import load_tokenizer
from videomar.errors import DataError, VideomarError
from videomar.hub.start import with_start_tokenizer
from videomar.ops.planning.gpus import Fleet
from videomar.ops.planning.plan_counts import (
    Cost,
    LatentShape,
    Plan,
    PlannedClips,
    PlannedStrides,
    Videos,
    assumed_clips,
    cached_shapes,
    find_clips,
    fitting_clips,
    latent_bytes,
    made_with,
    read_headers,
    refuse_partial_tokens,
    shapes_of_stage,
    sum_stages,
    tokens_of,
)
from videomar.ops.planning.plan_flops import text_size, tokenizer_flops
from videomar.ops.planning.plan_formulas import evaluation, plan_for
from videomar.ops.planning.plan_memory import FLOAT32, parameter_sizes
from videomar.ops.planning.plan_probe import REFUSED, Subject, measure, spread
from videomar.sampling.tasks import tasks_of
from videomar.training.curriculum import stage_params
from videomar.training.throughput import BatchShape, step_flops

HOUR_S = 3600.0
LIMIT_S = 45.0
"""Time limit of the probe; what it does not reach is reported as unknown."""
STEP_SHARE = 0.5
"""Share of this machine's rate of matrix products that a step is planned with, if none was measured."""
ASSUMED_CLIPS = 100_000
"""Clips that GPUs are planned for where neither a ledger nor a video is there to count."""


class Speed(NamedTuple):
    """Measured speed of one curriculum stage."""

    step_s: float
    validation_s: float


class Question(NamedTuple):
    """What is planned beside the parameters."""

    fleet: Fleet | None = None
    """GPUs that are not there; None: this machine, measured."""
    clips: int | None = None
    """Number of clips; None: those of the folder."""
    is_own: bool = True
    """Whether the folder's ledger and tokenizer are of these parameters; not so with another preset."""


def plan(params: Params, layout: Layout, asked: Question | None = None) -> Plan:
    """Estimate the next run, stage by stage.

    Raises:
        VideomarError: there are neither clips nor videos to count, or a run would be refused.
    """
    asked = asked or Question()
    if asked.fleet is None:
        # No tokenizer is trained where one comes with the weights to start from.
        params = with_start_tokenizer(params)
    videos, clips = _count(params, layout, asked)
    if not clips.shapes:
        raise DataError("plan: got no clip, expected some; see `videomar ledger show` for what was rejected")
    strides, tokenizer = _strides(params, layout, asked.is_own)
    if asked.fleet is not None:
        return plan_for(params, clips, videos, strides, asked.fleet)
    shapes = cached_shapes(clips, params, strides)
    refuse_partial_tokens(shapes, params)
    subject = _subject(params, clips, shapes, tokenizer, videos)
    _refuse_too_large(subject)
    messages: list[tuple[Any, ...]] = []
    shown = ""
    for message in measure(subject, LIMIT_S):
        if message[0] == REFUSED:
            raise VideomarError(f"{message[1]} (a plan for GPUs that are not here: --gpu KIND:COUNT)")
        messages.append(message)
        what = f"curriculum stage {message[1]}" if message[0] == "row" else message[0]
        if what != shown:
            _say(f"measured: {what}")
        shown = what
    figures = {message[0]: message[1:] for message in messages if message[0] != "row"}
    sample = _sample(params, shapes, figures)
    costs = [
        _ingest(videos, clips, params, figures),
        _train_tokenizer(params, subject, figures),
        _captions(params, clips, figures),
        _encode(shapes, clips.scale, params, figures),
        *training_costs(subject, messages),
        sample,
        evaluation(sample.clips or 0, clips),
    ]
    return Plan(costs, _assumptions(params, clips, videos, tokenizer is None, costs))


def _refuse_too_large(subject: Subject) -> None:
    """Refuse to measure a network that this machine has no memory for.

    Raises:
        DataError: it takes more than is free.
    """
    fixed = 4 * FLOAT32 * parameter_sizes(subject.model).all / 1e9  # weights, gradients and moments
    free = psutil.virtual_memory().available / 1e9
    if fixed > free:
        rule = f"at most the {free:.1f} GB that are free here; plan for GPUs: --gpu KIND:COUNT"
        raise DataError(f"plan: got a network that takes {fixed:.1f} GB to train, expected {rule}")


def _count(params: Params, layout: Layout, asked: Question) -> tuple[Videos, PlannedClips]:
    """Return the raw videos and the clips to plan for."""
    if asked.clips is not None:
        return Videos(0, 0.0, []), assumed_clips(asked.clips, params)
    _say("counting clips")
    videos = read_headers(layout.raw)
    try:
        clips = find_clips(layout.ledger, videos, params)
    except DataError:
        if asked.fleet is None:
            raise
        return videos, assumed_clips(ASSUMED_CLIPS, params)
    if clips.counted and not made_with(clips, params):
        # The ledger was made with other sizes: its clips are not those of the next run.
        if not videos.read:
            return videos, assumed_clips(clips.total, params)
        clips = fitting_clips(videos, params)
    return videos, clips


def _ingest(videos: Videos, clips: PlannedClips, params: Params, figures: Mapping[str, Any]) -> Cost:
    rate = figures.get("decode", (None,))[0]
    hours = videos.frames / rate / params.ingest.num_workers / HOUR_S if rate else None
    return Cost("ingest", clips.total, None, None, None, hours)


def _train_tokenizer(params: Params, subject: Subject, figures: Mapping[str, Any]) -> Cost:
    """Cost of training the tokenizer: by its operations, at the speed of the encoder on one core."""
    own, seconds = params.tokenizer, figures.get("encode", (None, None))[0]
    if own.pretrained is not None:
        return Cost("train_tokenizer", 0, hours=0.0)
    flops = tokenizer_flops(own, (1, 1, 1), 0)
    step_s = own.batch_size * seconds * flops.training / flops.encode / own.threads if seconds else None
    hours = None if step_s is None else own.steps * step_s / HOUR_S
    return Cost("train_tokenizer", own.steps * own.batch_size, hours=hours, steps=own.steps, step_s=step_s)


def _captions(params: Params, clips: PlannedClips, figures: Mapping[str, Any]) -> Cost:
    seconds, peak = figures.get("captions", (None, None))
    hours = clips.total * seconds / HOUR_S if seconds is not None else None
    return Cost("captions", clips.total, None, None, peak, hours)


def _encode(
    shapes: Sequence[tuple[int, LatentShape]], scale: float, params: Params, figures: Mapping[str, Any]
) -> Cost:
    seconds, peak = figures.get("encode", (None, None))
    count = round(len(shapes) * scale)
    tokens = round(scale * sum(tokens_of(shape, params.model.patch_size) for _, shape in shapes))
    hours = count * seconds / params.encode.num_workers / HOUR_S if seconds else None
    return Cost("encode", count, tokens, round(scale * latent_bytes(shapes, params)), peak, hours)


def _sample(params: Params, shapes: Sequence[tuple[int, LatentShape]], figures: Mapping[str, Any]) -> Cost:
    seconds, peak = figures.get("sample", (None, None))
    suite = params.suite
    tasks = [task for task in tasks_of(suite) if task.maker != "linear"]
    counts = [task.number(suite) for task in tasks]
    batches, count = sum(math.ceil(clips / suite.batch_size) for clips in counts), sum(counts)
    largest = max((shape for _, shape in shapes), key=math.prod)
    tokens = count * tokens_of(largest, params.model.patch_size)
    return Cost("sample", count, tokens, None, peak, batches * seconds / HOUR_S if seconds else None)


def _subject(
    params: Params,
    clips: PlannedClips,
    shapes: Sequence[tuple[int, LatentShape]],
    tokenizer: Path | None,
    videos: Videos,
) -> Subject:
    channels = text_size(params.text).channels
    model = ModelShape(params.model, shapes[0][1][0], channels, params.text.max_tokens)
    val_clips = round(params.curate.val_share * clips.total)
    video = max(videos.read, key=lambda item: item[1].duration_s, default=None)
    largest = max(clips.shapes, key=lambda shape: shape.height_px * shape.width_px * shape.num_frames)
    some = spread(shapes, 256)
    if (most := max(shapes, key=lambda item: math.prod(item[1]))) not in some:
        some.append(most)  # where still pictures crowd out the videos
    return Subject(replace(params), model, some, val_clips, largest, tokenizer, video)


def _strides(params: Params, layout: Layout, is_own: bool) -> tuple[PlannedStrides, Path | None]:
    """Strides and channels of the tokenizer, and its folder if it is trained already."""
    if is_own and layout.tokenizer.is_dir():
        loaded = load_tokenizer(layout.tokenizer)
        return PlannedStrides(loaded.channels, loaded.time_stride, loaded.space_stride), layout.tokenizer
    own = params.tokenizer
    if own.pretrained is not None and Path(own.pretrained).is_dir():
        # Whose strides are its own: the keys of the section are not used.
        loaded = load_tokenizer(Path(own.pretrained))
        return PlannedStrides(loaded.channels, loaded.time_stride, loaded.space_stride), Path(own.pretrained)
    return PlannedStrides(own.channels, own.time_stride, own.space_stride), None


def _assumptions(
    params: Params, clips: PlannedClips, videos: Videos, no_tokenizer: bool, costs: Sequence[Cost]
) -> list[str]:
    runs = len(variants_of(params))
    lines = [
        "nothing is taken from caches: what they hold already costs nothing",
        f"times are of this machine as busy as it is now (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} "
        f"cores), from a probe of at most {LIMIT_S:.0f} s",
        "ingest: decoding only, at the speed of the longest video; captions and scores come on top",
        "encode: the tokenizer only; reading the clips comes on top",
        "train_tokenizer: by its operations, at the encoder's speed, on resources.tokenizer.threads cores",
        "captions: one after the other by one process; evaluate: as fast a pixel as the shipped run",
        "train: clips of noise, without previews and the start of Ray; no stage reaches a target_loss before",
        "train: a curriculum stage that the probe did not reach is as fast by its operations as one it did; "
        f"where it reached none, {100 * STEP_SHARE:.0f} % of the rate of this machine's matrix products",
        "sample: every batch takes what one of clips continued from two latent frames takes",
        "samples and curate are not counted",
    ]
    if not clips.counted:
        lines.append("clips: as many as fit into the videos, none rejected, no cut between shots")
    if videos.total > len(videos.read):
        lines.append(f"videos: {videos.total}, of which {len(videos.read)} headers stand for all")
    if no_tokenizer:
        lines.append("no tokenizer yet: strides and channels are those of section tokenizer")
    if text_size(params.text).assumed:
        lines.append(f"text.encoder: no folder {params.text.encoder}; its channels are those of Qwen2-1.5B")
    if runs:
        lines.append(f"train: {runs} runs, each as long as one of section train, one after the other")
    unknown = [cost.stage for cost in costs if cost.hours is None]
    if unknown:
        lines.append(f"not measured within the time, or nothing to measure with: {'; '.join(unknown)}")
    return lines


def _say(what: str) -> None:
    sys.stderr.write(f"plan: {what}\n")


def training_costs(subject: Subject, messages: Iterable[tuple[Any, ...]]) -> list[Cost]:
    """Costs of each curriculum stage and of the stage `train`, from the messages of `training_probe`."""
    messages, params = list(messages), subject.params
    figures = {message[0]: message[1] for message in messages if message[0] in ("log", "keep", "matmul")}
    speeds = [
        _speed([message[2:] for message in messages if message[0] == "row" and message[1] == number], figures)
        for number in range(len(params.train.curriculum))
    ]
    costs = []
    for number, (stage, speed) in enumerate(zip(params.train.curriculum, speeds, strict=True)):
        used = shapes_of_stage(subject.shapes, stage)
        mean = statistics.fmean(tokens_of(shape, params.model.patch_size, stage) for shape in used)
        clips = stage.steps * stage.batch_size if isinstance(stage.batch_size, int) else None
        speed = speed or _like_others(subject, number, speeds) or _by_rate(subject, number, figures)
        costs.append(
            Cost(
                f"train, curriculum stage {number}",
                clips,
                round(clips * mean) if clips is not None else None,
                None,
                max((m[4] for m in messages if m[0] == "row" and m[1] == number), default=None),
                _stage_seconds(stage, params.train, speed, figures) / HOUR_S if speed else None,
                stage.steps,
                speed.step_s if speed else None,
            )
        )
    return [*costs, sum_stages(costs, max(1, len(variants_of(params))))]


def _speed(rows: Sequence[tuple[float, bool, float]], figures: Mapping[str, float]) -> Speed | None:
    """Speed of a curriculum stage from (second, validated, peak) of the probe's rows in it; None: too few."""
    gaps = [after[0] - before[0] for before, after in itertools.pairwise(rows)]
    plain = [gap for gap, row in zip(gaps, rows[1:], strict=True) if not row[1]]
    if not plain:
        return None
    log_s = min(figures.get("log", 0.0), min(plain) / 2)
    step_s = statistics.median(plain) - log_s
    return Speed(step_s, max(0.0, gaps[-1] - step_s - log_s) if rows[-1][1] else 0.0)


def _like_others(subject: Subject, number: int, speeds: Sequence[Speed | None]) -> Speed | None:
    """Speed of a stage that the probe did not reach: that of one it did, scaled by FLOPs."""
    for known, speed in enumerate(speeds):
        if speed:
            more = _flops(subject, number) / _flops(subject, known)
            return Speed(speed.step_s * more, speed.validation_s * more)
    return None


def _by_rate(subject: Subject, number: int, figures: Mapping[str, float]) -> Speed | None:
    """Speed of a stage where the probe reached none: by this machine's rate of matrix products."""
    if "matmul" not in figures:
        return None
    return Speed(_flops(subject, number) / (figures["matmul"] * STEP_SHARE), 0.0)


def _flops(subject: Subject, number: int) -> float:
    params = subject.params
    stage, patch = params.train.curriculum[number], params.model.patch_size
    _, frames, rows, columns = shapes_of_stage(subject.shapes, stage)[0]
    batch = BatchShape(
        stage.batch_size if isinstance(stage.batch_size, int) else 1,
        min(frames, stage.num_latent_frames or frames),
        rows * columns // patch**2,
    )
    return step_flops(subject.model, batch, stage_params(stage, params.train))


def _stage_seconds(
    stage: CurriculumStage, params: TrainParams, speed: Speed, figures: Mapping[str, float]
) -> float:
    """Seconds of a curriculum stage: steps, rows of the log, validations and checkpoints."""
    kept = stage.steps // params.checkpoint_every + 1
    shown = stage.steps // params.validate_every + 1 if params.validate_every else 0
    ranked = 0  # validations that only rank checkpoints
    if params.validate_every and params.keep_best:
        both = math.lcm(params.validate_every, params.checkpoint_every)
        ranked = stage.steps // params.checkpoint_every - stage.steps // both
    logged = stage.steps // params.log_every + shown
    seconds = stage.steps * speed.step_s + (shown + ranked) * speed.validation_s
    return seconds + logged * figures.get("log", 0.0) + kept * figures.get("keep", 0.0)

"""From the probe's times to what each stage of the curriculum would cost."""

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from videomar.config import CurriculumStage, TrainParams
from videomar.config.params import variants_of
from videomar.ops.plan_counts import shapes_of_stage, tokens_of
from videomar.ops.plan_probe import Subject
from videomar.training.curriculum import stage_params
from videomar.training.throughput import ClipShape, step_flops

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What a stage takes; None = does not apply, or unknown."""

    stage: str
    clips: int | None = None
    tokens: int | None = None
    bytes: int | None = None
    peak_memory_gb: float | None = None
    hours: float | None = None


class Speed(NamedTuple):
    """Of one curriculum stage."""

    step_s: float
    validation_s: float


def training_costs(subject: Subject, messages: Iterable[tuple[Any, ...]]) -> list[Cost]:
    """Each curriculum stage, and the whole stage `train`, from the messages of `training_probe`."""
    messages, params = list(messages), subject.params
    figures = {message[0]: message[1] for message in messages if message[0] in ("log", "keep")}
    speeds = [
        _speed([message[2:] for message in messages if message[0] == "row" and message[1] == number], figures)
        for number in range(len(params.train.curriculum))
    ]
    costs = []
    for number, (stage, speed) in enumerate(zip(params.train.curriculum, speeds, strict=True)):
        used = shapes_of_stage(subject.shapes, stage)
        mean = statistics.fmean(tokens_of(shape, params.model.patch_size, stage) for shape in used)
        clips = stage.steps * stage.batch_size if isinstance(stage.batch_size, int) else None
        speed = speed or _like_others(subject, number, speeds)
        costs.append(
            Cost(
                f"train, curriculum stage {number}",
                clips,
                round(clips * mean) if clips is not None else None,
                None,
                max((m[4] for m in messages if m[0] == "row" and m[1] == number), default=None),
                _stage_seconds(stage, params.train, speed, figures) / HOUR_S if speed else None,
            )
        )
    return [*costs, _sum(costs, max(1, len(variants_of(params))))]


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
    """Speed of a stage that the probe did not reach, by its operations, from one that it did."""
    for known, speed in enumerate(speeds):
        if speed:
            more = _flops(subject, number) / _flops(subject, known)
            return Speed(speed.step_s * more, speed.validation_s * more)
    return None


def _flops(subject: Subject, number: int) -> float:
    params = subject.params
    stage, patch = params.train.curriculum[number], params.model.patch_size
    channels, frames, rows, columns = shapes_of_stage(subject.shapes, stage)[0]
    clips = ClipShape(
        stage.batch_size if isinstance(stage.batch_size, int) else 1,
        min(frames, stage.num_latent_frames or frames),
        rows * columns // patch**2,
        channels * patch**2,
        subject.model.max_text_tokens,
        subject.model.text_channels,
    )
    return step_flops(params.model, clips, stage_params(stage, params.train))


def _stage_seconds(
    stage: CurriculumStage, params: TrainParams, speed: Speed, figures: Mapping[str, float]
) -> float:
    """Steps, rows of the log, validations and checkpoints of a curriculum stage."""
    kept = stage.steps // params.checkpoint_every + 1
    shown = stage.steps // params.validate_every + 1 if params.validate_every else 0
    ranked = 0  # validations that only tell which checkpoint is best
    if params.validate_every and params.keep_best:
        both = math.lcm(params.validate_every, params.checkpoint_every)
        ranked = stage.steps // params.checkpoint_every - stage.steps // both
    logged = stage.steps // params.log_every + shown
    seconds = stage.steps * speed.step_s + (shown + ranked) * speed.validation_s
    return seconds + logged * figures.get("log", 0.0) + kept * figures.get("keep", 0.0)


def _sum(costs: Sequence[Cost], runs: int) -> Cost:
    """The whole stage `train`: all curriculum stages of all runs, one after the other."""

    def total(name: str) -> Any:
        values = [getattr(cost, name) for cost in costs]
        return None if None in values else sum(values) * runs

    peaks = [cost.peak_memory_gb for cost in costs if cost.peak_memory_gb is not None]
    return Cost("train", total("clips"), total("tokens"), None, max(peaks, default=None), total("hours"))

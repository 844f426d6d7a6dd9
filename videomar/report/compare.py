"""A model against its rivals clip by clip: the champion's clips, or the baselines' where there is none.

The difference of each pair is drawn, not only its mean: a lucky mean of few clips shows as such.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import bootstrap

from videomar.evaluation.bootstrap import SAME_TRUTH_DB
from videomar.evaluation.metrics.catalogue import Metric
from videomar.report.score_table import (
    CHIEF,
    Task,
    badness,
    kinds_of,
    metrics_of,
    number,
    tasks_of,
    values_of,
    with_psnr,
)
from videomar.report.strips import label_of

_RESAMPLES = 999


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of one task: the model's values minus the rival's, over the clips that both made."""

    name: str
    chief: bool
    rival: str
    unit: str
    explanation: str
    value: str
    interval: str
    wins: int
    n: int
    verdict: Literal["better", "worse", "open"]
    """By the interval of the mean; open where it holds no difference, or the metric takes no side."""
    sideless: bool
    """Whether more is neither better nor worse."""
    dots: Sequence[float]
    """Place of each clip, percent from the left; the model is better to the right of 50."""
    left: float
    width: float
    """Of the mean's interval, percent."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All differences of one task."""

    title: str
    rows: Sequence[Difference]


def compare_with_champion(rows: pd.DataFrame, champion: pd.DataFrame) -> list[Comparison]:
    """Every metric that both have, over the clips that both judged against the same truth."""
    theirs = with_psnr(champion)
    found = []
    for task in tasks_of(rows):
        left = next(kinds_of(rows, task))[1]
        right = next(kinds_of(theirs, task))[1]
        right = right[_same_truth(left, right)]
        differences = [_difference(metric, "champion", left, right) for metric in metrics_of(rows)]
        found.append(Comparison(task.title, [each for each in differences if each is not None]))
    return [comparison for comparison in found if comparison.rows]


def compare_with_baselines(rows: pd.DataFrame) -> list[Comparison]:
    """The chief metrics against each baseline of the task but the ceiling."""
    return [
        comparison
        for task in tasks_of(rows)
        if (comparison := Comparison(task.title, _against_baselines(rows, task))).rows
    ]


def psnr_differences(
    rows: pd.DataFrame, champion: pd.DataFrame, group: str, kind: str
) -> Mapping[str, tuple[float, float]]:
    """By clip that both made: the model's PSNR and the champion's, decibels."""
    left = next(kinds_of(rows, Task(group, kind)))[1]
    right = next(kinds_of(champion, Task(group, kind)))[1]
    right = right[_same_truth(left, right)]
    return {
        str(clip_id): (float(left["psnr_db"][clip_id]), float(value))
        for clip_id, value in right["psnr_db"].items()
    }


def _against_baselines(rows: pd.DataFrame, task: Task) -> list[Difference]:
    (_, own), *others = kinds_of(rows, task)
    metrics = [metric for metric in metrics_of(rows) if metric.key in CHIEF]
    differences = [
        _difference(metric, label_of(kind), own, table)
        for metric in metrics
        for kind, table in others
        if kind != "tokenizer"
    ]
    return [each for each in differences if each is not None]


def _difference(metric: Metric, rival: str, left: pd.DataFrame, right: pd.DataFrame) -> Difference | None:
    """None where no clip has the metric in both."""
    mine, theirs = values_of(left, metric), values_of(right, metric)
    both = mine.index.intersection(theirs.index)
    if both.empty:
        return None
    mine, theirs = mine[both], theirs[both]
    plain = (mine - theirs).to_numpy(np.float64)
    # To the right is better: for `nearer 1` that is the distance to 1, not the value.
    gains = (badness(theirs, metric) - badness(mine, metric)).to_numpy(np.float64)
    drawn = plain if metric.better == "neither" else gains
    low, high = _interval(drawn)
    widest = max(float(np.abs(drawn).max()), 1e-12)
    ends = sorted((low, high)) if metric.better != "lower" else sorted((-low, -high))
    value = float(drawn.mean()) if metric.better == "nearer 1" else float(plain.mean())
    texts = [number(each, signed=True, beside=(value, *ends)) for each in (value, *ends)]
    return Difference(
        metric.name,
        metric.key in CHIEF if rival == "champion" else metric.key == "psnr",
        rival,
        "nearer to 1" if metric.better == "nearer 1" else metric.unit,
        metric.explanation,
        texts[0],
        f"{texts[1]} to {texts[2]}",
        int((gains > 0).sum()),
        len(both),
        "open" if metric.better == "neither" or low <= 0 <= high else "better" if low > 0 else "worse",
        metric.better == "neither",
        [round(50 + 47 * float(gain) / widest, 2) for gain in drawn],
        50 + 47 * low / widest,
        47 * (high - low) / widest,
    )


def _same_truth(left: pd.DataFrame, right: pd.DataFrame) -> NDArray[np.bool_]:
    """Which rows of `right` judged a clip of `left` by the same truth: repeat-last tells truths apart."""
    own = left["repeat_psnr_db"].reindex(right.index)
    return ((own - right["repeat_psnr_db"]).abs() <= SAME_TRUTH_DB).to_numpy()


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over clips, 95 %."""
    if len(values) < 2:
        return float(values[0]), float(values[0])
    rng = np.random.default_rng(0)
    ends = bootstrap(
        (values,), np.mean, n_resamples=_RESAMPLES, method="percentile", rng=rng
    ).confidence_interval
    return float(ends.low), float(ends.high)

"""The report's tables: figures with their meaning, the gate's intervals, time and memory per stage."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videomar.evaluation.generated import GROUPS
from videomar.evaluation.metrics.catalogue import METRICS, Metric
from videomar.report.score_table import number

FIGURES = {
    "psnr_gain_db": (
        "Continuation, gain",
        "given 2 latent frames: how much closer to the truth than a frozen last frame",
    ),
    "i2v_psnr_gain_db": (
        "Picture and prompt, gain",
        "given 1 picture and the prompt: how much closer than that picture, frozen",
    ),
    "prompt_margin_db": (
        "Prompt margin",
        "how much closer with the right prompt than with a wrong one: whether text is obeyed",
    ),
    "tokenizer_psnr_db": (
        "Tokenizer, PSNR",
        "the truth through the autoencoder: the most that the model could reach",
    ),
}
"""The figures on top: keys of metrics/evaluate.json without their group's prefix, name and meaning."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure of one group, decibels, and the same of the other group if there is one."""

    name: str
    meaning: str
    value: str
    beside: str
    """Such as "real −3.69"; may be empty."""


@dataclass(frozen=True, slots=True)
class Interval:
    """One of the gate's figures, with its places on its scale in percent from the left."""

    name: str
    text: str
    """The mean, with its sign."""
    range: str
    """The interval."""
    n: int
    unit: str
    left: float
    width: float
    dot: float
    zero: float
    limit: float
    """What the interval must lie right of."""


@dataclass(frozen=True, slots=True)
class SetFigure:
    """One metric of a whole set of clips."""

    metric: Metric
    of: str
    """Of which clips."""
    value: str
    notes: Sequence[str]
    """Interval, number of clips, extractor, where it has them."""
    too_few: bool
    """Whether there are too few clips to rank models by it."""


@dataclass(frozen=True, slots=True)
class StageCost:
    """What one stage cost, and as a share of the costliest, percent."""

    stage: str
    seconds: float
    peak_memory_gb: float
    time_share: float
    memory_share: float


def read_metrics(folder: Path) -> dict[str, dict[str, float]]:
    """metrics/STAGE.json by stage."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}


def judged_groups(figures: Mapping[str, float]) -> list[str]:
    """Groups of clips that were evaluated."""
    return [group for group, prefix in GROUPS.items() if f"{prefix}_clips" in figures]


def headline_rows(figures: Mapping[str, float]) -> list[Tile]:
    """The few figures on top: of simulated clips where there are any, else of real ones."""
    groups = judged_groups(figures)
    tiles = []
    for key, (name, meaning) in FIGURES.items():
        values = {group: _value(key, figures, group) for group in groups}
        if groups and values[groups[0]]:
            beside = " ".join(f"{group} {values[group]}" for group in groups[1:] if values[group])
            tiles.append(Tile(name, meaning, values[groups[0]], beside))
    return tiles


def gate_intervals(decision: Mapping[str, Any] | None) -> list[Interval]:
    """The gate's figures.

    Decibels over baselines are on one scale that holds zero, those over the champion, which are much smaller,
    on another; metrics without a unit have nothing in common, and a scale each.
    """
    figures = [{"unit": "dB", "limit": 0.0, **figure} for figure in (decision or {}).get("figures", ())]
    scales = [
        (figure["unit"], figure["name"].endswith("the champion")) if figure["unit"] else figure["name"]
        for figure in figures
    ]
    ends: dict[Any, list[float]] = {scale: [0.0] for scale in scales}
    for scale, figure in zip(scales, figures, strict=True):
        ends[scale] += [figure["low"], figure["high"], figure["limit"]]

    def place(value: float, scale: Any) -> float:
        low, high = min(ends[scale]), max(ends[scale])
        return 3 + 94 * (value - low) / ((high - low) or 1.0)

    return [
        Interval(
            figure["name"],
            *_value_and_range(figure, signed=True),
            figure["n"],
            figure["unit"],
            left=place(figure["low"], scale),
            width=place(figure["high"], scale) - place(figure["low"], scale),
            dot=place(figure["value"], scale),
            zero=place(0.0, scale),
            limit=place(figure["limit"], scale),
        )
        for figure, scale in zip(figures, scales, strict=True)
    ]


def set_figures(figures: Mapping[str, float], facts: Mapping[str, Any]) -> list[SetFigure]:
    """The metrics of whole sets of clips, each of every group and task that has it."""
    found = []
    for metric in (metric for metric in METRICS if metric.per == "set"):
        for group, prefix in GROUPS.items():
            for task, words in (("", ", continued"), ("i2v_", ", from one picture")):
                key = f"{prefix}_{task}{metric.key}"
                of = group.capitalize() + (words if metric.key == "frechet" else "")
                score = facts.get("frechet", {}).get(key)
                if score is not None:
                    clips = min(score["n_real"], score["n_generated"])
                    notes = (_value_and_range(score)[1], f"{clips} clips", str(score["extractor"]))
                    value = _value_and_range(score)[0]
                    found.append(SetFigure(metric, of, value, notes, bool(score["too_few_to_rank"])))
                elif key in figures:
                    found.append(SetFigure(metric, of, number(figures[key]), (), False))
    return found


def stage_costs(metrics: Mapping[str, Mapping[str, float]]) -> list[StageCost]:
    """Time and memory of each stage that recorded them, longest first."""
    known = {stage: figures for stage, figures in metrics.items() if "seconds" in figures}
    longest = max((figures["seconds"] for figures in known.values()), default=1.0) or 1.0
    widest = max((figures.get("peak_memory_gb", 0.0) for figures in known.values()), default=1.0) or 1.0
    costs = []
    for stage, figures in known.items():
        seconds, memory = figures["seconds"], figures.get("peak_memory_gb", 0.0)
        costs.append(StageCost(stage, seconds, memory, 100 * seconds / longest, 100 * memory / widest))
    return sorted(costs, key=lambda cost: -cost.seconds)


def _value_and_range(figure: Mapping[str, Any], signed: bool = False) -> tuple[str, str]:
    """`value`, and `low` to `high`, with as many digits."""
    values = tuple(float(figure[name]) for name in ("value", "low", "high"))
    value, low, high = (number(each, signed, beside=values) for each in values)
    return value, f"{low} to {high}"


def _value(key: str, figures: Mapping[str, float], group: str) -> str:
    """The figure of a group as text, differences with their sign; empty if absent."""
    value = figures.get(f"{GROUPS[group]}_{key}")
    if value is None:
        return ""
    return number(value, signed="gain" in key or "margin" in key)

"""The report's tables: figures with their meaning, the gate's intervals, time and memory per stage."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videomar.evaluation.metrics import GROUPS

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
    "psnr_gain_untrained_db": (
        "Untrained model, gain",
        "continuation by the same model before any training: where learning starts",
    ),
    "psnr_db": ("Continuation, PSNR", "likeness to the truth in decibels; 60 = equal"),
    "repeat_psnr_db": ("Repeat last frame, PSNR", "the same for showing the last given frame for ever"),
    "tokenizer_psnr_db": (
        "Tokenizer, PSNR",
        "the truth through the autoencoder: the most that the model could reach",
    ),
    "clips": ("Held-out clips", "from videos that training never saw"),
}
"""Figures of metrics/evaluate.json without their group's prefix: name and meaning."""

HEADLINES = ("psnr_gain_db", "i2v_psnr_gain_db", "prompt_margin_db", "tokenizer_psnr_db")


@dataclass(frozen=True, slots=True)
class FigureRow:
    """One figure in words and numbers."""

    name: str
    meaning: str
    values: Mapping[str, str]
    """Formatted value by group; a dash where the group lacks it."""


@dataclass(frozen=True, slots=True)
class Interval:
    """One of the gate's figures, with its places on the common scale in percent from the left."""

    name: str
    value: float
    low: float
    high: float
    n: int
    left: float
    width: float
    dot: float
    zero: float


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
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def judged_groups(figures: Mapping[str, float]) -> list[str]:
    """Groups of clips that were evaluated."""
    return [group for group, prefix in GROUPS.items() if f"{prefix}_clips" in figures]


def headline_rows(figures: Mapping[str, float]) -> list[FigureRow]:
    """The few figures on top: of simulated clips where there are any, else of real ones."""
    groups = judged_groups(figures)[:1]
    return [_row(key, figures, groups) for key in HEADLINES if any(_value(key, figures, groups))]


def figure_rows(figures: Mapping[str, float]) -> list[FigureRow]:
    """Every figure that some group has."""
    groups = judged_groups(figures)
    return [_row(key, figures, groups) for key in FIGURES if any(_value(key, figures, groups))]


def gate_intervals(decision: Mapping[str, Any] | None) -> list[Interval]:
    """The gate's figures on one common scale that holds zero."""
    figures = decision["figures"] if decision is not None else []
    ends = [0.0, *(figure[end] for figure in figures for end in ("low", "high"))]
    low, span = min(ends), (max(ends) - min(ends)) or 1.0

    def place(value: float) -> float:
        return 3 + 94 * (value - low) / span

    return [
        Interval(
            **figure,
            left=place(figure["low"]),
            width=place(figure["high"]) - place(figure["low"]),
            dot=place(figure["value"]),
            zero=place(0.0),
        )
        for figure in figures
    ]


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


def _row(key: str, figures: Mapping[str, float], groups: list[str]) -> FigureRow:
    name, meaning = FIGURES[key]
    texts = [text or "–" for text in _value(key, figures, groups)]
    return FigureRow(name, meaning, dict(zip(groups, texts, strict=True)))


def _value(key: str, figures: Mapping[str, float], groups: list[str]) -> list[str]:
    """The figure of each group as text: differences with their sign, counts as integers; empty if absent."""
    style = "d" if key == "clips" else "+.2f" if "gain" in key or "margin" in key else ".2f"
    values = [figures.get(f"{GROUPS[group]}_{key}") for group in groups]
    return ["" if value is None else format(int(value) if style == "d" else value, style) for value in values]

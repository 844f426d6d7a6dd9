"""Figures of groups of clips from the table of single ones: flat, each under its own name; drift by frame.

Axes: F frames.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from videomar.evaluation.generated import GROUPS, ClipKinds, is_stretched, psnr_by_frame, repeat_last
from videomar.evaluation.metrics.fidelity import drift_curve
from videomar.evaluation.score_clips import CLIP_METRICS, frames_psnr, start_of, with_repeat

FRAME_COLUMNS = (
    "group", "kind", "frame", "model_db", "repeat_db", "tokenizer_db", "model_low", "model_high",
)  # fmt: skip
_NAMED = {
    "psnr_gain_db": ("gain_db", "continuation"),
    "psnr_gain_untrained_db": ("gain_db", "continuation_untrained"),
    "psnr_gain_linear_db": ("gain_db", "continuation_linear"),
    "i2v_psnr_gain_db": ("gain_db", "image"),
    "psnr_db": ("psnr_db", "continuation"),
    "repeat_psnr_db": ("repeat_psnr_db", "continuation"),
    "untrained_psnr_db": ("psnr_db", "continuation_untrained"),
    "linear_psnr_db": ("psnr_db", "continuation_linear"),
    "tokenizer_psnr_db": ("psnr_db", "tokenizer"),
    "i2v_psnr_db": ("psnr_db", "image"),
    "i2v_repeat_psnr_db": ("repeat_psnr_db", "image"),
    "i2v_wrong_prompt_psnr_db": ("psnr_db", "image_wrong_prompt"),
}
_MODEL = {"": "continuation", "i2v_": "image"}
_METRICS = tuple(metric.key for metric in CLIP_METRICS if metric.key != "psnr")
_OTHERS = {
    "repeat_": ("continuation_repeat", ("ssim",)),
    "linear_": ("continuation_linear", ("ssim", "motion_retained")),
    "untrained_": ("continuation_untrained", ("ssim",)),
    "tokenizer_": ("tokenizer", ("ssim", "motion_retained")),
    "longer_": ("image_longer", ("holds_together", "sharpness_kept", "motion_amount", "flicker")),
    "larger_": ("image_larger", ("holds_together", "sharpness_kept", "motion_amount", "flicker")),
}
"""By prefix: a kind that is no model's clip of the trained size, and which of its metrics are figures."""
_SEEDED = re.compile(r"_seed\d+$")


def summarise(rows: pd.DataFrame) -> dict[str, float]:
    """Means over clips of each group's figures; a group, a kind or a metric that is absent has no keys.

    Args:
        rows: evaluation.parquet.
    """
    figures: dict[str, float] = {}
    for group, prefix in GROUPS.items():
        of_group = rows[rows["group"] == group]
        named = _named_figures(of_group) | _metric_figures(of_group) if len(of_group) else {}
        figures |= {f"{prefix}_{name}": value for name, value in named.items()}
    return figures


def frame_table(clips: Sequence[ClipKinds], seed: int) -> pd.DataFrame:
    """Means by group, kind and frame with the bootstrap band of the model's, FRAME_COLUMNS; first seed only.

    Where clips are of several lengths, a mean is over those that have the frame.
    """
    curves = [(kinds["truth"].group, _curves(with_repeat(kinds))) for kinds in clips]
    rows: list[list[object]] = []
    for group, kind in sorted({(group, kind) for group, by_kind in curves for kind in by_kind}):
        there = [by_kind[kind] for of_group, by_kind in curves if of_group == group and kind in by_kind]
        rows += _rows_of_kind(group, kind, there, seed)
    return pd.DataFrame(rows, columns=list(FRAME_COLUMNS)).round(4)


def drift_figures(frames: pd.DataFrame) -> dict[str, float]:
    """Change of the mean PSNR from frame to frame, decibels: what is lost as a clip goes on."""
    figures = {}
    for group, prefix in GROUPS.items():
        for name, kind in _MODEL.items():
            curve = frames[(frames["group"] == group) & (frames["kind"] == kind)]
            if len(curve) > 1:
                slope = np.polynomial.Polynomial.fit(curve["frame"], curve["model_db"], 1).convert()
                figures[f"{prefix}_{name}psnr_drift_db"] = float(slope.coef[-1])
    return figures


class _Curves(NamedTuple):
    """PSNR by frame, (F,), of one clip."""

    start: int
    model: NDArray[np.float64]
    repeat: NDArray[np.float64]
    tokenizer: NDArray[np.float64]


def _curves(kinds: ClipKinds) -> dict[str, _Curves]:
    """Curves of a clip by kind; first seed only."""
    truth, tokenizer = kinds["truth"].frames, frames_psnr(kinds, "tokenizer")
    curves = {}
    for kind, clip in kinds.items():
        if kind == "truth" or is_stretched(kind) or _SEEDED.search(kind):
            continue
        start = start_of(kinds, clip)
        repeat = psnr_by_frame(repeat_last(truth, start), truth)
        curves[kind] = _Curves(start, frames_psnr(kinds, kind), repeat, tokenizer)
    return curves


def _rows_of_kind(group: str, kind: str, curves: list[_Curves], seed: int) -> list[list[object]]:
    ends = sorted({curve.start for curve in curves} | {len(curve.model) for curve in curves})
    rows: list[list[object]] = []
    for low, high in pairwise(ends):
        there = [curve for curve in curves if curve.start <= low and len(curve.model) >= high]
        if not there:
            continue
        drift = drift_curve([curve.model[:high] for curve in there], low, seed)
        columns = (
            _means([curve.repeat[:high] for curve in there], low),
            _means([curve.tokenizer[:high] for curve in there], low),
        )
        values = zip(drift.frames, drift.mean, *columns, drift.low, drift.high, strict=True)
        rows += [[group, kind, *row] for row in values]
    return rows


def _means(scores: Sequence[NDArray[np.float64]], first_frame: int) -> list[float]:
    means: list[float] = np.mean([score[first_frame:] for score in scores], axis=0).tolist()
    return means


def _named_figures(rows: pd.DataFrame) -> dict[str, float]:
    """Decibels of one group, without the group's prefix."""
    table = {
        column: rows.pivot_table(index="clip_id", columns="kind", values=column)
        for column in ("psnr_db", "repeat_psnr_db", "gain_db")
    }
    figures = {
        name: float(table[column][kind].mean())
        for name, (column, kind) in _NAMED.items()
        if kind in table[column]
    }
    psnr = table["psnr_db"]
    if {"image", "image_wrong_prompt"} <= set(psnr.columns):
        figures["prompt_margin_db"] = float((psnr["image"] - psnr["image_wrong_prompt"]).mean())
    for kind in psnr.columns:
        if re.fullmatch(r"continuation_\d+", kind):
            figures[f"{kind}_psnr_gain_db"] = float(table["gain_db"][kind].mean())
    return {**figures, "clips": float(len(psnr))}


def _metric_figures(rows: pd.DataFrame) -> dict[str, float]:
    """Means of the catalogue's metrics over the clips that have them, without the group's prefix."""
    asked = {name: (kind, _METRICS) for name, kind in _MODEL.items()} | _OTHERS
    figures = {}
    for name, (kind, metrics) in asked.items():
        of_kind = rows[rows["kind"] == kind]
        for metric in metrics:
            values = of_kind[metric].dropna() if metric in of_kind else []
            if len(values):
                figures[f"{name}{metric}"] = float(np.mean(values))
    return figures

"""Metrics of groups of clips, from the table of single clips; PSNR by frame and its drift.

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
"""By prefix of a key: a kind other than the model's own clips of trained size, and its metrics that count."""
_SEEDED = re.compile(r"_seed\d+$")


def summarise(rows: pd.DataFrame) -> dict[str, float]:
    """Means over clips by group, kind and metric, flat; absent ones have no keys.

    Args:
        rows: evaluation.parquet.
    """
    metrics: dict[str, float] = {}
    for group, prefix in GROUPS.items():
        of_group = rows[rows["group"] == group]
        named = _decibels(of_group) | _catalogue_means(of_group) if len(of_group) else {}
        metrics |= {f"{prefix}_{name}": value for name, value in named.items()}
    return metrics


def frame_table(clips: Sequence[ClipKinds], seed: int) -> pd.DataFrame:
    """Means by group, kind and frame with the model's bootstrap band, FRAME_COLUMNS; first seed only.

    If clips differ in length, a mean is over those that have the frame.
    """
    curves = [(kinds["truth"].group, _curves(with_repeat(kinds))) for kinds in clips]
    rows: list[list[object]] = []
    for group, kind in sorted({(group, kind) for group, by_kind in curves for kind in by_kind}):
        own = [by_kind[kind] for of_group, by_kind in curves if of_group == group and kind in by_kind]
        rows += _rows_of_kind(group, kind, own, seed)
    return pd.DataFrame(rows, columns=list(FRAME_COLUMNS)).round(4)


def drift_metrics(frames: pd.DataFrame) -> dict[str, float]:
    """Slope of the mean PSNR by frame, decibels per frame: the loss of quality over a clip."""
    metrics = {}
    for group, prefix in GROUPS.items():
        for name, kind in _MODEL.items():
            curve = frames[(frames["group"] == group) & (frames["kind"] == kind)]
            if len(curve) > 1:
                slope = np.polynomial.Polynomial.fit(curve["frame"], curve["model_db"], 1).convert()
                metrics[f"{prefix}_{name}psnr_drift_db"] = float(slope.coef[-1])
    return metrics


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
    """Rows of FRAME_COLUMNS. Clips may differ in length and context, as in buckets of several shapes.

    `ends` are all frames where a clip begins or ends: between two of them the set of clips is the same, so
    that one bootstrap gives the band of that stretch.
    """
    ends = sorted({curve.start for curve in curves} | {len(curve.model) for curve in curves})
    rows: list[list[object]] = []
    for low, high in pairwise(ends):
        present = [curve for curve in curves if curve.start <= low and len(curve.model) >= high]
        if not present:
            continue
        drift = drift_curve([curve.model[:high] for curve in present], low, seed)
        columns = (
            _means([curve.repeat[:high] for curve in present], low),
            _means([curve.tokenizer[:high] for curve in present], low),
        )
        values = zip(drift.frames, drift.mean, *columns, drift.low, drift.high, strict=True)
        rows += [[group, kind, *row] for row in values]
    return rows


def _means(scores: Sequence[NDArray[np.float64]], first_frame: int) -> list[float]:
    means: list[float] = np.mean([score[first_frame:] for score in scores], axis=0).tolist()
    return means


def _decibels(rows: pd.DataFrame) -> dict[str, float]:
    """PSNR and gains of one group, keyed without the group's prefix."""
    table = {
        column: rows.pivot_table(index="clip_id", columns="kind", values=column)
        for column in ("psnr_db", "repeat_psnr_db", "gain_db")
    }
    metrics = {
        name: float(table[column][kind].mean())
        for name, (column, kind) in _NAMED.items()
        if kind in table[column]
    }
    psnr = table["psnr_db"]
    if {"image", "image_wrong_prompt"} <= set(psnr.columns):
        metrics["prompt_margin_db"] = float((psnr["image"] - psnr["image_wrong_prompt"]).mean())
    for kind in psnr.columns:
        if re.fullmatch(r"continuation_\d+", kind):
            metrics[f"{kind}_psnr_gain_db"] = float(table["gain_db"][kind].mean())
    return {**metrics, "clips": float(len(psnr))}


def _catalogue_means(rows: pd.DataFrame) -> dict[str, float]:
    """Means of the catalogue's metrics over the clips that have them, keyed without the group's prefix."""
    wanted = {name: (kind, _METRICS) for name, kind in _MODEL.items()} | _OTHERS
    metrics = {}
    for name, (kind, keys) in wanted.items():
        of_kind = rows[rows["kind"] == kind]
        for key in keys:
            values = of_kind[key].dropna() if key in of_kind else []
            if len(values):
                metrics[f"{name}{key}"] = float(np.mean(values))
    return metrics

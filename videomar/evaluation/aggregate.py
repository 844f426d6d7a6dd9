"""Metrics of groups of clips, from the table of single clips; PSNR by frame and its drift.

Axes: F frames.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from videomar.evaluation.baselines import with_baselines
from videomar.evaluation.bootstrap import ends_of, means_of_draws, shots_of
from videomar.evaluation.generated import (
    GROUPS,
    ClipKinds,
    is_stretched,
    psnr_by_frame,
    repeat_last,
    truth_kind,
)
from videomar.evaluation.score_clips import CLIP_METRICS, frames_psnr, start_of

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
BENCH = {
    "": "continuation",
    "decoded_repeat_": "continuation_decoded_repeat",
    "flow_": "continuation_flow",
    "ceiling_": "tokenizer",
    "ceiling_carry_": "tokenizer_carry",
    "i2v_": "image",
    "i2v_decoded_repeat_": "image_decoded_repeat",
    "i2v_ceiling_": "image_tokenizer",
    "i2v_ceiling_carry_": "image_tokenizer_carry",
}
"""The model's clips, its baselines and ceilings by prefix of a key: each with its gain over the pixel repeat,
the share of clips that it wins against it, the motion that it keeps, and its VGG distance."""
_MODEL = {"": "continuation", "i2v_": "image"}
_METRICS = tuple(metric.key for metric in CLIP_METRICS if metric.key != "psnr")
_OTHERS = {
    **{
        name: (kind, ("motion_retained", "vgg"))
        for name, kind in BENCH.items()
        if kind not in _MODEL.values()
    },
    "repeat_": ("continuation_repeat", ("ssim", "vgg")),
    "i2v_repeat_": ("image_repeat", ("vgg",)),
    "linear_": ("continuation_linear", ("ssim", "motion_retained")),
    "untrained_": ("continuation_untrained", ("ssim",)),
    "tokenizer_": ("tokenizer", ("ssim", "motion_retained")),
    "longer_": ("image_longer", ("holds_together", "sharpness_kept", "motion_amount", "flicker")),
    "larger_": ("image_larger", ("holds_together", "sharpness_kept", "motion_amount", "flicker")),
}
"""By prefix of a key: a kind other than the model's own clips of trained size, and its metrics that count."""
_SHARES = ("clips_won", "dynamic_degree", "holds_together", "exposure")
"""Ends of the keys of figures that are shares."""
_RESAMPLES = 1999
_SEEDED = re.compile(r"_seed\d+$")
_WORLD = re.compile(r"image_((?:long|large)\d+)")


def summarise(rows: pd.DataFrame, seed: int = 0) -> dict[str, float]:
    """Means over clips by group, kind and metric, flat; absent ones have no keys.

    Those of real clips, which overlap, have `_low` and `_high` beside them: ends of the 95 % bootstrap
    interval, which draws shots. `sim_shots` and `real_shots` say of how many shots the clips are.

    Args:
        rows: evaluation.parquet.
        seed: Of the resampling.
    """
    metrics: dict[str, float] = {}
    shots = shots_of(rows)
    for group, prefix in GROUPS.items():
        of_group = rows[rows["group"] == group]
        if of_group.empty:
            continue
        values = _decibels(of_group) | _catalogue_values(of_group)
        metrics |= {f"{prefix}_{name}": float(of_clips.mean()) for name, of_clips in values.items()}
        metrics[f"{prefix}_clips"] = float(of_group["clip_id"].nunique())
        if shots is not None:
            metrics[f"{prefix}_shots"] = float(shots[of_group["clip_id"].unique()].nunique())
        if group == "real":
            for name, of_clips in values.items():
                labels = None if shots is None else shots[of_clips.index].to_numpy(object)
                ends = mean_band(of_clips.to_numpy(np.float64)[:, None], seed, labels)
                low, high = (float(end[0]) for end in ends)
                if name.endswith(_SHARES):  # the interval is widened, but a share is from 0 to 1
                    low, high = max(low, 0.0), min(high, 1.0)
                if np.isfinite(low):
                    metrics |= {f"{prefix}_{name}_low": low, f"{prefix}_{name}_high": high}
    return metrics


def frame_table(clips: Sequence[ClipKinds], seed: int) -> pd.DataFrame:
    """Means by group, kind and frame with the model's bootstrap band, FRAME_COLUMNS; first seed only.

    If clips differ in length, a mean is over those that have the frame.
    """
    scores = pd.DataFrame(
        [row for kinds in clips for row in _frame_scores(with_baselines(kinds))],
        columns=["clip_id", *FRAME_COLUMNS[:6]],
    )
    shots = {kinds["truth"].clip_id: kinds["truth"].shot for kinds in clips}
    tables = []
    for _, own in scores.groupby(["group", "kind"]):
        means = own.groupby(["group", "kind", "frame"], as_index=False).mean(numeric_only=True)
        # Clips that exist at a frame are resampled together: one row a clip, NaN before and behind it.
        table = own.pivot(index="clip_id", columns="frame", values="model_db")
        labels = [shots[clip_id] or clip_id for clip_id in table.index]
        low, high = mean_band(table.to_numpy(), seed, np.array(labels, object))
        tables.append(means.assign(model_low=low, model_high=high))
    return pd.concat(tables).round(4) if tables else pd.DataFrame(columns=list(FRAME_COLUMNS))


def mean_band(
    scores: NDArray[np.float64], seed: int, shots: NDArray[np.object_] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends of the 95 % bootstrap band of the mean over clips: scores (N, F) -> (F,), (F,).

    Whole shots are drawn, so that the frames of one clip and the clips of one shot stay together: the band is
    around the mean at each frame, and neighbouring frames move up and down together. A frame of one shot has
    no band: NaN.

    Args:
        scores: A row for each clip, NaN where it has no such frame.
        seed: Of the resampling.
        shots: The shot of each clip (N,); None = each is one.
    """
    low, high = np.full((2, scores.shape[1]), np.nan)
    present = ~np.isnan(scores)
    labels = np.arange(len(scores)).astype(object) if shots is None else shots
    # Frames that exist in the same clips share their draws.
    for pattern in np.unique(present, axis=1).T:
        frames = (present == pattern[:, None]).all(axis=0)
        own = scores[pattern][:, frames]
        if len(set(labels[pattern])) < 2:
            continue
        means, count = means_of_draws(own, labels[pattern], _RESAMPLES, np.random.default_rng(seed))
        low[frames], high[frames] = ends_of(means, own.mean(axis=0), count, 0.95)
    return low, high


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


def _frame_scores(kinds: ClipKinds) -> Iterator[tuple[Any, ...]]:
    """clip_id and the first six FRAME_COLUMNS of a clip by kind and generated frame; first seed only."""
    truth, tokenizer = kinds["truth"].frames, frames_psnr(kinds, "tokenizer")
    for kind, clip in kinds.items():
        if kind == "truth" or truth_kind(kind) != "truth" or is_stretched(kind) or _SEEDED.search(kind):
            continue
        start, model = start_of(kinds, clip), frames_psnr(kinds, kind)
        repeat = psnr_by_frame(repeat_last(truth, start), truth)
        for frame in range(start, len(model)):
            yield clip.clip_id, clip.group, kind, frame, model[frame], repeat[frame], tokenizer[frame]


def _decibels(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """PSNR and gains of the clips of one group, by clip_id, keyed without the group's prefix."""
    table = {
        column: rows.pivot_table(index="clip_id", columns="kind", values=column)
        for column in ("psnr_db", "repeat_psnr_db", "gain_db")
    }
    values = {name: table[column][kind] for name, (column, kind) in _NAMED.items() if kind in table[column]}
    psnr = table["psnr_db"]
    if {"image", "image_wrong_prompt"} <= set(psnr.columns):
        values["prompt_margin_db"] = psnr["image"] - psnr["image_wrong_prompt"]
    for name, kind in BENCH.items():
        if kind in table["gain_db"]:
            gains = table["gain_db"][kind].dropna()
            values[f"{name}clips_won"] = (gains > 0).astype(np.float64)
            if name not in _MODEL:
                values[f"{name}gain_db"] = gains
    for kind in psnr.columns:
        if re.fullmatch(r"continuation_\d+", kind):
            values[f"{kind}_psnr_gain_db"] = table["gain_db"][kind]
        if found := _WORLD.fullmatch(kind):
            values[f"{found[1]}_psnr_gain_db"] = table["gain_db"][kind]
    return {name: of_clips.dropna() for name, of_clips in values.items()}


def _catalogue_values(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """The catalogue's metrics of the clips that have them, by clip_id, keyed without the group's prefix."""
    wanted = {name: (kind, _METRICS) for name, kind in _MODEL.items()} | _OTHERS
    worlds = (_WORLD.fullmatch(kind) for kind in rows["kind"].unique())
    wanted |= {f"{world[1]}_": (world[0], ("bodies_lost", "jumps")) for world in worlds if world}
    values = {}
    for name, (kind, keys) in wanted.items():
        of_kind = rows[rows["kind"] == kind].set_index("clip_id")
        for key in keys:
            found = of_kind[key].dropna() if key in of_kind else pd.Series(dtype=np.float64)
            if len(found):
                values[f"{name}{key}"] = found
    return values

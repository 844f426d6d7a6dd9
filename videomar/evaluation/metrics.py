"""Generated clips against the truth, and against repeating the last frame that the model was given.

Only frames that the model made count: those from `context_frames` on. A clip's PSNR is that of the squared
error pooled over its generated frames; figures of a group are means over clips.

Axes: F frames, H W rows and columns in pixels.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from videomar.errors import DataError

PSNR_CAP_DB = 60.0
"""PSNR of equal clips, and of all that differ by less than a thousandth of the range."""

GROUPS = {"simulated": "sim", "real": "real"}
_FIGURE_COLUMNS = ["clip_id", "group", "kind", "psnr_db", "repeat_psnr_db", "gain_db"]
_FRAME_COLUMNS = ["group", "kind", "frame", "model_db", "repeat_db", "tokenizer_db"]


@dataclass(frozen=True, slots=True)
class Clip:
    """One row of generated.parquet: the pixels of one kind of one held-out clip."""

    clip_id: str
    group: str
    kind: str
    caption: str
    prompt: str
    context_frames: int
    """Pixel frames that the model was given, from the start."""
    fps: float
    frames: NDArray[np.uint8]
    """(F, H, W, 3) uint8."""


ClipKinds = dict[str, Clip]
"""All kinds of one held-out clip, `truth` among them."""


def psnr_db(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of two uint8 arrays of one shape, decibels, at most PSNR_CAP_DB."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    floor = 255.0**2 / 10 ** (PSNR_CAP_DB / 10)
    return float(10 * np.log10(255.0**2 / max(error, floor)))


def psnr_by_frame(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float64]:
    """PSNR of each frame by itself: (F, H, W, 3) and (F, H, W, 3) -> (F,) decibels."""
    return np.array([psnr_db(left, right) for left, right in zip(a, b, strict=True)])


def repeat_last(truth: NDArray[np.uint8], context_frames: int) -> NDArray[np.uint8]:
    """What a model without motion would show: the context, then its last frame for ever; (F, H, W, 3)."""
    frames = truth.copy()
    frames[context_frames:] = truth[context_frames - 1]
    return frames


def read_generated(path: Path) -> list[ClipKinds]:
    """All held-out clips of generated.parquet in the order of their ids.

    Raises:
        DataError: the file cannot be read, or a clip lacks its truth or differs from it in shape.
    """
    try:
        rows = pq.read_table(path).to_pylist()
        clips = [_clip(row) for row in rows]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file, expected generated clips; run `dvc repro sample`") from None
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        line = " ".join(str(error).split())
        raise DataError(f"{path}: got {line}, expected generated clips; run `dvc repro sample`") from None
    by_id: dict[str, ClipKinds] = {}
    for clip in clips:
        by_id.setdefault(clip.clip_id, {})[clip.kind] = clip
    for clip_id, kinds in by_id.items():
        _check_truth(f"{path}: clip {clip_id}", kinds)
    return [by_id[clip_id] for clip_id in sorted(by_id)]


def evaluate_clips(generated: Path, out: Path, plot: Path) -> dict[str, float]:
    """Score generated.parquet; write one row per clip and kind to `out`, and means by frame to `plot` (CSV).

    Returns:
        Mean figures of each group that is there, keyed `sim_...` and `real_...`; decibels, numbers of clips.
    """
    clips = read_generated(generated)
    rows = pd.DataFrame([row for kinds in clips for row in _clip_figures(kinds)], columns=_FIGURE_COLUMNS)
    by_frame = pd.DataFrame([row for kinds in clips for row in _frame_figures(kinds)], columns=_FRAME_COLUMNS)
    means = by_frame.groupby(_FRAME_COLUMNS[:3], sort=True).mean().round(4).reset_index()
    _write(out, lambda path: rows.to_parquet(path, index=False))
    _write(plot, lambda path: means.to_csv(path, index=False))
    return summarise(rows)


def summarise(rows: pd.DataFrame) -> dict[str, float]:
    """Means over clips of each group's figures; a group or kind that is absent has no keys.

    Args:
        rows: evaluation.parquet: clip_id, group, kind, psnr_db, repeat_psnr_db, gain_db.
    """
    figures: dict[str, float] = {}
    for group, prefix in GROUPS.items():
        of_group = rows[rows["group"] == group]
        table = {
            column: of_group.pivot_table(index="clip_id", columns="kind", values=column)
            for column in ("psnr_db", "repeat_psnr_db", "gain_db")
        }
        named = _named_figures(table) if len(of_group) else {}
        figures |= {f"{prefix}_{name}": value for name, value in named.items()}
    return figures


def _named_figures(table: dict[str, pd.DataFrame]) -> dict[str, float]:
    """Figures of one group from tables of clips by kinds, without the group's prefix."""
    kinds = {
        "psnr_gain_db": ("gain_db", "continuation"),
        "psnr_gain_untrained_db": ("gain_db", "continuation_untrained"),
        "i2v_psnr_gain_db": ("gain_db", "image"),
        "psnr_db": ("psnr_db", "continuation"),
        "repeat_psnr_db": ("repeat_psnr_db", "continuation"),
        "untrained_psnr_db": ("psnr_db", "continuation_untrained"),
        "tokenizer_psnr_db": ("psnr_db", "tokenizer"),
        "i2v_psnr_db": ("psnr_db", "image"),
        "i2v_repeat_psnr_db": ("repeat_psnr_db", "image"),
        "i2v_wrong_prompt_psnr_db": ("psnr_db", "image_wrong_prompt"),
    }
    figures = {
        name: float(table[column][kind].mean())
        for name, (column, kind) in kinds.items()
        if kind in table[column]
    }
    psnr = table["psnr_db"]
    if {"image", "image_wrong_prompt"} <= set(psnr.columns):
        figures["prompt_margin_db"] = float((psnr["image"] - psnr["image_wrong_prompt"]).mean())
    return {**figures, "clips": float(len(psnr))}


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary name beside `path`, then give the file its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    write(temporary)
    os.replace(temporary, path)


def _clip_figures(kinds: ClipKinds) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for kind, clip in _judged(kinds):
        start, truth = _start(kinds, clip), kinds["truth"].frames
        quality = psnr_db(clip.frames[start:], truth[start:])
        repeat = psnr_db(repeat_last(truth, start)[start:], truth[start:])
        row = [clip.clip_id, clip.group, kind, quality, repeat, quality - repeat]
        rows.append(dict(zip(_FIGURE_COLUMNS, row, strict=True)))
    return rows


def _frame_figures(kinds: ClipKinds) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    truth = kinds["truth"].frames
    ceiling = (
        psnr_by_frame(kinds["tokenizer"].frames, truth)
        if "tokenizer" in kinds
        else np.full(len(truth), np.nan)
    )
    for kind, clip in _judged(kinds):
        start = _start(kinds, clip)
        quality, repeat = psnr_by_frame(clip.frames, truth), psnr_by_frame(repeat_last(truth, start), truth)
        for frame in range(start, len(truth)):
            row = [clip.group, kind, frame, quality[frame], repeat[frame], ceiling[frame]]
            rows.append(dict(zip(_FRAME_COLUMNS, row, strict=True)))
    return rows


def _judged(kinds: ClipKinds) -> list[tuple[str, Clip]]:
    return [(kind, clip) for kind, clip in sorted(kinds.items()) if kind != "truth"]


def _start(kinds: ClipKinds, clip: Clip) -> int:
    """First frame that counts; the autoencoder is judged where the continuation is, as its ceiling."""
    if clip.kind == "tokenizer":
        return kinds["continuation"].context_frames if "continuation" in kinds else 1
    return clip.context_frames


def _clip(row: dict[str, object]) -> Clip:
    frames = np.frombuffer(row["frames"], np.uint8).reshape(row["shape"])  # type: ignore[call-overload]
    fields = {name: row[name] for name in Clip.__dataclass_fields__ if name != "frames"}
    fields |= {name: row[name] or "" for name in ("caption", "prompt")}  # real clips often have no caption
    return Clip(**fields, frames=frames)  # type: ignore[arg-type]


def _check_truth(where: str, kinds: ClipKinds) -> None:
    if "truth" not in kinds:
        raise DataError(
            f"{where}: got {json.dumps(sorted(kinds))}, expected a truth; run `dvc repro -f sample`"
        )
    shape = kinds["truth"].frames.shape
    for kind, clip in _judged(kinds):
        if clip.frames.shape != shape:
            raise DataError(f"{where}: {kind}: got shape {clip.frames.shape}, expected the truth's {shape}")
        if kind != "tokenizer" and not 0 < clip.context_frames < len(clip.frames):
            raise DataError(
                f"{where}: {kind}: got {clip.context_frames} context frames, expected 1 to {shape[0] - 1}"
            )

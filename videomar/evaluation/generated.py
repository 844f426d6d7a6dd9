"""Reads generated.parquet, and measures how close the pixels of clips are to the truth.

Axes: F frames, H W rows and columns in pixels.
"""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from videomar.errors import DataError

PSNR_CAP_DB = 60.0
"""PSNR of clips that are equal or differ by less than a thousandth of the range."""

GROUPS = {"simulated": "sim", "real": "real"}
CEILINGS = ("tokenizer", "tokenizer_carry")
"""The truth through the tokenizer; and the same decoded with the given picture at hand (`sample.carry`)."""
_STRETCHED = ("_longer", "_larger")
_OF_WORLDS = re.compile(r"_(long|large)(\d*)$")


@dataclass(frozen=True, slots=True)
class Clip:
    """One row of generated.parquet: a held-out clip as one kind (truth, tokenizer, continuation, ...)."""

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
    shot: str | None = None
    """Shot of the source, which overlapping clips share; None in files from before it was recorded."""


ClipKinds = dict[str, Clip]
"""All kinds of one held-out clip, `truth` among them."""


def psnr_db(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of two uint8 arrays of one shape, decibels, at most PSNR_CAP_DB."""
    return float(psnr_by_frame(a[None], b[None])[0])


def psnr_by_frame(clip: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.float64]:
    """PSNR of each frame: (F, H, W, 3) and (F, H, W, 3) -> (F,) decibels."""
    if clip.shape != truth.shape:
        raise ValueError(f"PSNR: got shapes {clip.shape} and {truth.shape}, expected the same of both")
    # In integers: exact, and a quarter of the memory traffic of float64.
    squares = np.square(np.subtract(clip, truth, dtype=np.int32))
    floor = 255.0**2 / 10 ** (PSNR_CAP_DB / 10)
    return 10 * np.log10(255.0**2 / np.maximum(squares.reshape(len(clip), -1).mean(axis=1), floor))


def repeat_last(truth: NDArray[np.uint8], context_frames: int) -> NDArray[np.uint8]:
    """The clip of a model without motion: the context, then copies of its last frame; (F, H, W, 3)."""
    frames = truth.copy()
    frames[context_frames:] = truth[context_frames - 1]
    return frames


def check_frames(where: str, clip: NDArray[np.uint8], least: int = 1) -> None:
    """Refuse what is not a clip (F, H, W, 3) uint8 of at least so many frames."""
    if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[-1] != 3 or len(clip) < least:
        got = f"{clip.dtype} {clip.shape}"
        raise DataError(f"{where}: got {got}, expected uint8 (F, H, W, 3) of {least} frames or more")


def is_stretched(kind: str) -> bool:
    """Whether clips of a kind are longer or larger than their truth, so that the two cannot be compared."""
    return kind.endswith(_STRETCHED)


def truth_kind(kind: str) -> str:
    """The kind that is the truth of another, or of itself: of its own for longer and larger worlds."""
    found = _OF_WORLDS.search(kind)
    return f"truth{found[0]}" if found else "truth"


def is_truth(kind: str) -> bool:
    """Whether a kind is a truth."""
    return kind == truth_kind(kind)


def named_by_size(kinds: ClipKinds) -> ClipKinds:
    """Long and large clips under names that state their frames or pixels; long ones also cut to half of them.

    Of a clip four times as long, `image_long` becomes `image_long33` and `image_long65`: frames do not
    depend on later ones, so the first half is the clip twice as long.
    """
    named: ClipKinds = {}
    for kind, clip in kinds.items():
        found = _OF_WORLDS.search(kind)
        if not found:
            named[kind] = clip
        elif found[1] == "large":
            named[f"{kind}{min(clip.frames.shape[1:3])}"] = clip
        else:
            for frames in (clip.frames[: len(clip.frames) // 2 + 1], clip.frames):
                named[f"{kind}{len(frames)}"] = replace(clip, frames=frames)
    return {kind: replace(clip, kind=kind) for kind, clip in named.items()}


def read_metadata(path: Path) -> dict[str, Any]:
    """`split` and `seeds` from the metadata of generated.parquet; empty if it has none."""
    metadata = pq.read_schema(path).metadata or {}
    suite: dict[str, Any] = json.loads(metadata.get(b"suite", b"{}"))
    return suite


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


def _clip(row: dict[str, object]) -> Clip:
    frames = np.frombuffer(row["frames"], np.uint8).reshape(row["shape"])  # type: ignore[call-overload]
    fields = {name: row[name] for name in Clip.__dataclass_fields__ if name not in ("frames", "shot")}
    fields |= {name: row[name] or "" for name in ("caption", "prompt")}  # real clips often have no caption
    return Clip(**fields, frames=frames, shot=row.get("shot"))  # type: ignore[arg-type]


def _check_truth(where: str, kinds: ClipKinds) -> None:
    if "truth" not in kinds:
        raise DataError(
            f"{where}: got {json.dumps(sorted(kinds))}, expected a truth; run `dvc repro -f sample`"
        )
    for kind, clip in kinds.items():
        if truth_kind(kind) not in kinds:
            raise DataError(f"{where}: got {kind} alone, expected its truth; run `dvc repro -f sample`")
        shape = kinds[truth_kind(kind)].frames.shape
        if not is_stretched(kind) and clip.frames.shape != shape:
            raise DataError(f"{where}: {kind}: got shape {clip.frames.shape}, expected the truth's {shape}")
        if not (is_truth(kind) or kind in CEILINGS or 0 < clip.context_frames < len(clip.frames)):
            raise DataError(
                f"{where}: {kind}: got {clip.context_frames} context frames, expected 1 to {shape[0] - 1}"
            )

"""A few small clips of a version, stored with its evidence, for the reports of later challengers.

Which clips are kept depends on their ids alone, so that two versions with the same tasks keep the same clips.
"""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from videomar.errors import DataError
from videomar.evaluation.generated import Clip, read_generated
from videomar.report.strips import strip_bytes

KEPT_CLIPS = "shown.parquet"
_CLIPS_PER_GROUP = 12
_KINDS = ("continuation", "image")
_MOST_BYTES = 1_900_000
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("clip_id", "kind", "truth_sha256")),
        ("num_frames", pa.int32()),
        ("strip", pa.binary()),
    ]
)


@dataclass(frozen=True, slots=True)
class KeptClip:
    """One clip of an earlier version."""

    truth_sha256: str
    """Hash of the truth's frames, to notice another truth under the same id."""
    frames: NDArray[np.uint8]
    """(F, H, W, 3) uint8, possibly scaled down."""


def write_kept_clips(generated: Path, out: Path) -> None:
    """Write a few clips of generated.parquet to a file of less than 2 MB."""
    clips = read_generated(generated)
    groups = sorted({kinds["truth"].group for kinds in clips})
    chosen = [
        kinds
        for group in groups
        for kinds in sorted(
            (kinds for kinds in clips if kinds["truth"].group == group),
            key=lambda kinds: hashlib.sha256(kinds["truth"].clip_id.encode()).digest(),
        )[:_CLIPS_PER_GROUP]
    ]
    pairs = [(kinds["truth"], kinds[kind]) for kinds in chosen for kind in _KINDS if kind in kinds]
    most_bytes = _MOST_BYTES // max(1, len(pairs))
    rows = [
        {
            "clip_id": clip.clip_id,
            "kind": clip.kind,
            "truth_sha256": truth_sha256(truth),
            "num_frames": len(clip.frames),
            "strip": strip,
        }
        for truth, clip in pairs
        if len(strip := strip_bytes(clip.frames, most_bytes)) <= most_bytes
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), out)


def read_kept_clips(path: Path) -> dict[tuple[str, str], KeptClip]:
    """The clips that `write_kept_clips` wrote, by clip_id and kind; empty if the file does not exist.

    Raises:
        DataError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        rows = pq.read_table(path).to_pylist()
        return {
            (row["clip_id"], row["kind"]): KeptClip(
                row["truth_sha256"], _frames(row["strip"], row["num_frames"])
            )
            for row in rows
        }
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        line = " ".join(str(error).split())
        raise DataError(f"{path}: got {line}, expected kept clips; register the version again") from None


def truth_sha256(truth: Clip) -> str:
    """Hash that identifies a truth."""
    return hashlib.sha256(truth.frames.tobytes()).hexdigest()


def _frames(strip: bytes, num_frames: int) -> NDArray[np.uint8]:
    """(F, H, W, 3) of a strip."""
    with Image.open(io.BytesIO(strip)) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    height, width = pixels.shape[0], pixels.shape[1] // num_frames
    return np.ascontiguousarray(pixels.reshape(height, num_frames, width, 3).transpose(1, 0, 2, 3))

"""The ledger: one row per considered clip, with every score, the verdict and its reason.

Stage ingest writes the rows without verdicts to `data/candidates.parquet`, stage curate the same rows with
verdicts to `data/ledger.parquet`. A file that cannot be read has one row, with `clip_id` null.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from videomar.curation.retries import VideoReading
from videomar.errors import DataError
from videomar.files import atomic_write

if TYPE_CHECKING:
    import pandas  # not here: each process that reads videos would wait for it

SCORES = (
    "motion",
    "brightness",
    "contrast",
    "sharpness",
    "frozen_share",
    "flicker",
    "letterbox_share",
)
LEARNED = "score_"
"""Prefix of the columns of learned scores."""
STILL_PICTURE = "still_picture: to train on it set ingest.still_pictures to true"
"""Reason of a file that is a picture and does not move, unless clips are made of such."""
SPLITS = ("train", "val", "test")
GROUPS = ("simulated", "real")
CHANGED_FRAMES = ("lost_frames", "invented_frames", "retimed_frames")
"""Columns that say of a whole video what was not in its place, see `media.timeline.FrameCounts`."""
_NOTE = b"videomar.captions"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipRow:
    """One row as ingest leaves it; the fields are the columns of `data/candidates.parquet`."""

    video: str
    """Path relative to data/raw."""
    video_sha256: str | None = None
    clip_id: str | None = None
    """Null for a file that cannot be read."""
    start_s: float | None = None
    end_s: float | None = None
    shot_s: float | None = None
    """Where the clip's shot begins: clips with one `video` and `shot_s` are of one shot."""
    caption: str | None = None
    caption_from: str | None = None
    """The file that has the caption, relative to data/raw, or `captioner NAME`; null without a caption."""
    group: str
    """`simulated` or `real`."""
    width: int | None = None
    """Of the source as displayed, pixels."""
    height: int | None = None
    stream: str | None = None
    """Which of several video streams was read, and what the others were; null where there is only one."""
    lost_frames: int | None = None
    """Of the whole video: frames that the file has and no decoder returned; see `FrameCounts`."""
    invented_frames: int | None = None
    """Of the whole video: frames that the decoder returned beyond those in the file."""
    retimed_frames: int | None = None
    """Of the whole video: frames whose time the file lacks or gets wrong, as behind a jump of its clock."""
    clip_width_px: int | None = None
    """Of the clip's frames; null, as `num_frames`, where there is no clip to read."""
    clip_height_px: int | None = None
    num_frames: int | None = None
    reason: str | None = None
    """Why ingest rejects it, or null."""
    motion: float | None = None
    brightness: float | None = None
    contrast: float | None = None
    sharpness: float | None = None
    frozen_share: float | None = None
    flicker: float | None = None
    letterbox_share: float | None = None
    fingerprint: bytes | None = None
    """As `duplicates.fingerprint` returns it; null where there are no scores."""
    thumbnail: bytes | None = None
    """JPEG: first, middle and last frame side by side."""
    learned: dict[str, float | None] = field(default_factory=dict)
    """Learned scores by name, each a column `score_NAME`; without scorers there are no such columns."""


_TYPES = {str: pa.string(), int: pa.int32(), float: pa.float64(), bytes: pa.binary()}
CANDIDATE_SCHEMA = pa.schema(
    [
        (field.name, _TYPES[next(kind for kind in _TYPES if kind.__name__ in str(field.type))])
        for field in fields(ClipRow)
        if field.name != "learned"
    ]
)
VERDICT_SCHEMA = pa.schema(
    [("kept", pa.bool_()), ("split", pa.string()), ("cluster", pa.string()), ("shot", pa.string())]
)
"""`cluster`: the first `clip_id` of those that look alike; null for clips that were rejected before.
`shot`: the first `clip_id` of its shot, where shots of a video that come back are one."""
LEDGER_SCHEMA = pa.schema([*CANDIDATE_SCHEMA, *VERDICT_SCHEMA])


def write_candidates(
    path: Path, candidates: list[ClipRow], note: str | None = None, reading: VideoReading | None = None
) -> None:
    """Write the rows of ingest to a Parquet file, atomically.

    Args:
        path: The file.
        candidates: The rows.
        note: Text about the folder as a whole.
        reading: How the videos were read.
    """
    names = sorted({name for row in candidates for name in row.learned})
    schema = _with_learned(CANDIDATE_SCHEMA, [LEARNED + name for name in names])
    rows = [asdict(row) | {LEARNED + name: row.learned.get(name) for name in names} for row in candidates]
    _write(path, pa.Table.from_pylist(rows, schema=schema), note, reading)


def read_candidates(path: Path) -> "pandas.DataFrame":
    """Read the rows that ingest wrote.

    Raises:
        DataError: no such file, or not one of ours.
    """
    return _read(path, CANDIDATE_SCHEMA, "ingest")


def read_rows(path: Path) -> list[ClipRow]:
    """Read the rows that `write_candidates` wrote, as they were; none if there is no such file.

    Raises:
        DataError: it is not one of ours.
    """
    if not path.is_file():
        return []
    names = [each.name for each in fields(ClipRow) if each.name != "learned"]
    records = _table(path, CANDIDATE_SCHEMA, "ingest").to_pylist()
    return [
        ClipRow(
            **{name: record[name] for name in names},
            learned={name.removeprefix(LEARNED): record[name] for name in record if name.startswith(LEARNED)},
        )
        for record in records
    ]


def read_note(path: Path) -> str | None:
    """Return the text about the folder as a whole that candidates and ledger carry, if there is one."""
    found = (pq.read_schema(path).metadata or {}).get(_NOTE)
    return None if found is None else found.decode("utf-8")


def write_ledger(
    path: Path, ledger: "pandas.DataFrame", note: str | None = None, reading: VideoReading | None = None
) -> None:
    """Write the ledger to a Parquet file, atomically, with the note and the reading of its candidates."""
    schema = _with_learned(LEDGER_SCHEMA, [name for name in ledger if name.startswith(LEARNED)])
    _write(path, pa.Table.from_pandas(ledger, schema=schema, preserve_index=False), note, reading)


def read_ledger(path: Path, thumbnails: bool = True) -> "pandas.DataFrame":
    """Read the rows that curate wrote.

    Args:
        path: The ledger.
        thumbnails: Whether to read that column, which is nine tenths of the file and of the memory.

    Raises:
        DataError: no such file, or not one of ours.
    """
    schema = LEDGER_SCHEMA
    if not thumbnails:
        schema = schema.remove(schema.get_field_index("thumbnail"))
    return _read(path, schema, "curate")


def kept_clips(
    ledger: "pandas.DataFrame", split: str | None = None, group: str | None = None
) -> "pandas.DataFrame":
    """Return the rows of kept clips, of one split and group or of all, with a new index from 0."""
    chosen = ledger["kept"]
    if split is not None:
        chosen = chosen & (ledger["split"] == split)
    if group is not None:
        chosen = chosen & (ledger["group"] == group)
    return ledger[chosen].reset_index(drop=True)


def require_sum(where: str, counts: Mapping[str, float], total: str, parts: Sequence[str]) -> None:
    """Refuse counts that do not add up: a file or clip would be lost without a row that says why.

    Raises:
        DataError: `total` is not the sum of `parts`.
    """
    if counts[total] != sum(counts[part] for part in parts):
        got = ", ".join(f"{counts[name]} {name}" for name in (total, *parts))
        raise DataError(
            f"{where}: got {got}, expected {total} = {' + '.join(parts)}; this is a bug, please report it"
        )


def _with_learned(schema: pa.Schema, columns: list[str]) -> pa.Schema:
    return pa.schema([*schema, *((name, pa.float64()) for name in columns)])


def _write(path: Path, table: pa.Table, note: str | None, reading: VideoReading | None) -> None:
    notes = {} if note is None else {_NOTE: note.encode("utf-8")}
    notes |= {} if reading is None else reading.metadata()
    if notes:
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **notes})
    with atomic_write(path) as draft:
        pq.write_table(table, draft)


def _read(path: Path, schema: pa.Schema, stage: str) -> "pandas.DataFrame":
    return _table(path, schema, stage).to_pandas()


def _table(path: Path, schema: pa.Schema, stage: str) -> pa.Table:
    if not path.is_file():
        raise DataError(f"{path}: no such file, expected the output of `{stage}`; run that stage first")
    try:
        found = pq.read_schema(path).names
        learned = [name for name in found if name.startswith(LEARNED)]
        missing = sorted(set(schema.names) - set(found))
        table = None if missing else pq.read_table(path, columns=[*schema.names, *learned])
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{path}: got {error}, expected the output of `{stage}`; run it again") from None
    if table is None:
        raise DataError(f"{path}: lacks {missing}, expected the output of `{stage}`; run that stage again")
    return table

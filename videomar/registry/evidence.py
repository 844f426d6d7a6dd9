"""The data that a version was made from, recorded with it: its clips, and a checksum of every file.

Small Parquet tables in the evidence of its run, so they stay valid when the working tree has moved on. One is
of the code that MLflow stores with the version, and runs when it loads it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import pandas
import pyarrow as pa
import pyarrow.parquet as pq

from videomar.curation.ledger import kept_clips, read_ledger
from videomar.errors import DataError
from videomar.files import sha256_of
from videomar.latents.shards import open_latents

LINEAGE = "lineage.parquet"
FILES = "files.parquet"
CODE_FILES = "code.parquet"
CODE = "code"
"""Kind of all files of a stored model but its artifacts: what MLflow reads, imports and runs."""
_NO_CODE = ("artifacts", "__pycache__", "registered_model_meta")
"""Parts of a stored model that have checksums of their own, or that Python and MLflow write on loading it."""
CLIP_COLUMNS = ("clip_id", "video", "video_sha256", "start_s", "end_s", "group", "split")
"""Of the ledger; the table has the latent's `key` beside them."""
_FILES_SCHEMA = pa.schema(
    [("kind", pa.string()), ("path", pa.string()), ("sha256", pa.string()), ("bytes", pa.int64())]
)


class Checksum(NamedTuple):
    """SHA-256 of one file at the registration of a version."""

    kind: str
    """`raw`, `latents`, or a folder of the registered model: `checkpoint`, `tokenizer`, `code`."""
    path: str
    """Below the folder of its kind."""
    sha256: str
    bytes: int


def write_lineage(path: Path, ledger: Path, latents: Path) -> None:
    """Write the kept clips, each with its video's hash, its split and the key of its latents.

    The key is that of its largest size. Views are not named: which there are follows from the clips and from
    params.yaml, see `videomar.latents.views`.

    Raises:
        DataError: a kept clip has no latent: the ledger is newer than the cache.
    """
    clips = kept_clips(read_ledger(ledger, thumbnails=False))[list(CLIP_COLUMNS)]
    rows = [row for shard in open_latents(latents) for row in shard.rows if not row["view"]]
    keys = {row["clip_id"]: row["key"] for row in sorted(rows, key=itemgetter("size_px"))}
    clips["key"] = clips["clip_id"].map(keys)
    missing = clips.loc[clips["key"].isna(), "clip_id"]
    if len(missing):
        got = f"no latent of {len(missing)} clips ({missing.iloc[0]})"
        raise DataError(f"{latents}: got {got}, expected all that the ledger keeps; run `dvc repro encode`")
    clips.to_parquet(path, index=False)


def write_checksums(path: Path, folders: Mapping[str, Path], ledger: Path | None = None) -> None:
    """Write a table with the checksum of every file in the folders.

    Args:
        path: The table.
        folders: By kind.
        ledger: Has the checksums of the videos already, which are too large to read once more; None = there
            are none.
    """
    known = {}
    if ledger is not None:
        rows = read_ledger(ledger, thumbnails=False)[["video", "video_sha256"]]
        rows = rows.dropna().drop_duplicates("video")
        known = {("raw", video): sha256 for video, sha256 in rows.itertuples(index=False)}
    checksums = [
        Checksum(kind, name, known.get((kind, name)) or sha256_of(file), file.stat().st_size)
        for kind, folder in folders.items()
        for name, file in _files(kind, folder)
    ]
    table = pa.Table.from_pylist([checksum._asdict() for checksum in checksums], schema=_FILES_SCHEMA)
    pq.write_table(table, path)


def read_checksums(path: Path) -> list[Checksum]:
    """Read a table of `write_checksums`."""
    return [Checksum(**row) for row in pq.read_table(path).to_pylist()]


def recorded_checksums(evidence: Path) -> list[Checksum]:
    """All checksums in the evidence of a version; none for one that is older than these tables."""
    tables = [evidence / name for name in (FILES, CODE_FILES)]
    return [row for table in tables if table.is_file() for row in read_checksums(table)]


def checkpoint_checksums(checkpoint: Path) -> list[Checksum]:
    """Checksums in the manifest of a checkpoint: all that versions older than the table have."""
    files = json.loads((checkpoint / "checkpoint.json").read_text("utf-8")).get("files", {})
    return [Checksum("checkpoint", name, entry["sha256"], entry["bytes"]) for name, entry in files.items()]


def read_lineage(path: Path) -> pandas.DataFrame:
    """Read a table of `write_lineage`: CLIP_COLUMNS and `key`."""
    return pq.read_table(path).to_pandas()


def find_changes(checksums: Sequence[Checksum], folders: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Files that are missing or differ, and those added to code: `file`, `problem`, `expected`, `got`.

    Args:
        checksums: As recorded.
        folders: By kind; kinds without a folder are left out.
    """
    changes = []
    for row in checksums:
        if row.kind not in folders:
            continue
        path = folders[row.kind] / row.path
        got = sha256_of(path) if path.is_file() else None
        if got != row.sha256:
            problem = "missing" if got is None else "differs"
            changes.append({"file": str(path), "problem": problem, "expected": row.sha256, "got": got})
    known = {row.path for row in checksums if row.kind == CODE}
    if known and CODE in folders:  # a module that was added is imported instead of the one it is named after
        added = [path for name, path in _files(CODE, folders[CODE]) if name not in known]
        new = {"problem": "is new", "expected": None}
        changes += [{"file": str(path), **new, "got": sha256_of(path)} for path in added]
    return changes


def text_of(path: Path) -> str:
    """Text of a file; empty if it does not exist."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _files(kind: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Names below the folder, and paths, of all files of a kind but dotfiles."""
    left_out = _NO_CODE if kind == CODE else ()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") or part in left_out for part in name.parts):
            yield name.as_posix(), path

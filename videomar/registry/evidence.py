"""What a version keeps of the data it was made from: its clips, and a sum of every file.

Two small Parquet tables among the evidence of its run; they hold when the working tree has long moved on.
"""

from collections.abc import Iterator
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
CLIP_COLUMNS = ("clip_id", "video", "video_sha256", "start_s", "end_s", "group", "split")
"""Of the ledger; the table has the latent's `key` beside them."""
_FILES_SCHEMA = pa.schema(
    [("kind", pa.string()), ("path", pa.string()), ("sha256", pa.string()), ("bytes", pa.int64())]
)


class FileSum(NamedTuple):
    """One file as it was at registration."""

    kind: str
    """`raw`, `latents`, or a folder of the registered model: `checkpoint`, `tokenizer`."""
    path: str
    """Below the folder of its kind."""
    sha256: str
    bytes: int


def write_lineage(path: Path, ledger: Path, latents: Path) -> None:
    """Write the kept clips, each with its video's hash, its split and its latent's key.

    Raises:
        DataError: a kept clip has no latent: the ledger is newer than the cache.
    """
    clips = kept_clips(read_ledger(ledger, thumbnails=False))[list(CLIP_COLUMNS)]
    keys = {row["clip_id"]: row["key"] for shard in open_latents(latents) for row in shard.rows}
    clips["key"] = clips["clip_id"].map(keys)
    missing = clips.loc[clips["key"].isna(), "clip_id"]
    if len(missing):
        got = f"no latent of {len(missing)} clips ({missing.iloc[0]})"
        raise DataError(f"{latents}: got {got}, expected all that the ledger keeps; run `dvc repro encode`")
    clips.to_parquet(path, index=False)


def write_file_sums(path: Path, folders: dict[str, Path], ledger: Path) -> None:
    """Write the sum of every file of the folders, by kind; videos have theirs in the ledger already."""
    rows = read_ledger(ledger, thumbnails=False)[["video", "video_sha256"]]
    rows = rows.dropna().drop_duplicates("video")
    known = {("raw", video): sha256 for video, sha256 in rows.itertuples(index=False)}
    sums = [
        FileSum(kind, name, known.get((kind, name)) or sha256_of(file), file.stat().st_size)
        for kind, folder in folders.items()
        for name, file in _files(folder)
    ]
    pq.write_table(pa.Table.from_pylist([row._asdict() for row in sums], schema=_FILES_SCHEMA), path)


def read_file_sums(path: Path) -> list[FileSum]:
    """What `write_file_sums` wrote."""
    return [FileSum(**row) for row in pq.read_table(path).to_pylist()]


def read_lineage(path: Path) -> pandas.DataFrame:
    """What `write_lineage` wrote: CLIP_COLUMNS and `key`."""
    return pq.read_table(path).to_pandas()


def find_changes(sums: list[FileSum], folders: dict[str, Path]) -> list[dict[str, Any]]:
    """Files that are not what was recorded: `file`, `problem` (`missing` or `differs`) and both sums.

    Kinds without a folder are left out.
    """
    changes = []
    for row in sums:
        if row.kind not in folders:
            continue
        path = folders[row.kind] / row.path
        got = sha256_of(path) if path.is_file() else None
        if got != row.sha256:
            problem = "missing" if got is None else "differs"
            changes.append({"file": str(path), "problem": problem, "expected": row.sha256, "got": got})
    return changes


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Names below the folder, and paths, of all files but dotfiles."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            yield name.as_posix(), path

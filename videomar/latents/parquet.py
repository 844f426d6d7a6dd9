"""One Parquet file of the latent cache: rows of facts, columns of bytes, sums of everything.

Row groups are cut by bytes. The columns of bytes are stored plain, in one page a row group, so that their
values lie back to back at the end of the column's part of the group: a clip is read by one `pread` of its own
bytes, without decoding its group. The footer holds SHA-256 sums of each group's bytes, of the other columns,
and of itself.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from videomar.errors import DataError
from videomar.latents.dtypes import num_bytes
from videomar.storage import StoragePath, open_arrow, raise_if_unreachable, read_ranges

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("key", pa.string()),
        ("text_key", pa.string()),
        ("shape", pa.list_(pa.int32())),
        ("dtype", pa.string()),
        pa.field("latents", pa.large_binary(), nullable=False),
        pa.field("text", pa.large_binary(), nullable=False),
        ("text_shape", pa.list_(pa.int32())),
        ("caption", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("fps", pa.float32()),
        ("motion", pa.float32()),
        ("size_px", pa.int32()),
        # Deviation of each of the latents' numbers; null in all rows of a cache without moments.
        ("latents_std", pa.large_binary()),
    ]
)
SCHEMA_VERSION = 3
# Column of bytes -> column of their shape.
BYTES_COLUMNS = {"latents": "shape", "text": "text_shape", "latents_std": "shape"}
FACT_COLUMNS = [name for name in SCHEMA.names if name not in BYTES_COLUMNS]
GROUP_BYTES = 16 * 2**20
_FOOTER, _FOOTER_SUM = b"videomar", b"videomar_sha256"
# Latents hardly compress, and dictionaries or statistics of their bytes cost ten times the writing.
_PLAIN: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}
_WHOLE_PAGE = 2**30


class DamagedShardError(DataError):
    """A shard whose bytes are not those that were written, or not a shard of this version."""


class Stored(NamedTuple):
    """Where bytes are stored."""

    path: StoragePath
    offset: int
    length: int

    def read(self) -> bytes:
        """The bytes."""
        return next(read_ranges(self.path, [(self.offset, self.length)]))


@dataclass(frozen=True, slots=True)
class Shard:
    """What a file says of itself, without its latents."""

    path: StoragePath
    facts: dict[str, Any]
    rows: list[dict[str, Any]]
    """Columns FACT_COLUMNS of each row."""
    rows_sum: str
    group_rows: list[range]
    """Rows of each row group."""
    group_sums: list[dict[str, str]]
    offsets: dict[str, NDArray[np.int64]]
    lengths: dict[str, NDArray[np.int64]]
    """Of the bytes columns that it holds: where in the file each row's value is."""

    def stored(self, column: str, row: int) -> Stored:
        """Return where a value of a bytes column is stored."""
        return Stored(self.path, int(self.offsets[column][row]), int(self.lengths[column][row]))


def write_shard(path: Path, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    """Write a file and bring it to the disk; its bytes depend on `rows` and `facts` alone.

    Args:
        path: the file.
        rows: every column of SCHEMA; those of bytes are bytes, or `Stored` and read when their turn comes.
            All of them have a `latents_std`, or none has.
        facts: JSON of what the latents were made with.
    """
    sums = []
    options = _PLAIN | {"data_page_size": _WHOLE_PAGE}
    with pq.ParquetWriter(path, SCHEMA, **options) as writer:
        for part in _groups(rows):
            names = _held(rows[part.start])
            values = {name: _read_all([rows[row][name] for row in part]) for name in names}
            columns = {name: [rows[row][name] for row in part] for name in FACT_COLUMNS} | values
            nulls = [None] * len(part)
            arrays = [pa.array(columns.get(field.name, nulls), field.type) for field in SCHEMA]
            table = pa.table(arrays, schema=SCHEMA)
            writer.write_table(table, row_group_size=_WHOLE_PAGE)
            sums.append({name: _sum(values[name]) for name in values})
        told = dict(facts) | made_by()
        footer = _json({"facts": told, "groups": sums, "rows": rows_sum(rows)})
        writer.add_key_value_metadata({_FOOTER: footer, _FOOTER_SUM: _sum([footer])})
    with path.open("rb") as file:
        os.fsync(file.fileno())


def open_shard(path: StoragePath) -> Shard:
    """Index of a file; its latents are not read, see `verify_group`.

    Raises:
        DamagedShardError: it is damaged, or of another version.
        StoreError: the store that it is in cannot be reached.
    """
    try:
        with pq.ParquetFile(open_arrow(path), pre_buffer=not isinstance(path, Path)) as file:
            table, metadata = file.read(FACT_COLUMNS), file.metadata
        rows = table.to_pylist()
        footer = metadata.metadata[_FOOTER]
        if metadata.metadata[_FOOTER_SUM].decode() != _sum([footer]):
            raise DamagedShardError(_damage(path, "the footer is not what was written"))
        told = json.loads(footer)
        if told["facts"].get("schema_version") != SCHEMA_VERSION:
            raise DamagedShardError(_damage(path, f"its schema is not version {SCHEMA_VERSION}"))
        if told["rows"] != rows_sum(rows):
            raise DamagedShardError(_damage(path, "the rows are not what was written"))
        ends = np.cumsum([0, *(metadata.row_group(n).num_rows for n in range(metadata.num_row_groups))])
        groups = [range(start, end) for start, end in pairwise(ends)]
        lengths = {
            name: np.array([num_bytes(row[shape], row["dtype"]) for row in rows], np.int64)
            for name, shape in BYTES_COLUMNS.items()
            if all(name in sums for sums in told["groups"])
        }
        offsets = {name: _offsets(metadata, name, groups, lengths[name]) for name in lengths}
        return Shard(path, told["facts"], rows, told["rows"], groups, told["groups"], offsets, lengths)
    # Whatever a flipped bit makes of names, counts and text.
    except (pa.ArrowException, OSError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise_if_unreachable(path, error)
        raise DamagedShardError(_damage(path, " ".join(str(error).split()))) from None


def verify_group(shard: Shard, number: int, names: Iterable[str] | None = None) -> None:
    """Compare the bytes of a row group, in the named columns or in all, with their sums.

    Raises:
        DamagedShardError: they differ.
    """
    for name in names or shard.group_sums[number]:
        digest = hashlib.sha256()
        places = [shard.stored(name, row) for row in shard.group_rows[number]]
        for data in read_ranges(shard.path, [(place.offset, place.length) for place in places]):
            digest.update(data)
        if digest.hexdigest() != shard.group_sums[number][name]:
            raise DamagedShardError(_damage(shard.path, f"{name} of row group {number} differ"))


def made_by() -> dict[str, Any]:
    """Facts that every file holds: with another writer the same rows may give other bytes."""
    return {"schema_version": SCHEMA_VERSION, "writer": f"pyarrow {pa.__version__}"}


def rows_sum(rows: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 of the columns FACT_COLUMNS, as they are read back."""
    floats = [field.name for field in SCHEMA if field.type == pa.float32()]
    singles = [{**row, **{name: _float32(row[name]) for name in floats}} for row in rows]
    return _sum([_json([[row[name] for name in FACT_COLUMNS] for row in singles])])


def _float32(value: float | None) -> float | None:
    return None if value is None else float(np.float32(value))


def _groups(rows: Sequence[Mapping[str, Any]]) -> Iterator[range]:
    """Neighbouring rows of at most GROUP_BYTES together, or a single row that has more."""
    start, taken = 0, 0
    for row, columns in enumerate(rows):
        size = sum(num_bytes(columns[BYTES_COLUMNS[name]], columns["dtype"]) for name in _held(columns))
        if row > start and taken + size > GROUP_BYTES:
            yield range(start, row)
            start, taken = row, 0
        taken += size
    if len(rows) > start:
        yield range(start, len(rows))


def _held(row: Mapping[str, Any]) -> list[str]:
    """Bytes columns that a row has."""
    return [name for name in BYTES_COLUMNS if row.get(name) is not None]


def _offsets(metadata: Any, name: str, groups: list[range], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where in the file values begin: each has 4 bytes of length before it, the last one ends the chunk."""
    offsets = np.zeros(len(lengths), np.int64)
    for number, rows in enumerate(groups):
        chunk = metadata.row_group(number).column(SCHEMA.names.index(name))
        end = chunk.data_page_offset + chunk.total_compressed_size
        part = slice(rows.start, rows.stop)
        behind = np.cumsum((lengths[part] + 4)[::-1])[::-1]
        offsets[part] = end - behind + 4
    return offsets


def _read_all(values: Sequence[bytes | Stored]) -> list[bytes]:
    """Bytes in order; what lies in one file is read in the order in which it lies."""
    found = {number: value for number, value in enumerate(values) if isinstance(value, bytes)}
    stored = [(value, number) for number, value in enumerate(values) if isinstance(value, Stored)]
    stored.sort(key=lambda item: (str(item[0].path), item[0].offset))
    for path, items in groupby(stored, key=lambda item: item[0].path):
        here = list(items)
        read = read_ranges(path, [(value.offset, value.length) for value, _ in here])
        found |= {number: data for (_, number), data in zip(here, read, strict=True)}
    return [found[number] for number in range(len(values))]


def _sum(parts: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _damage(path: StoragePath, what: str) -> str:
    return f"{path}: got a damaged shard ({what}), expected what was written; run `dvc repro encode`"

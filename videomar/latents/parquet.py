"""One Parquet file of the latent cache: columns of metadata, columns of bytes, checksums of everything.

Row groups are cut by bytes. The columns of bytes are stored plain, in one page a row group, so that their
values are back to back at the end of the column's part of the group: a clip is read by one `pread` of its own
bytes, without decoding its group (see `_offsets`). The footer holds SHA-256 checksums of each group's bytes,
of the other columns, and of itself.
"""

import hashlib
import json
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
from videomar.files import fsync
from videomar.storage import StoragePath, open_arrow, raise_if_unreachable, read_ranges

# numpy has no bfloat16: its bits are the upper half of a float32's.
DTYPES: dict[str, type[np.generic]] = {
    "float16": np.float16,
    "bfloat16": np.uint16,
    "float32": np.float32,
}

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
        # 0 = the clip itself, else the number of its view, whose `text` is empty: it is the clip's.
        ("view", pa.int32()),
        # Deviation of each of the latents' numbers; null in all rows of a cache without moments.
        ("latents_std", pa.large_binary()),
    ]
)
SCHEMA_VERSION = 4
# Column of bytes -> column of their shape.
BYTES_COLUMNS = {"latents": "shape", "text": "text_shape", "latents_std": "shape"}
METADATA_COLUMNS = [name for name in SCHEMA.names if name not in BYTES_COLUMNS]
GROUP_BYTES = 16 * 2**20
_FOOTER, _FOOTER_SUM = b"videomar", b"videomar_sha256"
# Latents hardly compress, and dictionaries or statistics of their bytes cost ten times the writing.
_PLAIN: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}
_WHOLE_PAGE = 2**30


class DamagedShardError(DataError):
    """A shard whose bytes are not those that were written, or not a shard of this version."""


class ByteRange(NamedTuple):
    """Bytes in a file or an object."""

    path: StoragePath
    offset: int
    length: int

    def read(self) -> bytes:
        """Return the bytes."""
        return next(read_ranges(self.path, [(self.offset, self.length)]))


@dataclass(frozen=True, slots=True)
class Shard:
    """Index of a file: everything but its latents."""

    path: StoragePath
    metadata: dict[str, Any]
    """What the latents were made with, and the writer."""
    rows: list[dict[str, Any]]
    """Columns METADATA_COLUMNS of each row."""
    rows_checksum: str
    group_rows: list[range]
    """Rows of each row group."""
    group_checksums: list[dict[str, str]]
    """Checksum of each bytes column, by row group."""
    offsets: dict[str, NDArray[np.int64]]
    lengths: dict[str, NDArray[np.int64]]
    """Of each bytes column that the file has: where in the file each row's value is."""

    def byte_range(self, column: str, row: int) -> ByteRange:
        """Return where a value of a bytes column is stored."""
        return ByteRange(self.path, int(self.offsets[column][row]), int(self.lengths[column][row]))


def write_shard(path: Path, rows: Sequence[Mapping[str, Any]], metadata: Mapping[str, Any]) -> None:
    """Write a file and bring it to the disk; its bytes depend on `rows` and `metadata` alone.

    Args:
        path: the file.
        rows: every column of SCHEMA; those of bytes are bytes, or a `ByteRange`, which is read when its row
            is written. Either all rows have a `latents_std` or none has.
        metadata: JSON of what the latents were made with.
    """
    checksums = []
    options = _PLAIN | {"data_page_size": _WHOLE_PAGE}
    with pq.ParquetWriter(path, SCHEMA, **options) as writer:
        for part in _groups(rows):
            names = _bytes_columns(rows[part.start])
            values = {name: _read_all([rows[row][name] for row in part]) for name in names}
            columns = {name: [rows[row][name] for row in part] for name in METADATA_COLUMNS} | values
            nulls = [None] * len(part)
            arrays = [pa.array(columns.get(field.name, nulls), field.type) for field in SCHEMA]
            table = pa.table(arrays, schema=SCHEMA)
            writer.write_table(table, row_group_size=_WHOLE_PAGE)
            checksums.append({name: _checksum(values[name]) for name in values})
        stated = dict(metadata) | writer_metadata()
        footer = _json({"facts": stated, "groups": checksums, "rows": rows_checksum(rows)})
        writer.add_key_value_metadata({_FOOTER: footer, _FOOTER_SUM: _checksum([footer])})
    fsync(path)


def open_shard(path: StoragePath) -> Shard:
    """Read the index of a file. Its latents are neither read nor verified, see `verify_group`.

    Raises:
        DamagedShardError: it is damaged, or of another version.
        StoreError: the object store cannot be reached.
    """
    try:
        with pq.ParquetFile(open_arrow(path), pre_buffer=not isinstance(path, Path)) as file:
            table, layout = file.read(METADATA_COLUMNS), file.metadata
        rows = table.to_pylist()
        footer = layout.metadata[_FOOTER]
        if layout.metadata[_FOOTER_SUM].decode() != _checksum([footer]):
            raise DamagedShardError(_damage(path, "the footer is not what was written"))
        stated = json.loads(footer)
        if stated["facts"].get("schema_version") != SCHEMA_VERSION:
            raise DamagedShardError(_damage(path, f"its schema is not version {SCHEMA_VERSION}"))
        if stated["rows"] != rows_checksum(rows):
            raise DamagedShardError(_damage(path, "the rows are not what was written"))
        ends = np.cumsum([0, *(layout.row_group(n).num_rows for n in range(layout.num_row_groups))])
        groups = [range(start, end) for start, end in pairwise(ends)]
        lengths = {
            name: np.array([array_bytes(row[shape], row["dtype"]) for row in rows], np.int64)
            for name, shape in BYTES_COLUMNS.items()
            if all(name in checksums for checksums in stated["groups"])
        }
        offsets = {name: _offsets(layout, name, groups, lengths[name]) for name in lengths}
        return Shard(path, stated["facts"], rows, stated["rows"], groups, stated["groups"], offsets, lengths)
    # Flipped bits in names, counts and text cause any of these.
    except (pa.ArrowException, OSError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise_if_unreachable(path, error)
        raise DamagedShardError(_damage(path, " ".join(str(error).split()))) from None


def verify_group(shard: Shard, number: int, names: Iterable[str] | None = None) -> None:
    """Compare the bytes of a row group, in the named columns or in all, with their checksums.

    Raises:
        DamagedShardError: they differ.
    """
    for name in names or shard.group_checksums[number]:
        digest = hashlib.sha256()
        ranges = [shard.byte_range(name, row) for row in shard.group_rows[number]]
        for data in read_ranges(shard.path, [(value.offset, value.length) for value in ranges]):
            digest.update(data)
        if digest.hexdigest() != shard.group_checksums[number][name]:
            raise DamagedShardError(_damage(shard.path, f"{name} of row group {number} differ"))


def writer_metadata() -> dict[str, Any]:
    """Return the metadata of every file: with another writer the same rows may become other bytes."""
    return {"schema_version": SCHEMA_VERSION, "writer": f"pyarrow {pa.__version__}"}


def to_float32(values: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Convert stored values, bfloat16 as uint16, to float32, exactly."""
    if dtype == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def array_bytes(shape: Sequence[int], dtype: str) -> int:
    """Return the bytes of an array of this shape."""
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(DTYPES[dtype]).itemsize


def rows_checksum(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the SHA-256 of the columns METADATA_COLUMNS, as they are read back."""
    floats = [field.name for field in SCHEMA if field.type == pa.float32()]
    singles = [{**row, **{name: _float32(row[name]) for name in floats}} for row in rows]
    return _checksum([_json([[row[name] for name in METADATA_COLUMNS] for row in singles])])


def _float32(value: float | None) -> float | None:
    return None if value is None else float(np.float32(value))


def _groups(rows: Sequence[Mapping[str, Any]]) -> Iterator[range]:
    """Neighbouring rows of at most GROUP_BYTES together, or a single row that has more."""
    start, taken = 0, 0
    for row, columns in enumerate(rows):
        size = sum(
            array_bytes(columns[BYTES_COLUMNS[name]], columns["dtype"]) for name in _bytes_columns(columns)
        )
        if row > start and taken + size > GROUP_BYTES:
            yield range(start, row)
            start, taken = row, 0
        taken += size
    if len(rows) > start:
        yield range(start, len(rows))


def _bytes_columns(row: Mapping[str, Any]) -> list[str]:
    """Bytes columns that are not null in a row."""
    return [name for name in BYTES_COLUMNS if row.get(name) is not None]


def _offsets(layout: Any, name: str, groups: list[range], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Compute where in the file each value of a bytes column begins.

    Parquet's metadata says where a column's part of a row group begins and how long it is, and no more. To
    read a single clip through pyarrow is to decode its whole group of 16 MiB. But with no compression, no
    dictionary, no nulls and one page a group, the part is

        page header | levels, if any | length 0 | value 0 | length 1 | value 1 | ... | length n-1 | value n-1
        ^                                                                                                   ^
        data_page_offset                                                 data_page_offset + compressed size

    The lengths of the values follow from their shapes. The lengths of page header and levels do not: they
    depend on the writer. So count from the end: value i begins where the values i to n-1, each after a length
    of 4 bytes, would begin, plus 4. `tests/latents` prove it by each value's bytes, and the checksums of
    a group, which are compared before its first use, by those of every file.
    """
    offsets = np.zeros(len(lengths), np.int64)
    for number, rows in enumerate(groups):
        chunk = layout.row_group(number).column(SCHEMA.names.index(name))
        end = chunk.data_page_offset + chunk.total_compressed_size
        part = slice(rows.start, rows.stop)
        from_end = np.cumsum((lengths[part] + 4)[::-1])[::-1]
        offsets[part] = end - from_end + 4
    return offsets


def _read_all(values: Sequence[bytes | ByteRange]) -> list[bytes]:
    """Return bytes in the order given; each file is read from front to back."""
    found = {number: value for number, value in enumerate(values) if isinstance(value, bytes)}
    ranges = [(value, number) for number, value in enumerate(values) if isinstance(value, ByteRange)]
    ranges.sort(key=lambda item: (str(item[0].path), item[0].offset))
    for path, items in groupby(ranges, key=lambda item: item[0].path):
        in_file = list(items)
        read = read_ranges(path, [(value.offset, value.length) for value, _ in in_file])
        found |= {number: data for (_, number), data in zip(in_file, read, strict=True)}
    return [found[number] for number in range(len(values))]


def _checksum(parts: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _damage(path: StoragePath, what: str) -> str:
    return f"{path}: got a damaged shard ({what}), expected what was written; run `dvc repro encode`"

"""Random access to a column of bytes of many shards: each clip by one read.

Axes: B batch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videomar.errors import DataError
from videomar.latents.parquet import BYTES_COLUMNS, DTYPES, Shard, to_float32, verify_group
from videomar.storage import RangeReader, for_each

# Well below the 1,024 files that a process may usually hold.
_OPEN_FILES = 128


class StoredColumn:
    """Values of one column, numbered as `rows`. Remembers byte ranges, open files and verified row groups."""

    def __init__(self, name: str, rows: Sequence[tuple[Shard, int]]) -> None:
        self.name = name
        self.shapes: list[tuple[int, ...]] = []
        self.dtypes: list[str] = []
        shards = list({shard.path: shard for shard, _ in rows}.values())
        # Without the captions and keys of a million clips, which take gigabytes.
        self._shards = [replace(shard, rows=[]) for shard in shards]
        number_of = {shard.path: number for number, shard in enumerate(shards)}
        starts = [np.array([part.start for part in shard.group_rows]) for shard in shards]
        ranges = np.empty((len(rows), 4), np.int64)
        for entry, (shard, row) in zip(ranges, rows, strict=True):
            number = number_of[shard.path]
            group = np.searchsorted(starts[number], row, side="right") - 1
            entry[:] = number, group, shard.offsets[name][row], shard.lengths[name][row]
            columns = shard.rows[row]
            self.shapes.append(tuple(columns[BYTES_COLUMNS[name]]))
            self.dtypes.append(columns["dtype"])
        self._ranges = ranges
        self._verified = [[False] * len(shard.group_rows) for shard in self._shards]
        paths = [shard.path for shard in shards]
        # A reader that is let go is closed, once no thread reads from it.
        self._reader = lru_cache(_OPEN_FILES)(lambda number: RangeReader(paths[number]))
        known: dict[tuple[tuple[int, ...], str], int] = {}
        kinds = zip(self.shapes, self.dtypes, strict=True)
        self._kinds = np.array([known.setdefault(kind, len(known)) for kind in kinds])

    def read_each(self, index: Sequence[int] | NDArray[np.int64]) -> list[NDArray[np.float32]]:
        """Return values that may differ in shape, as float32.

        Raises:
            DataError: bytes are damaged.
        """
        values = [np.empty(length, np.uint8) for length in self._ranges[index, 3]]
        self._read_all(self._ranges[index].tolist(), values)
        return [
            to_float32(value.view(DTYPES[self.dtypes[i]]).reshape(self.shapes[i]), self.dtypes[i])
            for i, value in zip(index, values, strict=True)
        ]

    def read_batch(self, index: Sequence[int] | NDArray[np.int64]) -> tuple[NDArray[Any], str]:
        """Return values (B, ...) as they are stored, and the name of their type.

        Raises:
            DataError: the values differ in shape or type, or their bytes are damaged.
        """
        shape, dtype = self.shapes[index[0]], self.dtypes[index[0]]
        if (self._kinds[index] != self._kinds[index[0]]).any():
            kinds = sorted({(self.shapes[i], self.dtypes[i]) for i in index})
            rule = "one shape and type in a batch; take clips of one size"
            raise DataError(f"{self.name}: got {kinds}, expected {rule}")
        ranges = self._ranges[index].tolist()
        data = np.empty((len(index), ranges[0][3]), np.uint8)
        self._read_all(ranges, data)
        return data.view(DTYPES[dtype]).reshape(len(index), *shape), dtype

    def _read_all(self, ranges: list[list[int]], values: Iterable[NDArray[np.uint8]]) -> None:
        new = {(number, group) for number, group, _, _ in ranges if not self._verified[number][group]}
        folder = self._shards[0].path
        for_each(folder, self._verify, new)
        for_each(folder, self._read_into, zip(ranges, values, strict=True))

    def _verify(self, group: tuple[int, int]) -> None:
        number, part = group
        verify_group(self._shards[number], part, [self.name])
        self._verified[number][part] = True

    def _read_into(self, item: tuple[list[int], NDArray[np.uint8]]) -> None:
        (number, _, offset, length), data = item
        if self._reader(number).read_into(offset, data) != length:
            rule = "the bytes that were there when it was opened; run `dvc repro encode`"
            raise DataError(f"{self._shards[number].path}: got a shorter file, expected {rule}")

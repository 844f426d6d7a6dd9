"""A column of bytes of many shards, read clip by clip where the bytes lie.

Axes: B batch.
"""

import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videomar.data.shard import BYTES_COLUMNS, DTYPES, Shard, to_float32, verify_group
from videomar.errors import DataError

# Well below the 1,024 files that a process may usually hold.
_OPEN_FILES = 128


class StoredColumn:
    """Values of one column, numbered as `rows`. Remembers places, open files and what has been verified."""

    def __init__(self, name: str, rows: Sequence[tuple[Shard, int]]) -> None:
        self.name = name
        self.shapes: list[tuple[int, ...]] = []
        self.dtypes: list[str] = []
        shards = list({shard.path: shard for shard, _ in rows}.values())
        # Captions and the like of a million clips take gigabytes.
        self._shards = [replace(shard, rows=[]) for shard in shards]
        number_of = {shard.path: number for number, shard in enumerate(shards)}
        starts = [np.array([part.start for part in shard.group_rows]) for shard in shards]
        places = np.empty((len(rows), 4), np.int64)
        for place, (shard, row) in zip(places, rows, strict=True):
            number = number_of[shard.path]
            group = np.searchsorted(starts[number], row, side="right") - 1
            place[:] = number, group, shard.offsets[name][row], shard.lengths[name][row]
            columns = shard.rows[row]
            self.shapes.append(tuple(columns[BYTES_COLUMNS[name]]))
            self.dtypes.append(columns["dtype"])
        self._places = places
        self._verified = [[False] * len(shard.group_rows) for shard in self._shards]
        self._files = _Files([shard.path for shard in shards])
        known: dict[tuple[tuple[int, ...], str], int] = {}
        kinds = zip(self.shapes, self.dtypes, strict=True)
        self._kinds = np.array([known.setdefault(kind, len(known)) for kind in kinds])

    def read(self, index: int) -> NDArray[np.float32]:
        """One value, as float32.

        Raises:
            DataError: its bytes are damaged.
        """
        data = np.empty(self._places[index, 3], np.uint8)
        self._read_into(self._places[index].tolist(), data)
        dtype = self.dtypes[index]
        return to_float32(data.view(DTYPES[dtype]).reshape(self.shapes[index]), dtype)

    def read_batch(self, index: Sequence[int] | NDArray[np.int64]) -> tuple[NDArray[Any], str]:
        """Values (B, ...) as they are stored, and the name of their type.

        Raises:
            DataError: the values differ in shape or type, or their bytes are damaged.
        """
        shape, dtype = self.shapes[index[0]], self.dtypes[index[0]]
        if (self._kinds[index] != self._kinds[index[0]]).any():
            kinds = sorted({(self.shapes[i], self.dtypes[i]) for i in index})
            rule = "one shape and type in a batch; take clips of one size"
            raise DataError(f"{self.name}: got {kinds}, expected {rule}")
        places = self._places[index].tolist()
        data = np.empty((len(index), places[0][3]), np.uint8)
        for place, row in zip(places, data, strict=True):
            self._read_into(place, row)
        return data.view(DTYPES[dtype]).reshape(len(index), *shape), dtype

    def _read_into(self, place: list[int], data: NDArray[np.uint8]) -> None:
        number, group, offset, length = place
        file = self._files.open(number)
        if not self._verified[number][group]:
            verify_group(self._shards[number], group, [self.name])
            self._verified[number][group] = True
        if os.preadv(file, [data.data], offset) != length:
            rule = "the bytes that were there when it was opened; run `dvc repro encode`"
            raise DataError(f"{self._shards[number].path}: got a shorter file, expected {rule}")


class _Files:
    """Open files, the longest unused of which is closed when there are too many."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._open: OrderedDict[int, int] = OrderedDict()

    def open(self, number: int) -> int:
        """Descriptor of a file by the number of its path."""
        if number in self._open:
            self._open.move_to_end(number)
        else:
            if len(self._open) == _OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
            self._open[number] = os.open(self._paths[number], os.O_RDONLY)
        return self._open[number]

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

"""Arrays that are encoded and not in a shard yet, on disk: what a killed run had finished is not lost.

One file to which records are appended: a line of JSON, then the bytes. What a kill leaves torn at the end is
cut off when the file is opened again.
"""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

from filelock import FileLock, Timeout

from videomar.errors import DataError
from videomar.latents.parquet import Stored

FILE = ".journal"


class Array(NamedTuple):
    """An array on disk."""

    shape: list[int]
    stored: Stored


class Journal:
    """The finished arrays of a cache by key. Remembers where they lie, and holds the file for itself."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE
        self.arrays: dict[str, Array] = {}
        # Beside the folder, all of which data version control takes for results.
        self._lock = FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0)

    def __enter__(self) -> Self:
        try:
            self._lock.acquire()
        except Timeout:
            rule = "one encode at a time; wait for the other"
            raise DataError(f"{self.path}: got a journal in use, expected {rule}") from None
        self.file = self.path.open("a+b")
        self.file.seek(0)
        end = 0
        while record := _read_record(self.file):
            self._remember(record, self.file.tell() - record["bytes"])
            end = self.file.tell()
        self.file.truncate(end)
        self.file.seek(end)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # on a full disk what could not be written is tried once more
            self.file.close()
        self._lock.release()

    def add(self, key: str, shape: list[int], data: bytes) -> None:
        """Keep an array from now on.

        Raises:
            DataError: the disk is full, or the like.
        """
        record = {"key": key, "shape": shape, "bytes": len(data), "sum": hashlib.sha256(data).hexdigest()}
        try:
            self.file.write(json.dumps(record).encode() + b"\n")
            offset = self.file.tell()
            self.file.write(data)
            self.file.flush()
        except OSError as error:
            rule = f"room for {len(data)} bytes more; free some and run again: what is finished is kept"
            raise DataError(f"{self.path}: got {error.strerror}, expected {rule}") from None
        self._remember(record, offset)

    def remove(self) -> None:
        """Delete the file: all is in the shards."""
        self.path.unlink()

    def _remember(self, record: dict[str, Any], offset: int) -> None:
        self.arrays[record["key"]] = Array(record["shape"], Stored(self.path, offset, record["bytes"]))


def _read_record(file: BinaryIO) -> dict[str, Any] | None:
    """The next record, the file standing behind its bytes; None where there is no whole one."""
    try:
        record = json.loads(file.readline())
        data = file.read(record["bytes"])
    except (ValueError, LookupError, TypeError):
        return None
    whole = len(data) == record["bytes"] and hashlib.sha256(data).hexdigest() == record["sum"]
    return record if whole else None

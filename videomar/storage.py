"""A folder of whole files, on a disk or in an object store.

A file appears complete or not at all, is read by ranges of bytes, and is replaced, never changed.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pyarrow import fs

from videomar.errors import DataError
from videomar.place import ObjectPath, Place

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_THREADS = 16
# A request takes as long as reading about this much.
_GAP_BYTES, _REQUEST_BYTES = 2**20, 2**25


class StoreError(DataError):
    """An object store that does not answer, or refuses."""


class Entry(NamedTuple):
    """A file of a folder: its path below it, bytes, and time of change in nanoseconds."""

    name: str
    size: int
    mtime_ns: int


def list_files(folder: Place, recursive: bool = False) -> list[Entry]:
    """The files of a folder, sorted by name; an absent folder has none.

    Raises:
        StoreError: the store cannot be reached, or there is no such bucket.
    """
    if isinstance(folder, Path):
        paths = folder.rglob("*") if recursive else folder.glob("*")
        found = [(path, path.stat()) for path in paths if path.is_file()]
        return sorted(
            Entry(path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns) for path, stat in found
        )
    selector = fs.FileSelector(folder.key, allow_not_found=True, recursive=recursive)
    with _clear_errors(folder):
        infos = folder.filesystem.get_file_info(selector)
        bucket = folder.key.partition("/")[0]
        if not infos and folder.filesystem.get_file_info(bucket).type == fs.FileType.NotFound:
            raise StoreError(f"{folder}: got no bucket {bucket}, expected one; create it or mend the name")
    files = [info for info in infos if info.type == fs.FileType.File]
    return sorted(Entry(info.path[len(folder.key) + 1 :], info.size, info.mtime_ns) for info in files)


def open_arrow(path: Place) -> Any:
    """What pyarrow reads a file from."""
    return path if isinstance(path, Path) else path.filesystem.open_input_file(path.key)


def read_ranges(path: Place, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    """Bytes of a file by (offset, length), in order of the offsets; of an object, many by one request."""
    if isinstance(path, Path):
        with path.open("rb", buffering=0) as file:
            for offset, length in ranges:
                yield os.pread(file.fileno(), length, offset)
        return
    reader = ObjectReader(path)
    for run in _runs(ranges):
        begin = run[0][0]
        data = memoryview(reader.read_at(begin, sum(run[-1]) - begin))
        for offset, length in run:
            yield bytes(data[offset - begin : offset - begin + length])


class ObjectReader:
    """An open object; several threads may read it at once."""

    def __init__(self, path: ObjectPath) -> None:
        self.path = path
        with _clear_errors(path):
            self._file = path.filesystem.open_input_file(path.key)

    def read_at(self, offset: int, length: int) -> bytes:
        """At most `length` bytes, fewer at the end.

        Raises:
            StoreError: the store cannot be reached.
        """
        with _clear_errors(self.path):
            return self._file.read_at(length, offset)


def put(draft: Path, path: Place) -> None:
    """Make a whole local file appear at its place, and end the draft; readers see the old file or the new.

    Raises:
        StoreError: the store cannot be reached, or refuses.
    """
    if isinstance(path, Path):
        os.replace(draft, path)
        return
    with _clear_errors(path):  # an upload that breaks off is never completed
        fs.copy_files(str(draft), path.key, fs.LocalFileSystem(), path.filesystem, use_threads=False)
    draft.unlink()


def fetch(path: ObjectPath, draft: Path) -> None:
    """Copy an object to a local file.

    Raises:
        StoreError: the store cannot be reached, or refuses.
    """
    with _clear_errors(path):
        fs.copy_files(path.key, str(draft), path.filesystem, fs.LocalFileSystem(), use_threads=False)


def remove(paths: Iterable[Place]) -> None:
    """Delete files; those that are gone already are no matter."""
    for path in list(paths):
        with contextlib.suppress(FileNotFoundError):
            if isinstance(path, Path):
                path.unlink()
            else:
                with _clear_errors(path):
                    path.filesystem.delete_file(path.key)


def sync(folder: Place) -> None:
    """Bring the names in a folder to the disk; a store has done so."""
    if isinstance(folder, Path):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def for_each(folder: Place, function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Results in order: one after the other on a disk, many at once where each waits for a store."""
    if isinstance(folder, Path):
        return [function(item) for item in items]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, items))


def raise_if_away(path: Place, error: BaseException) -> None:
    """Tell a store that is away from a file that is damaged.

    Raises:
        StoreError: the error is the store's.
    """
    said = " ".join(str(error).split())
    if isinstance(path, Path) or "AWS Error" not in said:
        return
    reason = said.partition("AWS Error ")[2].partition(" (Request ID")[0][:200].rstrip(": ")
    if "NETWORK_CONNECTION" in reason:
        rule = "a store that answers; check the network and AWS_ENDPOINT_URL"
    elif "NO_SUCH_BUCKET" in reason:
        rule = "a bucket that exists; create it or mend the name"
    else:  # without credentials some stores say nothing at all
        rule = (
            "access; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and the rights on the bucket"
        )
    raise StoreError(f"{path}: got {reason}, expected {rule}; what is finished is kept") from None


@contextlib.contextmanager
def _clear_errors(path: Place) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise_if_away(path, error)
        raise


def _runs(ranges: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Neighbouring ranges that are cheaper to read together with the gaps between them."""
    runs: list[list[tuple[int, int]]] = []
    for offset, length in ranges:
        near = runs and 0 <= offset - sum(runs[-1][-1]) <= _GAP_BYTES
        if near and offset + length - runs[-1][0][0] <= _REQUEST_BYTES:
            runs[-1].append((offset, length))
        else:
            runs.append([(offset, length)])
    return runs

"""Folders and files on a disk of this machine or in an object store (`s3://bucket/folder`).

A file appears complete or not at all, is read by ranges of bytes, and is replaced, never changed.

The endpoint and the region of a store come from the URL (`?endpoint_override=http://host:9000&region=eu-west-1`)
or from AWS_ENDPOINT_URL and AWS_REGION. Credentials come from the environment or the machine's role, never
from a URL.

Built on pyarrow's file systems and not on fsspec, whose `put_file` publishes a part of a file when it is
interrupted, and whose `cat_ranges` makes two requests a range (docs/LOG.md).
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlsplit

import numpy as np
from numpy.typing import NDArray
from pyarrow import fs

from videomar.errors import DataError
from videomar.files import fsync

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_JOURNALS = Path(".local/journals")
_OPTIONS = ("endpoint_override", "region", "scheme")
# Three tries of these: a store that does not answer is given up within a minute.
_CONNECT_S, _SILENCE_S, _TRIES = 5.0, 12.0, 3
_THREADS = 16
# A request takes as long as reading about this much.
_GAP_BYTES, _REQUEST_BYTES = 2**20, 2**25
# pyarrow's default of 1 MiB makes a download of 48 MB five times slower.
_DOWNLOAD_BYTES = 2**23


class StoreError(DataError):
    """An object store that does not answer, or refuses."""


@dataclass(frozen=True, slots=True)
class ObjectPath:
    """A folder or a file in an object store, as `Path` is one on a disk."""

    key: str
    """Bucket, folders and name, as `bucket/folder/name`."""
    options: tuple[tuple[str, str], ...] = ()
    """Pairs of the URL's query."""

    def __truediv__(self, name: str) -> "ObjectPath":
        return replace(self, key=f"{self.key}/{name}")

    def __str__(self) -> str:
        query = "&".join(f"{name}={value}" for name, value in self.options)
        return f"s3://{self.key}" + (f"?{query}" if query else "")

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def filesystem(self) -> fs.S3FileSystem:
        """Client of the store; one per endpoint and options."""
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return _connect(endpoint, self.options)


StoragePath = Path | ObjectPath
Location = str | Path | ObjectPath
"""A path, a path as text, or a URL: what users name."""


class FileEntry(NamedTuple):
    """A file of a folder: its path below the folder, bytes, and time of change in nanoseconds."""

    name: str
    size: int
    mtime_ns: int


def parse_location(location: Location) -> StoragePath:
    """Return the path that a local path or a URL names.

    Raises:
        DataError: the URL is not one of an object store, or contains credentials or unknown options.
    """
    if isinstance(location, ObjectPath) or "://" not in str(location):
        return location if isinstance(location, ObjectPath) else Path(location)
    url = urlsplit(str(location))
    if "@" in url.netloc:  # the message must not repeat them
        rule = "a bucket alone; put credentials into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise DataError(f"{url.scheme}://{url.netloc.rpartition('@')[2]}: got credentials, expected {rule}")
    if url.scheme != "s3" or not url.netloc or url.fragment:
        raise DataError(f"{location}: got another URL, expected s3://BUCKET/FOLDER; or give a local folder")
    options = tuple(sorted(parse_qsl(url.query, keep_blank_values=True)))
    if unknown := [name for name, _ in options if name not in _OPTIONS]:
        rule = f"{', '.join(_OPTIONS)} at most; the rest comes from the environment"
        raise DataError(f"{url.scheme}://{url.netloc}{url.path}: got {unknown[0]}, expected {rule}")
    return ObjectPath("/".join(part for part in (url.netloc + url.path).split("/") if part), options)


def absolute(location: Location) -> str:
    """Return the same location for a process that starts in another folder."""
    path = parse_location(location)
    return str(path.resolve() if isinstance(path, Path) else path)


def work_folder(folder: StoragePath) -> Path:
    """Return the local folder for unfinished files: the folder itself, or one that stands for a URL."""
    if isinstance(folder, Path):
        return folder
    return _JOURNALS / hashlib.sha256(str(folder).encode()).hexdigest()[:16]


def list_files(folder: StoragePath, recursive: bool = False) -> list[FileEntry]:
    """List the files of a folder, sorted by name; an absent folder has none.

    Raises:
        StoreError: the store cannot be reached, or the bucket does not exist.
    """
    if isinstance(folder, Path):
        paths = folder.rglob("*") if recursive else folder.glob("*")
        found = [(path, path.stat()) for path in paths if path.is_file()]
        return sorted(
            FileEntry(path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns)
            for path, stat in found
        )
    selector = fs.FileSelector(folder.key, allow_not_found=True, recursive=recursive)
    with _clear_errors(folder):
        infos = folder.filesystem.get_file_info(selector)
        bucket = folder.key.partition("/")[0]
        if not infos and folder.filesystem.get_file_info(bucket).type == fs.FileType.NotFound:
            raise StoreError(f"{folder}: got no bucket {bucket}, expected one; create it or correct the name")
    files = [info for info in infos if info.type == fs.FileType.File]
    return sorted(FileEntry(info.path[len(folder.key) + 1 :], info.size, info.mtime_ns) for info in files)


def open_arrow(path: StoragePath) -> Any:
    """Return what pyarrow reads a file from."""
    return path if isinstance(path, Path) else path.filesystem.open_input_file(path.key)


class RangeReader:
    """An open file or object; several threads may read it at once. Closed when nobody refers to it."""

    def __init__(self, path: StoragePath) -> None:
        self._path = path
        self._descriptor: int | None = None
        if isinstance(path, Path):
            self._descriptor = os.open(path, os.O_RDONLY)
        else:
            with _clear_errors(path):
                self._object = path.filesystem.open_input_file(path.key)

    def read_into(self, offset: int, buffer: NDArray[np.uint8]) -> int:
        """Fill a buffer with the bytes from `offset` on; return their number, smaller at the file's end.

        Raises:
            StoreError: the store cannot be reached.
        """
        if self._descriptor is not None:
            return os.preadv(self._descriptor, [buffer.data], offset)
        with _clear_errors(self._path):
            data = self._object.read_at(buffer.nbytes, offset)
        buffer.data[: len(data)] = data
        return len(data)

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def read_ranges(path: StoragePath, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    """Yield the bytes of ranges (offset, length) of a file, in order.

    Neighbouring ranges are read together.
    """
    reader = RangeReader(path)
    for run in _runs(ranges):
        begin = run[0][0]
        data = np.empty(sum(run[-1]) - begin, np.uint8)
        data = data[: reader.read_into(begin, data)]
        for offset, length in run:
            yield data[offset - begin : offset - begin + length].tobytes()


def publish(draft: Path, path: StoragePath) -> None:
    """Make a finished local file appear at `path` and delete it here; readers see the old file or the new.

    Raises:
        StoreError: the store cannot be reached, or refuses.
    """
    if isinstance(path, Path):
        os.replace(draft, path)
        return
    with _clear_errors(path):  # an upload that breaks off is never completed
        fs.copy_files(str(draft), path.key, fs.LocalFileSystem(), path.filesystem, use_threads=False)
    draft.unlink()


def download(path: ObjectPath, draft: Path) -> None:
    """Copy an object to a local file.

    Raises:
        StoreError: the store cannot be reached, or refuses.
    """
    size, local = _DOWNLOAD_BYTES, fs.LocalFileSystem()
    with _clear_errors(path):
        fs.copy_files(path.key, str(draft), path.filesystem, local, chunk_size=size, use_threads=False)


def remove(paths: Iterable[StoragePath]) -> None:
    """Delete files; absent ones are ignored."""
    for path in list(paths):
        with contextlib.suppress(FileNotFoundError):
            if isinstance(path, Path):
                path.unlink()
            else:
                with _clear_errors(path):
                    path.filesystem.delete_file(path.key)


def sync_folder(folder: StoragePath) -> None:
    """Bring the names in a folder to the disk; an object store has done so already."""
    if isinstance(folder, Path):
        fsync(folder)


def for_each(
    folder: StoragePath, function: Callable[[_Item], _Result], items: Iterable[_Item]
) -> list[_Result]:
    """Return results in order: computed in turn on a disk, in threads where each waits for a store."""
    if isinstance(folder, Path):
        return [function(item) for item in items]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, items))


def raise_if_unreachable(path: StoragePath, error: BaseException) -> None:
    """Raise a `StoreError` if `error` is the object store's; return if it may be due to a damaged file.

    Raises:
        StoreError: the store does not answer, or refuses.
    """
    message = " ".join(str(error).split())
    if isinstance(path, Path) or "AWS Error" not in message:
        return
    reason = message.partition("AWS Error ")[2].partition(" (Request ID")[0][:200].rstrip(": ")
    if "NETWORK_CONNECTION" in reason:
        rule = "a store that answers; check the network and AWS_ENDPOINT_URL"
    elif "NO_SUCH_BUCKET" in reason:
        rule = "a bucket that exists; create it or correct the name"
    else:  # without credentials some stores answer nothing that says so
        rule = (
            "access; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and the rights on the bucket"
        )
    raise StoreError(f"{path}: got {reason}, expected {rule}; finished files are kept") from None


@lru_cache
def _connect(endpoint: str | None, options: tuple[tuple[str, str], ...]) -> fs.S3FileSystem:
    return fs.S3FileSystem(
        **{"endpoint_override": endpoint, **dict(options)},
        connect_timeout=_CONNECT_S,
        request_timeout=_SILENCE_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_TRIES),
    )


@contextlib.contextmanager
def _clear_errors(path: StoragePath) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise_if_unreachable(path, error)
        raise


def _runs(ranges: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Group neighbouring ranges that are cheaper to read together with the gaps between them."""
    runs: list[list[tuple[int, int]]] = []
    for offset, length in ranges:
        near = runs and 0 <= offset - sum(runs[-1][-1]) <= _GAP_BYTES
        if near and offset + length - runs[-1][0][0] <= _REQUEST_BYTES:
            runs[-1].append((offset, length))
        else:
            runs.append([(offset, length)])
    return runs

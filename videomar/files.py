"""Files: written whole or not at all, JSON and CSV, checksums, and the message for a full disk."""

import contextlib
import csv
import errno
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from videomar.errors import DataError, VideomarError

LOG_FILE = "log.csv"
"""Metrics of a training run by step, in the folder of the run."""
_WRITTEN = (".local", "data", "checkpoints", "reports", ".dvc", tempfile.gettempdir())
_LITTLE_BYTES = 2**20
_WORDS = ("disk is full", "no space left on device")


def require_new_folder(out: Path) -> None:
    """Refuse a folder to write to that holds something already.

    Raises:
        DataError: it is no folder, or not empty.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise DataError(f"{out}: exists already, expected a new folder; choose another --out")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success the file written there replaces `path`.

    Readers see the old file or the whole new one, never a part. The temporary name contains the process id,
    so two processes that write at once do not mix their bytes: the later one wins. Temporary files that ended
    processes left are deleted.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if not process_exists(left.name.rpartition(".")[2]):
            left.unlink(missing_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically."""
    with atomic_write(path) as draft:
        draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_log(out: Path) -> list[dict[str, float]]:
    """Metrics of a run by step, one dict per row of its `log.csv`; empty before the first row is logged."""
    try:
        with (out / LOG_FILE).open(newline="", encoding="utf-8") as file:
            return [
                {key: _number(value) for key, value in row.items() if value} for row in csv.DictReader(file)
            ]
    except FileNotFoundError:
        return []


def write_csv(path: Path, rows: Sequence[dict[str, float]]) -> None:
    """Write rows as CSV atomically; the header holds every key that occurs in a row."""
    with atomic_write(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


def sha256_of(*paths: Path) -> str:
    """SHA-256 of the bytes of the files, in the given order, as 64 hex digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


@contextmanager
def explain_full_disk() -> Iterator[None]:
    """Replace any error that a full disk caused by a one-line message.

    Databases, Ray and Arrow each report a full disk in their own way.

    Raises:
        DataError: a disk is full.
    """
    try:
        yield
    except VideomarError:
        raise
    except Exception as error:
        line = full_disk_message(error)
        if line is None:
            raise
        raise DataError(line) from error


def full_disk_message(error: BaseException) -> str | None:
    """One-line message if a full disk caused `error`, else None."""
    free, place = min((shutil.disk_usage(path).free, path) for path in _WRITTEN if Path(path).exists())
    if free >= _LITTLE_BYTES and not _is_about_full_disk(error):
        return None
    rule = "enough for the files to be written there"
    todo = "free space (`videomar gc` lists what can be deleted) and run again; no file is half-written"
    return f"{place}: got {free / 1e6:.1f} MB free, expected {rule}; {todo}"


def _is_about_full_disk(error: BaseException | None) -> bool:
    """Whether an error or one of its causes says that a disk is full."""
    while error is not None:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or any(words in str(error).lower() for words in _WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _number(text: str) -> float:
    """Parse a number; integers stay integers."""
    return int(text) if text.isdecimal() else float(text)


def process_exists(pid: str) -> bool:
    """Whether a process with this id exists; True for text that is no id, so that unknown files are kept."""
    if not pid.isdecimal():
        return True
    with contextlib.suppress(PermissionError):  # it exists, but belongs to another user
        try:
            os.kill(int(pid), 0)
        except (ProcessLookupError, OverflowError):
            return False
    return True

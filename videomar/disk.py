"""A full disk, told in one line: databases, Ray and Arrow each say it in their own way."""

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from videomar.errors import DataError, VideomarError

_WRITTEN = (".local", "data", "checkpoints", "reports", ".dvc", tempfile.gettempdir())
_LITTLE_BYTES = 2**20
_WORDS = ("disk is full", "no space left on device")


@contextmanager
def full_disk_told() -> Iterator[None]:
    """What fails inside because a disk is full fails with one line about that.

    Raises:
        DataError: a disk is full.
    """
    try:
        yield
    except VideomarError:
        raise
    except Exception as error:
        line = about_full_disk(error)
        if line is None:
            raise
        raise DataError(line) from error


def about_full_disk(error: BaseException) -> str | None:
    """One line about the disk that is full, if that is why something failed; None if it is not."""
    free, place = min((shutil.disk_usage(path).free, path) for path in _WRITTEN if Path(path).exists())
    if free >= _LITTLE_BYTES and not _tells_of_it(error):
        return None
    rule = "room for what is to be written there"
    todo = "free some (`videomar gc` shows what can go) and run again: nothing is half-written"
    return f"{place}: got {free / 1e6:.1f} MB free, expected {rule}; {todo}"


def _tells_of_it(error: BaseException | None) -> bool:
    """Whether an error, or what led to it, is that of a full disk."""
    while error is not None:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or any(words in str(error).lower() for words in _WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False

"""Files that are written whole or not at all, and what killed processes left of them."""

import contextlib
import glob
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; what is there at the end takes the place of `path`.

    The name carries the number of this process, so that two that write at once spoil nothing: the later one
    stands. Drafts of processes that no longer live are removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if not _lives(left.name.rpartition(".")[2]):
            left.unlink(missing_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    """Write JSON, whole or not at all."""
    with draft_of(path) as draft:
        draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _lives(number: str) -> bool:
    """Whether a process of this number exists; what is no number may be anything, and is left alone."""
    if not number.isdecimal():
        return True
    with contextlib.suppress(PermissionError):  # it is there, and another user's
        try:
            os.kill(int(number), 0)
        except (ProcessLookupError, OverflowError):
            return False
    return True

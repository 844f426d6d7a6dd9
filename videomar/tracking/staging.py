"""Folders in which models are put together for MLflow: on the disk of the checkout, not in /tmp.

A process that is killed leaves its folder behind. The name says which process, and a file in it which run of
MLflow was being filled, so that nothing of an interrupted registration stays unnoticed:

    .local/staged/HOST.PID.RANDOM/    the model, evidence, and what MLflow itself copies
    .local/staged/.../run_id          the run
"""

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from videomar.environment import checkout
from videomar.files import process_exists

_STAGED, _RUN = Path(".local/staged"), "run_id"
_LONGEST_S = 86400.0  # a process of another machine cannot be looked up, and ids are used again


class Staged(NamedTuple):
    """A staging folder."""

    folder: Path
    run_id: str | None
    """The run that is being filled from it."""
    ended: bool
    """Whether its process has ended and left it behind."""


@contextmanager
def staging_folder() -> Iterator[Path]:
    """Yield a new empty folder, removed in the end; meanwhile temporary files of this process go there, too.

    MLflow copies a model into a temporary folder of its own choice before it stores it.
    """
    top = checkout() / _STAGED
    top.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{platform.node()}.{os.getpid()}.", dir=top.resolve()))
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)


def note_run(folder: Path, run_id: str) -> None:
    """Write down which run is being filled from a staging folder."""
    (folder / _RUN).write_text(run_id, encoding="utf-8")


def staged_folders() -> list[Staged]:
    """All staging folders of the checkout."""
    found = []
    for folder in sorted((checkout() / _STAGED).glob("*/")):
        host, _, pid = folder.name.rpartition(".")[0].rpartition(".")
        ended = host == platform.node() and not process_exists(pid)
        ended = ended or time.time() - folder.stat().st_mtime > _LONGEST_S
        noted = folder / _RUN
        found.append(Staged(folder, noted.read_text("utf-8").strip() if noted.is_file() else None, ended))
    return found

"""Files read in child processes: the decoders are checked first, and what fails is read once more, alone.

    all workers    tiny video | a  b  c  d  e  f ...      b: timeout, e: crashed
    one worker                                       b  e      with the memory of all workers

A file that fails beside others may have suffered from them: from a full memory, or from their load.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from tqdm import tqdm

from videomar.config import IngestParams
from videomar.curation.sandbox import run_isolated
from videomar.errors import DataError
from videomar.media.check_decoders import check_decoders

_File = TypeVar("_File")
_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)


def read_files(
    function: Callable[[_File], _Result],
    files: Sequence[_File],
    params: IngestParams,
    prepare: Callable[[], None] | None = None,
) -> list[_Result | str]:
    """Return what a function makes of each file, or why it failed here, even when it was read alone.

    Args:
        function: A function at the top level of a module.
        files: Its arguments.
        params: Limits of the child processes.
        prepare: Called by each of them before its first file.

    Raises:
        DataError: the decoders do not work.
    """
    if not files:
        return []
    work = partial(_work, function)
    # The first worker checks the decoders, in its own process: a broken library may end it.
    tasks = [None, *files]
    done = run_isolated(work, tasks, params.timeout_s, params.num_workers, params.memory_gb, prepare)
    _refuse_decoders(next(done))
    bar = tqdm(done, total=len(files), desc="reading videos", unit="video", disable=None)
    results: list[_Result | str] = [result for result in bar if result is not None]
    failed = [number for number, result in enumerate(results) if isinstance(result, str)]
    if failed:
        counts = len(failed), len(files)
        _log.warning("ingest: %d of %d files failed here; each is read once more, alone", *counts)
        memory_gb = params.memory_gb * params.num_workers
        again = [files[number] for number in failed]
        for number, result in zip(
            failed, run_isolated(function, again, params.timeout_s, 1, memory_gb, prepare), strict=True
        ):
            results[number] = result
    return results


def _work(function: Callable[..., _Result], file: object) -> _Result | None:
    """The work of a child process: on a file, or a check of the decoders."""
    if file is not None:
        return function(file)
    check_decoders()
    return None


def _refuse_decoders(reason: object) -> None:
    if isinstance(reason, str) and reason.startswith("failed: decoders: "):
        raise DataError(reason.removeprefix("failed: "))
    if isinstance(reason, str):
        raise DataError(
            f"decoders: got {reason} while they read a tiny video, expected its frames; make room for them, "
            "or install them again: `rm -f .venv/.ready && make setup`"
        )

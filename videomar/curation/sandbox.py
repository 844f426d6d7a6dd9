"""Work on files that may hang, crash or bloat a process: in children that are watched.

    parent   counts how long each task has shown no progress, and ends the process of one that is stuck
    child    `report_progress()` after each step of its task; a thread watches its memory

A task may take any time, as long as it goes on. The parent watches, because a thread of the child could not:
C code that hangs may hold Python's lock, and a stopped process runs no thread at all.

The limit on memory is on what is resident. The kernel's own limits do not serve: RLIMIT_AS and RLIMIT_DATA
count address space that libraries only reserve (0.7 GB before the first file, where 0.16 GB are resident),
and at the limit malloc fails with errors that look like a damaged file; RLIMIT_RSS has no effect on Linux.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing.context import SpawnContext
from typing import Any, TypeVar

import numpy as np
import psutil
from pebble import CONSTS, ProcessExpired, ProcessPool

from videomar.errors import DataError

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")

# Exit codes of a child that ends itself: its task took too much memory, the tasks before it kept too much, or
# its parent has ended.
_EXIT_MEMORY, _EXIT_LEAK, _EXIT_ORPHAN = 86, 87, 88
_WATCH_S = 0.02  # a decoder fills less than 100 MB in this time
_LOOK_S = 0.1  # between two looks at the progress of all tasks
_FINISHED = 2**32 - 1  # in place of the steps of a task
_POOLS = 3  # started in a row without a result: then none is of use
_LEAK_SHARE = 0.25  # of its memory that a child may keep from tasks that are over
_prepared = 0  # bytes that `prepare` loaded, for all tasks
_first = -1  # in a child: bytes that were resident when its first task began
_steps: Any = None  # in a child: steps of every task, shared with the parent
_number = -1  # in a child: its task

CONSTS.sleep_unit = 0.02  # pebble's: seconds between two looks for a dead process, or for the end


def run_isolated(
    function: Callable[[_Task], _Result],
    tasks: Sequence[_Task],
    timeout_s: float,
    num_workers: int,
    memory_gb: float,
    prepare: Callable[[], None] | None = None,
) -> Iterator[_Result | str]:
    """Yield the result of `function` for every task, in their order; a reason where it has none.

    Workers stay from task to task; one that hangs, dies or grows costs its own task and is replaced. What one
    has kept from the tasks before does not count against the next, which has as much room as in a new worker:

        limit 2 GB    kept 0.3 GB    this task may take the process to 2.3 GB
                      kept 0.6 GB    a quarter is over: the worker is replaced before the task begins

    None of the reasons says anything about the task for certain: on another day, with more memory or less
    load, it may have a result.

    Args:
        function: A function at the top level of a module, so that a new process finds it.
        tasks: Its argument, for each call.
        timeout_s: Longest time between two calls of `report_progress`, its begin and end counted as such.
        num_workers: Processes side by side.
        memory_gb: Resident memory, 10^9 bytes, over which a new process gives up its task.
        prepare: Called once by each worker before its first task, outside of its time limit; the memory
            that it adds is not counted.

    Yields:
        The result, or `timeout`, `crashed`, `out_of_memory` or `failed: <the exception>`.

    Raises:
        DataError: no worker starts.
    """
    position, pools = 0, 0
    while position < len(tasks):
        run = partial(_run_in_pool, function, tasks[position:], timeout_s, num_workers, memory_gb, prepare)
        try:
            for result in run():
                yield result
                position, pools = position + 1, 0
        except BrokenProcessPool:
            # A worker that is killed from outside between two tasks takes the pool with it.
            pools += 1
            if pools == _POOLS:
                raise DataError(
                    "reading videos: got no worker process that starts, expected one; see the messages above"
                ) from None


def report_progress() -> None:
    """Say that the task of this child process goes on: its time limit begins again. Elsewhere: nothing."""
    if _steps is not None:
        _steps[_number] += 1


def _run_in_pool(
    function: Callable[[_Task], _Result],
    tasks: Sequence[_Task],
    timeout_s: float,
    num_workers: int,
    memory_gb: float,
    prepare: Callable[[], None] | None,
) -> Iterator[_Result | str]:
    """As `run_isolated`.

    Raises:
        BrokenProcessPool: the pool has lost its workers.
    """
    # New processes, not forks: the libraries of this one have threads running.
    context = _ContextThatKeepsLocks()
    steps = context.RawArray(ctypes.c_uint32, len(tasks))
    pool = ProcessPool(
        min(num_workers, len(tasks)),
        initializer=partial(_prepare_child, prepare, steps),
        context=context,
    )
    jobs = [(function, task, number, memory_gb) for number, task in enumerate(tasks)]
    over = threading.Event()
    try:
        futures = [pool.schedule(_watched, args=job) for job in jobs]
        threading.Thread(target=_end_stuck, args=(futures, steps, timeout_s, over), daemon=True).start()
        for number, job in enumerate(jobs):
            result = _outcome(futures[number])
            while isinstance(result, _Leak):
                futures[number] = pool.schedule(_watched, args=job)
                result = _outcome(futures[number])
            yield result
        pool.close()
    finally:
        over.set()
        pool.stop()
        pool.join()


class _ContextThatKeepsLocks(SpawnContext):
    """Remembers its locks.

    pebble drops them before it ends the workers, and one that is just starting would print that they are
    gone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.locks: list[Any] = []

    def RLock(self) -> Any:  # noqa: N802 - the name that multiprocessing gives it
        self.locks.append(super().RLock())
        return self.locks[-1]


def _end_stuck(futures: list[Any], steps: Any, timeout_s: float, over: threading.Event) -> None:
    """Cancel each task that has begun and shows no progress for so long, which ends its process."""
    seen, still_s = np.zeros(len(futures), np.uint32), np.zeros(len(futures))
    ended = np.zeros(len(futures), bool)
    now = np.frombuffer(steps, np.uint32)
    before_s = time.monotonic()
    while not over.wait(min(_LOOK_S, timeout_s / 4)):
        # A look that comes late counts as one in time: this machine has slept, or the user has stopped all
        # processes for a while; the children could not go on either.
        passed_s, before_s = min(time.monotonic() - before_s, 2 * _LOOK_S), time.monotonic()
        still_s[:] = np.where((now == seen) & (now > 0) & (now < _FINISHED), still_s + passed_s, 0.0)
        seen[:] = now
        for number in np.flatnonzero((still_s > timeout_s) & ~ended):
            ended[number] = True
            futures[number].cancel()


class _Leak:
    """In place of a result: the worker ended itself before it began the task."""


def _outcome(future: "Future[_Result]") -> "_Result | str | _Leak":
    try:
        return future.result()
    except BrokenProcessPool:
        raise
    except CancelledError:
        return "timeout"
    except ProcessExpired as end:
        if end.exitcode == _EXIT_LEAK:
            return _Leak()
        return "out_of_memory" if end.exitcode == _EXIT_MEMORY else "crashed"
    except MemoryError:
        return "out_of_memory"
    except Exception as error:
        return f"failed: {' '.join(str(error).split()) or type(error).__name__}"[:200]


def _watched(function: Callable[[_Task], _Result], task: _Task, number: int, memory_gb: float) -> _Result:
    """The work of a child: the function, while a thread watches the memory."""
    global _first, _number
    limit, before = int(memory_gb * 1e9), _resident()
    _first = before if _first < 0 else _first
    kept = max(0, before - _first)
    if kept > _LEAK_SHARE * limit:
        os._exit(_EXIT_LEAK)
    _number = number
    report_progress()
    try:
        with _memory_watch(limit + kept):
            return function(task)
    finally:
        # The result may have to wait: another process may use the pipe, while it imports its task's modules.
        if _steps is not None:
            _steps[number] = _FINISHED


@contextmanager
def _memory_watch(limit: int) -> Iterator[None]:
    """End this process when it holds more than `limit` bytes."""
    over = threading.Event()

    def watch() -> None:
        # Decoders run outside Python's lock, so this thread can run while they fill memory.
        while not over.wait(_WATCH_S):
            if _resident() > limit:
                os._exit(_EXIT_MEMORY)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _resident() -> int:
    return psutil.Process().memory_info().rss - _prepared


def _prepare_child(prepare: Callable[[], None] | None, steps: Any) -> None:
    """Ignore Ctrl-C, which the parent handles without a traceback per child; leave no core dumps; prepare.

    A parent that is killed cannot end its children, so each watches its parent: one that hangs would stay.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ImportError):  # only Unix has it
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    global _steps
    _steps = steps
    if prepare is not None:
        global _prepared
        before = _resident()
        prepare()
        _prepared = max(0, _resident() - before)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(_EXIT_ORPHAN)

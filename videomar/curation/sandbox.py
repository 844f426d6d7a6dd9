"""Work on files that may hang, crash or bloat a process: in children with a time limit and a memory limit.

The limit is on resident memory, watched by a thread in the child. The kernel's own limits do not serve:
RLIMIT_AS and RLIMIT_DATA count address space that libraries only reserve (0.7 GB before the first file, where
0.16 GB are resident; more with every thread), and at the limit malloc fails with errors that look like a
damaged file; RLIMIT_RSS has no effect on Linux.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import psutil
from pebble import ProcessExpired, ProcessPool

from videomar.errors import DataError

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")

# Exit codes of a child that ends itself: its task took too much memory, the tasks before it kept too much, or
# its parent has ended.
_EXIT_MEMORY, _EXIT_LEAK, _EXIT_ORPHAN = 86, 87, 88
_WATCH_S = 0.02  # a decoder fills less than 100 MB in this time
_done = False  # whether this child has worked on a task before
_prepared = 0  # bytes that `prepare` loaded, for all tasks


def run_isolated(
    function: Callable[[_Task], _Result],
    tasks: Sequence[_Task],
    timeout_s: float,
    num_workers: int,
    memory_gb: float,
    prepare: Callable[[], None] | None = None,
) -> Iterator[_Result | str]:
    """Yield the result of `function` for every task, in their order; a reason where it has none.

    Workers stay from task to task; one that hangs, dies or grows costs its own task and is replaced. One that
    has kept more than half of its memory from the tasks before is replaced before it begins the next.

    Args:
        function: A function at the top level of a module, so that a new process finds it.
        tasks: Its argument, for each call.
        timeout_s: Longest time that one task may take.
        num_workers: Processes side by side.
        memory_gb: Resident memory, 10^9 bytes, over which a process gives up its task.
        prepare: Called once by each worker before its first task, outside of its time limit; the memory
            that it adds is not counted.

    Yields:
        The result, or `timeout`, `crashed`, `out_of_memory` or `unreadable: <the exception>`.

    Raises:
        DataError: no worker starts.
    """
    # New processes, not forks: the libraries of this one have threads running.
    pool = ProcessPool(
        min(num_workers, max(1, len(tasks))),
        initializer=partial(_prepare_child, prepare),
        context=multiprocessing.get_context("spawn"),
    )
    start = partial(pool.schedule, _watched, timeout=timeout_s)
    jobs = [(function, task, memory_gb) for task in tasks]
    try:
        futures = [start(args=job) for job in jobs]
        for future, job in zip(futures, jobs, strict=True):
            result = _outcome(future)
            while isinstance(result, _Leak):
                result = _outcome(start(args=job))
            yield result
        pool.close()
    finally:
        pool.stop()
        pool.join()


class _Leak:
    """In place of a result: the worker ended itself before it began the task."""


def _outcome(future: "Future[_Result]") -> "_Result | str | _Leak":
    try:
        return future.result()
    except BrokenProcessPool:
        raise DataError(
            "reading videos: got no worker process that starts, expected one; see the messages above"
        ) from None
    except TimeoutError:
        return "timeout"
    except ProcessExpired as end:
        if end.exitcode == _EXIT_LEAK:
            return _Leak()
        return "out_of_memory" if end.exitcode == _EXIT_MEMORY else "crashed"
    except MemoryError:
        return "out_of_memory"
    except Exception as error:
        return f"unreadable: {error!r}"[:200]


def _watched(function: Callable[[_Task], _Result], task: _Task, memory_gb: float) -> _Result:
    """The work of a child: the function, while a thread watches the memory."""
    global _done
    limit = int(memory_gb * 1e9)
    if _done and _resident() > limit // 2:
        os._exit(_EXIT_LEAK)
    _done = True
    with _memory_watch(limit):
        return function(task)


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


def _prepare_child(prepare: Callable[[], None] | None) -> None:
    """Ignore Ctrl-C, which the parent handles without a traceback per child; leave no core dumps; prepare.

    A parent that is killed cannot end its children, so each watches its parent: one that hangs would stay.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ImportError):  # only Unix has it
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_end_with_parent, daemon=True).start()
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

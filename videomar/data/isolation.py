"""Work on files that may hang or kill the process: each in a child, with a deadline."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import TimeoutError
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from pebble import ProcessExpired, ProcessPool

from videomar.errors import DataError

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


def run_isolated(
    function: Callable[[_Task], _Result], tasks: Sequence[_Task], timeout_s: float, num_workers: int
) -> Iterator[_Result | str]:
    """Result of `function` for every task, in their order; where there is none, a reason in its place.

    Workers stay from task to task; one that hangs or dies costs its own task and is replaced.

    Args:
        function: At the top level of a module, so that a fresh process finds it.
        tasks: Its arguments.
        timeout_s: Longest time that one task may take.
        num_workers: Processes side by side.

    Yields:
        The result, or `timeout`, `crashed` or `unreadable: <the exception>`.

    Raises:
        DataError: no worker starts at all.
    """
    # Fresh processes and not copies of this one, whose libraries have threads running.
    pool = ProcessPool(
        min(num_workers, max(1, len(tasks))),
        initializer=_leave_interrupts,
        context=multiprocessing.get_context("spawn"),
    )
    try:
        futures = [pool.schedule(function, args=(task,), timeout=timeout_s) for task in tasks]
        for future in futures:
            try:
                yield future.result()
            except BrokenProcessPool:
                raise DataError(
                    "reading videos: got no worker process that starts, expected one; see the messages above"
                ) from None
            except TimeoutError:
                yield "timeout"
            except ProcessExpired:
                yield "crashed"
            except Exception as error:
                yield f"unreadable: {error!r}"[:200]
        pool.close()
    finally:
        pool.stop()
        pool.join()


def _leave_interrupts() -> None:
    """Ctrl-C reaches the whole process group; the parent ends the children, without a traceback from each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

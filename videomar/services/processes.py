"""Processes by number and start time, so that a number that the system gave to another is never meant."""

import contextlib
import os
from collections.abc import Iterable
from typing import NamedTuple

import psutil

_SAME_START_S = 2.0  # the system's clock may be set meanwhile
_GRACE_S = 15.0


class Identity(NamedTuple):
    """One process, whatever becomes of its number later."""

    pid: int
    started: float

    def process(self) -> psutil.Process | None:
        """The process itself; None if it has ended."""
        try:
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.started) < _SAME_START_S
            return found if same and found.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None


def tree_of(pid: int) -> list[Identity]:
    """A process and all below it; none if it has ended."""
    found = []
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                found.append(Identity(process.pid, process.create_time()))
    return found


def session_of(leader: int) -> list[Identity]:
    """The processes of a session and all below them, also those that lost their parent with its leader."""
    found = set(tree_of(leader))
    for pid in psutil.pids() if hasattr(os, "getsid") else ():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if os.getsid(pid) == leader:
                found.update(tree_of(pid))
    return sorted(found)


def end_all(processes: Iterable[Identity]) -> None:
    """Ask processes to end, and end those by force that still live some seconds later."""
    living = list(processes)
    for process in _living(living):
        with contextlib.suppress(psutil.Error):
            process.terminate()
    psutil.wait_procs(_living(living), timeout=_GRACE_S)
    kill_all(living)


def kill_all(processes: Iterable[Identity]) -> None:
    """End processes by force."""
    left = _living(processes)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=_GRACE_S)


def _living(processes: Iterable[Identity]) -> list[psutil.Process]:
    return [process for identity in processes if (process := identity.process()) is not None]

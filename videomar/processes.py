"""Child processes: run a command so that it ends with us, and end process trees.

DVC leaves the child of a stage running when DVC is killed, so the whole process group must be ended. A small
watcher process leads the group and reads from a pipe that we hold open: when we end, even by SIGKILL, the
pipe closes and the watcher ends the group.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from videomar.errors import VideomarError

_GRACE_S = 5.0
_END_GRACE_S = 15.0
_SAME_START_S = 2.0  # the system clock may be adjusted meanwhile


class OverTimeError(VideomarError):
    """A stage took longer than it may, and would again."""


def run_within(hours: float | None, stage: str, command: Sequence[str], folder: Path) -> None:
    """Run a stage's command in a folder, and all that it starts for no longer than so many hours; None = any.

    Raises:
        OverTimeError: it took longer.
        VideomarError: it failed.
    """
    try:
        code = run_in_group(command, folder, limit_s=None if hours is None else hours * 3600)
    except subprocess.TimeoutExpired:
        raise OverTimeError(
            f"stage {stage}: took over {hours} h; allow more hours, or make it smaller"
        ) from None
    if code != 0:
        raise VideomarError(f"stage {stage}: ended with code {code}, expected 0; its message stands above")


def run_in_group(command: Sequence[str], folder: Path, limit_s: float | None = None) -> int:
    """Run the command in `folder` and give its exit code; an exception meanwhile ends its whole group.

    Raises:
        subprocess.TimeoutExpired: it took longer than `limit_s`.
    """
    watcher = subprocess.Popen(
        [sys.executable, "-m", "videomar.processes", str(folder), *command],
        stdin=subprocess.PIPE,
        start_new_session=True,
        cwd=Path(__file__).parent.parent,
    )
    try:
        return watcher.wait(limit_s)
    finally:
        assert watcher.stdin is not None
        watcher.stdin.close()
        if watcher.wait() == -signal.SIGKILL:  # with nobody left to end its group: the next try would meet it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(watcher.pid, signal.SIGKILL)


def main() -> None:
    """The watcher: run the command of sys.argv, and end the group when the pipe on stdin closes."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # its own signal to the group must not end it first
    child = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, cwd=sys.argv[1])
    threading.Thread(target=_end_group_after_parent, daemon=True).start()
    sys.exit(abs(child.wait()))


def _end_group_after_parent() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGTERM)
    time.sleep(_GRACE_S)
    os.killpg(0, signal.SIGKILL)


class Identity(NamedTuple):
    """A process by id and start time: the system reuses ids."""

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
    psutil.wait_procs(_living(living), timeout=_END_GRACE_S)
    kill_all(living)


def kill_all(processes: Iterable[Identity]) -> None:
    """End processes by force."""
    left = _living(processes)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=_END_GRACE_S)


def _living(processes: Iterable[Identity]) -> list[psutil.Process]:
    return [process for identity in processes if (process := identity.process()) is not None]


if __name__ == "__main__":
    main()

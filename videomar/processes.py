"""A command in a process group of its own that ends with us, however we end.

DVC leaves the child of a stage running when it is killed, so the whole group must be ended. A small watcher
leads the group; it holds the reading end of a pipe whose writing end is ours, and so learns of our end even
by SIGKILL.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from videomar.errors import VideomarError

_GRACE_S = 5.0


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


if __name__ == "__main__":
    main()

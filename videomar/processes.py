"""Child processes: run a command so that it ends with us, say why it failed, and end process trees.

DVC leaves the child of a stage running when DVC is killed, so the whole process group must be ended. A small
watcher process leads the group and reads from a pipe that we hold open: when we end, even by SIGKILL, the
pipe closes and the watcher ends the group.
"""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import psutil

from videomar.errors import VideomarError

_GRACE_S = 5.0
_END_GRACE_S = 15.0
_SAME_START_S = 2.0  # the system clock may be adjusted meanwhile
_DRAIN_S = 2.0
_BAR_S = 10.0
# Of a stage's output: kept to look for a reason in, shown with the reason.
_KEPT_LINES, _SHOWN_LINES, _SHOWN_CHARS = 200, 10, 300
_SHELL_SIGNAL = 128  # a shell ends with this plus the signal that killed its command
_EXIT = re.compile(r"^ERROR: failed to reproduce .* exited with (-?\d+)$")
_FROM_RAY = re.compile(r"\((raylet|autoscaler|(\w+ )?pid=)")
_TRACEBACK = "Traceback (most recent call last)"
# How stages name workers that died: of memory or a lost machine, so another try may do.
_WORKERS = ("a worker failed", "a worker that died")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class StageError(VideomarError):
    """A stage failed without naming a problem of the user's, so that another try may succeed.

    `reason` is one line. The text of the error also holds the last lines of the output if they were captured.
    """

    def __init__(self, reason: str, lines: Sequence[str] = ()) -> None:
        super().__init__("\n".join([reason, *lines]))
        self.reason = reason


class StageRefusedError(StageError):
    """A stage named a problem that the user must fix; it would again."""


class OverTimeError(StageError):
    """A stage took longer than it may, and would again."""


def one_line(error: Exception) -> str:
    """An error for a terminal, where the output of a stage that failed stands above."""
    return error.reason if isinstance(error, StageError) else " ".join(str(error).split())


def run_within(
    hours: float | None,
    stage: str,
    command: Sequence[str],
    folder: Path,
    show: Callable[[str], None] | None = None,
) -> None:
    """Run a stage's command in a folder, and all that it starts for no longer than so many hours; None = any.

    Args:
        hours: Time limit.
        stage: Its name; a line of its output that begins with it and a colon names a problem of the user's.
        command: Runs the stage, directly or by DVC.
        folder: Where.
        show: Is called with each line of the output as it comes; None = the output goes to the terminal.

    Raises:
        OverTimeError: it took longer.
        StageRefusedError: it named a problem.
        StageError: it failed in another way.
    """
    lines: deque[str] = deque(maxlen=_KEPT_LINES)

    def keep(line: str) -> None:
        lines.append(line)
        if show is not None:
            show(line)

    on_line = None if show is None else keep
    try:
        code = run_in_group(command, folder, None if hours is None else hours * 3600, on_line)
    except subprocess.TimeoutExpired:
        reason = f"stage {stage}: took over {hours} h; allow more hours, or make it smaller"
        raise OverTimeError(reason, _last([*lines])) from None
    if code != 0:
        raise failure_of(stage, code, [*lines])


def failure_of(stage: str, code: int, lines: Sequence[str]) -> StageError:
    """Explain a stage's end.

    Args:
        stage: Its name.
        code: Exit code of its command, not 0.
        lines: Its output; empty if that went to the terminal.
    """
    said = list(_said(lines))
    for line in lines:
        if found := _EXIT.search(line):  # what DVC says of the stage; its own code is always 255
            code = int(found[1])
    after = max((number + 1 for number, line in enumerate(said) if line.startswith(_TRACEBACK)), default=0)
    named = [line for line in said[after:] if line.startswith(f"{stage}: ")]
    if code == 1 and named and not any(words in named[-1] for words in _WORKERS):
        return StageRefusedError(f"stage {stage}: {named[-1].removeprefix(f'{stage}: ')}", _last(lines))
    what = f"stage {stage}: ended with code {code}, expected 0"
    number = -code if code < 0 else code - _SHELL_SIGNAL
    if number in [*signal.Signals]:
        cause = "; the system does this when memory is full" if number == signal.SIGKILL else ""
        what = f"stage {stage}: was killed by {signal.Signals(number).name}, expected to end by itself{cause}"
    above = f": {said[-1].strip()}" if said else "; its message stands above"
    return StageError(what + above, _last(lines))


def _said(lines: Sequence[str]) -> Iterator[str]:
    """Lines that may say why a stage failed: without DVC's and Ray's own."""
    for line in lines:
        if line.strip() and not _EXIT.search(line) and not _FROM_RAY.match(line):
            yield line


def _last(lines: Iterable[str]) -> list[str]:
    """The last lines that hold anything, each of a length that a page can show."""
    return [line[:_SHOWN_CHARS] for line in lines if line.strip()][-_SHOWN_LINES:]


def run_in_group(
    command: Sequence[str],
    folder: Path,
    limit_s: float | None = None,
    on_line: Callable[[str], None] | None = None,
) -> int:
    """Run the command in `folder` and give its exit code; an exception meanwhile ends its whole group.

    Args:
        command: A program and its arguments.
        folder: Where it runs.
        limit_s: Time that it may take, in seconds.
        on_line: Is called, in another thread, with each line of the output; None = the output is inherited.

    Raises:
        subprocess.TimeoutExpired: it took longer than `limit_s`.
    """
    pipe = None if on_line is None else subprocess.PIPE
    watcher = subprocess.Popen(
        [sys.executable, "-m", "videomar.processes", str(folder), *command],
        stdin=subprocess.PIPE,
        stdout=pipe,
        stderr=None if on_line is None else subprocess.STDOUT,
        # Python would keep what a stage prints until it has printed 8 KB.
        env=None if on_line is None else {**os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
        cwd=Path(__file__).parent.parent,
    )
    reader = threading.Thread(target=_read_lines, args=(watcher.stdout, on_line), daemon=True)
    if on_line is not None:
        reader.start()
    try:
        return watcher.wait(limit_s)
    finally:
        assert watcher.stdin is not None
        watcher.stdin.close()
        if watcher.wait() == -signal.SIGKILL:  # with nobody left to end its group: the next try would meet it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(watcher.pid, signal.SIGKILL)
        if on_line is not None:
            reader.join(_DRAIN_S)  # a process that left the group may keep the pipe open


def _read_lines(pipe: IO[bytes], on_line: Callable[[str], None]) -> None:
    """Pass on each line without its colours; of a bar, which rewrites its line, a state now and then."""
    shown_at = -_BAR_S
    for line in io.TextIOWrapper(pipe, encoding="utf-8", errors="replace", newline=""):
        if line.endswith("\r"):
            if time.monotonic() < shown_at + _BAR_S:
                continue
            shown_at = time.monotonic()
        # A log that fails must not stop the stage, whose pipe would fill.
        with contextlib.suppress(Exception):
            on_line(_COLOUR.sub("", line.rstrip()))


def main() -> None:
    """The watcher: run the command of sys.argv, and end the group when the pipe on stdin closes."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # its own signal to the group must not end it first
    child = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, cwd=sys.argv[1])
    threading.Thread(target=_end_group_after_parent, daemon=True).start()
    code = child.wait()
    sys.exit(code if code >= 0 else _SHELL_SIGNAL - code)


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

"""What a user sees of training runs: warnings of their workers, and progress read from their logs.

Workers are other processes, and Ray does not pass on what they print. So the first worker of a run also
writes its warnings to a file, and the process that the user started follows that file and the run's
`log.csv`.
"""

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from videomar.config import TrainParams
from videomar.files import LOG_FILE, read_log
from videomar.training.curriculum import max_steps

_POLL_S = 0.5
_LINE_EVERY_SHARE = 0.1


@contextlib.contextmanager
def copy_warnings(path: Path, rank: int) -> Iterator[None]:
    """Context in which the first worker's warnings also go to a file; other workers only repeat them."""
    if rank:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handler, logger = logging.FileHandler(path), logging.getLogger("videomar")
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


class Followed(NamedTuple):
    """A run to follow."""

    out: Path
    params: TrainParams
    messages: Path
    """File of its warnings, see `copy_warnings`."""
    prefix: str = ""
    """Put before each of its lines."""


class RunFollower:
    """Context that shows runs on stderr: a bar for a single run on a terminal, else a line now and then."""

    def __init__(self, runs: Sequence[Followed]) -> None:
        """Delete old files of messages; a log that exists by now is not shown, it may be another run's."""
        self._tails = [_Tail(run) for run in runs]
        self._bar: tqdm[None] | None = None
        self._shows_bar = len(runs) == 1 and sys.stderr.isatty()
        self._ended = threading.Event()

    def __enter__(self) -> None:
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for tail in self._tails:
            tail.run.messages.unlink(missing_ok=True)

    def _follow(self) -> None:
        over = False
        while not over:
            over = self._ended.wait(_POLL_S)  # before the last look, not after: it sees the last row
            for tail in self._tails:
                for message in tail.new_messages():
                    tqdm.write(tail.run.prefix + message, file=sys.stderr)
                if (row := tail.new_row()) is not None and self._shows_bar:
                    self._move_bar(row, tail.run.params)
                elif row is not None and (text := tail.line(row)):
                    tqdm.write(tail.run.prefix + text, file=sys.stderr)
        if self._bar is not None:
            self._bar.close()

    def _move_bar(self, row: Mapping[str, float], params: TrainParams) -> None:
        step = int(row["step"])
        # The bar of a resumed run begins where the run is: earlier steps say nothing about its speed now.
        self._bar = self._bar or tqdm(total=max_steps(params), initial=step, unit="step")
        self._bar.set_description(f"training, stage {row['stage'] + 1:.0f} of {len(params.curriculum)}")
        self._bar.set_postfix(losses(row))
        self._bar.update(step - self._bar.n)


class _Tail:
    """Reads what is new in a run's files. Remembers how far it has read, and the rows that it has shown."""

    def __init__(self, run: Followed) -> None:
        self.run = run
        run.messages.unlink(missing_ok=True)
        self._num_messages, self._written = 0, self._log_time()
        self._first: tuple[float, float] | None = None
        self._shown: Mapping[str, float] | None = None

    def new_messages(self) -> list[str]:
        """Return the whole lines that were added to the file of messages."""
        path = self.run.messages
        lines = path.read_text("utf-8").rpartition("\n")[0].splitlines() if path.is_file() else []
        new, self._num_messages = lines[self._num_messages :], len(lines)
        return new

    def new_row(self) -> dict[str, float] | None:
        """Return the last row of the log if the log has changed."""
        written = self._log_time()
        if written == self._written:
            return None
        self._written = written
        rows = read_log(self.run.out)  # empty if the folder held another run, which is archived by now
        return rows[-1] if rows else None

    def line(self, row: Mapping[str, float]) -> str:
        """Return a line about a row, or nothing if it is too soon for one."""
        now = time.monotonic()
        first_step, since = self._first = self._first or (row["step"], now)
        if not is_due(row, self._shown, self.run.params):
            return ""
        self._shown = row
        return line(row, self.run.params, (row["step"] - first_step) / (now - since) if now > since else 0.0)

    def _log_time(self) -> int:
        path = self.run.out / LOG_FILE
        return path.stat().st_mtime_ns if path.is_file() else 0


def losses(row: Mapping[str, float]) -> dict[str, str]:
    """Return the losses of a row of the log as text."""
    return {name: f"{row[name]:.3f}" for name in ("loss", "val_loss") if name in row}


def is_due(row: Mapping[str, float], shown: Mapping[str, float] | None, params: TrainParams) -> bool:
    """Return whether a row deserves a line: the first of a stage, each tenth of the run, the last."""
    if shown is None or row["stage"] != shown["stage"] or row["step"] == max_steps(params):
        return True
    return row["step"] - shown["step"] >= _LINE_EVERY_SHARE * max_steps(params)


def line(row: Mapping[str, float], params: TrainParams, steps_per_s: float) -> str:
    """Return a row as a line of text, with rate and remaining time if the rate is known."""
    words = [
        f"training: stage {row['stage'] + 1:.0f} of {len(params.curriculum)}",
        f"step {row['step']:.0f} of {max_steps(params)}",
        *(f"{name} {value}" for name, value in losses(row).items()),
    ]
    if steps_per_s > 0:
        minutes = (max_steps(params) - row["step"]) / steps_per_s / 60
        words += [f"{steps_per_s:.1f} steps/s", f"{minutes:.0f} min left"]
    return ", ".join(words)

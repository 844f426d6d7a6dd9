"""When the parts of a run began and ended: `.local/run_times.jsonl`, for who asks where the time went.

    process                begin                              end
       |-- interpreter, imports --|-- the part's own work ------|

A process adds its line when its work has ended, and nothing reads them to decide anything: so a line that
cannot be written is left out. Lines stay, a hundred bytes each; `read_run_times` picks those of one run.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from videomar.config.layout import Layout

RUN = "reproduce"
"""Name of the part that holds all stages: `python -m flows.reproduce`."""
RELEASE, STEPS = "release", "release: its steps"
"""Names of `python -m flows.release` and of what it does within a flow of Prefect."""
_FILE = "run_times.jsonl"


class Span(NamedTuple):
    """When a part ran, in seconds since 1970."""

    name: str
    process: float
    """When its process started."""
    begin: float
    end: float


@contextlib.contextmanager
def noted(name: str) -> Iterator[None]:
    """Context of a part's own work, which is noted if it succeeds."""
    begin = time.time()
    yield
    note(name, begin)


def note(name: str, begin: float) -> None:
    """Note that a part of this process has ended now, in the folder of a run that has `.local`."""
    span = Span(name, _process_start(), begin, time.time())
    local = Layout().local
    with contextlib.suppress(OSError):
        if local.is_dir():
            with (local / _FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(span._asdict()) + "\n")


def read_run_times(folder: Path) -> list[Span]:
    """Parts of the run in a checkout that had the most stages, in their order; empty if no run is noted.

    Of several the longest. What came after it and before the next run is a part of it: the release.
    """
    spans = []
    with contextlib.suppress(OSError):
        for line in (Layout(folder).local / _FILE).read_text("utf-8").splitlines():
            with contextlib.suppress(ValueError, TypeError):  # a line that was cut
                spans.append(Span(**json.loads(line)))
    spans.sort(key=lambda span: span.process)
    runs = [span for span in spans if span.name == RUN]
    if not runs:
        return []

    def parts(run: Span) -> int:
        return sum(run.process <= span.process <= span.end <= run.end for span in spans)

    whole = max(runs, key=lambda run: (parts(run), run.end - run.process))
    until = next((run.process for run in runs if run.process > whole.end), float("inf"))
    return [span for span in spans if whole.process <= span.process < until]


def _process_start() -> float:
    """When this process started; psutil knows it to the second only, as the system's start is in seconds."""
    try:
        ticks = int(Path("/proc/self/stat").read_text("utf-8").rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return time.time() - age
    except (OSError, AttributeError, ValueError):  # another system than Linux
        return float(psutil.Process().create_time())

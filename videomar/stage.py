"""What every script in `stages/` shares: paths, parameters, metrics, errors in one line."""

import argparse
import contextlib
import json
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import psutil

from videomar.config import Params, load_own_params, load_params
from videomar.disk import about_full_disk
from videomar.drafts import draft_of
from videomar.errors import DataError, VideomarError

# A look at the memory of all processes takes tens of milliseconds.
_WATCH_S = 5.0


class Stage:
    """Context of one stage's run: parses paths, loads parameters, writes `metrics/STAGE.json` on success.

    With `metrics=False` it writes none: a stage that runs every time must leave the same files. A
    `VideomarError` inside the block ends the process with its one line on stderr and exit code 1; so does a
    full disk.
    """

    def __init__(self, name: str, arguments: Sequence[str] | None, *paths: str, metrics: bool = True) -> None:
        parser = argparse.ArgumentParser(prog=f"stages.{name}")
        for path in (*paths, "metrics") if metrics else paths:
            parser.add_argument(f"--{path}", type=path_or_url, required=True)
        parser.add_argument(
            "--params", type=Path, help="another file than params.yaml, as a registered model has"
        )
        self.name = name
        self._writes_metrics = metrics
        self.path = parser.parse_args(arguments)
        self.metrics: dict[str, float] = {}
        self._start = time.monotonic()
        self._peak_gb = 0.0
        self._ended = threading.Event()

    def __enter__(self) -> "Stage":
        threading.Thread(target=self._watch_memory, daemon=True).start()
        return self

    @property
    def params(self) -> Params:
        """All sections of params.yaml, or of another file that was asked for, checked."""
        other = self.path.params
        return load_own_params(Path("params.yaml")) if other is None else load_params(other)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        told = error
        if isinstance(error, Exception) and not isinstance(error, VideomarError):
            told = DataError(line) if (line := about_full_disk(error)) else error
        if isinstance(told, VideomarError | OSError):
            print(f"{self.name}: {_one_line(told)}", file=sys.stderr)
            raise SystemExit(1) from (None if isinstance(error, VideomarError) else error)
        if error is None and self._writes_metrics:
            self._peak_gb = max(self._peak_gb, _memory_gb())
            costs = {"seconds": time.monotonic() - self._start, "peak_memory_gb": self._peak_gb}
            rounded = {key: round(float(value), 4) for key, value in {**self.metrics, **costs}.items()}
            with draft_of(self.path.metrics) as draft:
                draft.write_text(json.dumps(rounded, indent=2) + "\n", encoding="utf-8")

    def _watch_memory(self) -> None:
        while not self._ended.wait(_WATCH_S):
            self._peak_gb = max(self._peak_gb, _memory_gb())


def path_or_url(text: str) -> Path | str:
    """A local path; the URL of a folder in an object store stays text, of which a path would drop a slash."""
    return text if "://" in text else Path(text)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError):
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return f"{' '.join(what.split())}; nothing is half-written: mend the disk or the path and run again"
    return " ".join(str(error).split())


def _memory_gb() -> float:
    """Memory of this process and all below it, GB; pages that several of them share count once."""
    here = psutil.Process()
    total = 0
    for process in (here, *here.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            total += _bytes_of(process)
    return total / 1e9


def _bytes_of(process: psutil.Process) -> int:
    """Memory of one process; where the system does not tell whose shared pages are, without or with them."""
    try:
        info = process.memory_full_info()
        return int(info.pss if hasattr(info, "pss") else info.uss)
    except psutil.AccessDenied:
        return int(process.memory_info().rss)

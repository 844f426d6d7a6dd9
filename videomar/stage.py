"""What every script in `stages/` shares: paths, parameters, metrics, errors in one line."""

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from videomar.config import Params, load_params
from videomar.errors import VideomarError


class Stage:
    """Context of one stage's run: parses paths, loads parameters, writes `metrics/STAGE.json` on success.

    A `VideomarError` inside the block ends the process with its one line on stderr and exit code 1; so does a
    full disk.
    """

    def __init__(self, name: str, arguments: Sequence[str] | None, *paths: str) -> None:
        parser = argparse.ArgumentParser(prog=f"stages.{name}")
        for path in (*paths, "metrics"):
            parser.add_argument(f"--{path}", type=Path, required=True)
        parser.add_argument("--params", type=Path, default=Path("params.yaml"))
        self.name = name
        self.path = parser.parse_args(arguments)
        self.metrics: dict[str, float] = {}
        self._start = time.monotonic()

    def __enter__(self) -> "Stage":
        return self

    @property
    def params(self) -> Params:
        """All sections of params.yaml, checked."""
        return load_params(self.path.params)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, VideomarError | OSError):
            print(f"{self.name}: {_one_line(error)}", file=sys.stderr)
            raise SystemExit(1) from (None if isinstance(error, VideomarError) else error)
        if error is None:
            figures = {
                **self.metrics,
                "seconds": time.monotonic() - self._start,
                "peak_memory_gb": _peak_memory_gb(),
            }
            self.path.metrics.parent.mkdir(parents=True, exist_ok=True)
            rounded = {key: round(float(value), 4) for key, value in figures.items()}
            self.path.metrics.write_text(json.dumps(rounded, indent=2) + "\n")


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError):
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return f"{' '.join(what.split())}; nothing is half-written: mend the disk or the path and run again"
    return " ".join(str(error).split())


def _peak_memory_gb() -> float:
    """Largest resident memory of this process and of its largest ended child, GB."""
    kilobytes = sum(
        resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return kilobytes / 1e6

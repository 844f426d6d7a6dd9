"""What every script in `stages/` shares: paths, parameters, metrics, errors in one line."""

import argparse
import contextlib
import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from videomar.config import Params, load_own_params, load_params
from videomar.config.section import Mark, fixed_keys, free_keys
from videomar.errors import DataError, VideomarError
from videomar.files import atomic_write, full_disk_message
from videomar.provenance.code_hash import STAGES
from videomar.provenance.made_with import (
    BESIDE,
    describe,
    differing_keys,
    read_record,
    record_of,
    sums_of,
    write_record,
)

# A look at the memory of all processes takes tens of milliseconds.
_WATCH_S = 5.0


class Stage:
    """Context of one stage's run: parses paths, loads parameters, writes `metrics/STAGE.json` on success.

    With `metrics=False` it writes none: a stage that runs every time must leave the same files. A
    `VideomarError` inside the block ends the process with its one line on stderr and exit code 1; so does a
    full disk. A stage whose work is dear asks `is_done` first.
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
        self._record = Path()
        self._outputs: dict[str, Path] = {}
        self._made_with: dict[str, Any] | None = None
        self._is_done = False
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

    def is_done(
        self,
        inputs: Mapping[str, Path | str],
        sections: Sequence[str],
        outputs: Sequence[str] = ("out",),
        record: Path | None = None,
    ) -> bool:
        """Whether the outputs are there and would come out the same; says so, or what is different.

        If they would not, what the new ones are made with is recorded when the stage ends.

        Args:
            inputs: what the stage reads: files and folders, or text that stands for what one holds.
            sections: parameters that it uses.
            outputs: names of the paths that it writes.
            record: the file of that record; None means beside `out`.
        """
        params = self.params
        self._record = record or record_of(self.path.out)
        self._outputs = {name: getattr(self.path, name) for name in [*outputs, "metrics"]}
        self._made_with = describe(
            STAGES[self.name],
            {name: value for name, value in inputs.items() if isinstance(value, str) or value.exists()},
            {name: fixed_keys(getattr(params, name), Mark.RESOURCE) for name in sections},
            {name: free_keys(getattr(params, name), Mark.RESOURCE) for name in sections},
        )
        found = read_record(self._record)
        if found is None:
            return False
        recorded = found.pop("outputs", None)
        different = differing_keys(self._made_with, found)
        self._is_done = not different and sums_of(self._outputs) == recorded
        if not self._is_done:
            told = "; ".join(different[:5]) or "its output is not the one that was recorded"
            print(f"{self.name}: made again: {told}")
            return False
        print(f"{self.name}: nothing that its output depends on has changed, so it stays as it is")
        for line in differing_keys(self._made_with[BESIDE], found.get(BESIDE, {})):
            print(f"{self.name}: was made with another {line}")
        print(f"{self.name}: remove {self._record} to have it made again")
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        told = error
        if isinstance(error, Exception) and not isinstance(error, VideomarError):
            told = DataError(line) if (line := full_disk_message(error)) else error
        if isinstance(told, VideomarError | OSError):
            print(f"{self.name}: {_one_line(told)}", file=sys.stderr)
            raise SystemExit(1) from (None if isinstance(error, VideomarError) else error)
        if error is None and self._writes_metrics and not self._is_done:
            self._peak_gb = max(self._peak_gb, _memory_gb())
            costs = {"seconds": time.monotonic() - self._start, "peak_memory_gb": self._peak_gb}
            rounded = {key: round(float(value), 4) for key, value in {**self.metrics, **costs}.items()}
            with atomic_write(self.path.metrics) as draft:
                draft.write_text(json.dumps(rounded, indent=2) + "\n", encoding="utf-8")
            if self._made_with is not None:
                write_record(self._record, self._made_with, self._outputs)

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

"""The runner of a stage: paths, parameters, skipping finished work, metrics, errors in one line."""

import argparse
import contextlib
import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
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
    CPU,
    checksums_of,
    describe,
    differing_keys,
    read_record,
    record_of,
    write_record,
)
from videomar.provenance.run_times import note

# A name's contents are among the inputs.
_NOT_COMPARED = (Mark.RESOURCE, Mark.NAME)
_MEMORY_CHECK_S = 5.0  # reading the memory of all processes takes tens of milliseconds


class Stage:
    """Context of one run of a stage; on success it writes `metrics/STAGE.json`.

    With `metrics=False` it writes none: a stage that runs every time must leave the same files. A
    `VideomarError` inside the block, or a full disk, ends the process with one line on stderr and exit
    code 1. A stage with expensive work calls `is_done` first.
    """

    def __init__(self, name: str, arguments: Sequence[str] | None, *paths: str, metrics: bool = True) -> None:
        parser = argparse.ArgumentParser(prog=f"stages.{name}")
        for path in (*paths, "metrics") if metrics else paths:
            parser.add_argument(f"--{path}", type=path_or_url, required=True)
        parser.add_argument("--params", type=Path, help="read this file instead of params.yaml")
        self.name = name
        self._writes_metrics = metrics
        self.path = parser.parse_args(arguments)
        self.metrics: dict[str, float] = {}
        self._record = Path()
        self._outputs: dict[str, Path] = {}
        self._made_with: dict[str, Any] | None = None
        self._is_done = False
        self._start, self._begin = time.monotonic(), time.time()
        self._peak_gb = 0.0
        self._ended = threading.Event()

    def __enter__(self) -> "Stage":
        threading.Thread(target=self._watch_memory, daemon=True).start()
        return self

    @cached_property
    def params(self) -> Params:
        """All sections of params.yaml, or of the file given by --params, checked."""
        other = self.path.params
        return load_own_params(Path("params.yaml")) if other is None else load_params(other)

    def is_done(
        self,
        inputs: Mapping[str, Path | str],
        sections: Sequence[str],
        outputs: Sequence[str] = ("out",),
        record: Path | None = None,
        device: str | None = None,
    ) -> bool:
        """Whether the outputs exist and were made from equal inputs, parameters and code.

        If not, prints what differs, and the end of the stage records what the new outputs were made from.

        Args:
            inputs: files and folders that the stage reads, or a hash of their contents.
            sections: sections of parameters that it uses.
            outputs: names of the paths that it writes.
            record: file of the record; None = beside `out`.
            device: section whose key `device` says what this process computes on; None = the processor.
        """
        params = self.params
        self._record = record or record_of(self.path.out)
        self._outputs = {name: getattr(self.path, name) for name in [*outputs, "metrics"]}
        self._made_with = describe(
            STAGES[self.name],
            {name: value for name, value in inputs.items() if isinstance(value, str) or value.exists()},
            {name: fixed_keys(getattr(params, name), *_NOT_COMPARED) for name in sections},
            {name: free_keys(getattr(params, name), *_NOT_COMPARED) for name in sections},
            CPU if device is None else _kind_of(getattr(params, device).device, device),
        )
        found = read_record(self._record)
        if found is None:
            return False
        recorded = found.pop("outputs", None)
        different = differing_keys(self._made_with, found)
        self._is_done = not different and checksums_of(self._outputs) == recorded
        if not self._is_done:
            reasons = "; ".join(different[:5]) or "its output is not the recorded one"
            print(f"{self.name}: made again: {reasons}")
            return False
        print(f"{self.name}: nothing that its output depends on has changed; the output is kept")
        for line in differing_keys(self._made_with[BESIDE], found.get(BESIDE, {})):
            print(f"{self.name}: was made with another {line}")
        print(f"{self.name}: delete {self._record} to make it again")
        return True

    def reopen(self, why: str) -> None:
        """Write metrics and the record after all: a part of the output, which is done, is made again."""
        print(f"{self.name}: {why}")
        self._is_done = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        shown: BaseException | None = error
        if isinstance(error, Exception) and not isinstance(error, VideomarError):
            line = _full_gpu_message(error) or full_disk_message(error)
            shown = DataError(line) if line else error
        if isinstance(shown, VideomarError | OSError):
            print(f"{self.name}: {_one_line(shown)}", file=sys.stderr)
            raise SystemExit(1) from (None if isinstance(error, VideomarError) else error)
        if error is None and self._writes_metrics and not self._is_done:
            self._peak_gb = max(self._peak_gb, _memory_gb())
            costs = {"seconds": time.monotonic() - self._start, "peak_memory_gb": self._peak_gb}
            rounded = {key: round(float(value), 4) for key, value in {**self.metrics, **costs}.items()}
            with atomic_write(self.path.metrics) as draft:
                draft.write_text(json.dumps(rounded, indent=2) + "\n", encoding="utf-8")
            if self._made_with is not None:
                write_record(self._record, self._made_with, self._outputs)
        if error is None:
            note(self.name, self._begin)

    def _watch_memory(self) -> None:
        while not self._ended.wait(_MEMORY_CHECK_S):
            self._peak_gb = max(self._peak_gb, _memory_gb())


def _kind_of(wanted: str, section: str) -> str:
    from videomar.compute.device import choose_device, device_kind  # torch takes a second

    return device_kind(choose_device(wanted, f"resources.{section}.device"))


def _full_gpu_message(error: BaseException) -> str | None:
    # By its name: most stages run without torch.
    if type(error).__name__ != "OutOfMemoryError":
        return None
    rule = "room for a batch; lower the batch size of the stage, or set its device below `resources` to cpu"
    return f"got a GPU whose memory is full, expected {rule}"


def path_or_url(text: str) -> Path | str:
    """Parse a local path or a URL; a URL stays text, because a path would drop one of its slashes."""
    return text if "://" in text else Path(text)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError):
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return f"{' '.join(what.split())}; nothing is half-written; fix the disk or the path and run again"
    return " ".join(str(error).split())


def _memory_gb() -> float:
    """Memory of this process and all below it, GB; shared pages count once."""
    here = psutil.Process()
    total = 0
    for process in (here, *here.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            total += _bytes_of(process)
    return total / 1e9


def _bytes_of(process: psutil.Process) -> int:
    """Memory of one process, bytes: PSS, or USS or RSS on systems or for users that cannot read it."""
    try:
        info = process.memory_full_info()
        return int(info.pss if hasattr(info, "pss") else info.uss)
    except psutil.AccessDenied:
        return int(process.memory_info().rss)

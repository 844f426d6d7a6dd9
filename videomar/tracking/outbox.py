"""What a run has to tell MLflow, on disk first: a store that is away costs no step and loses nothing.

A box is a folder: `lines.jsonl` (one JSON object a line, only ever added to), `files/` (artifacts) and
`sent.json` (the run's id in the store, and how much of the lines has arrived there). Sending a line twice is
harmless: the run is found again by a tag, metrics that the store already has are left out, and all else
replaces itself.
"""

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock, Timeout

from videomar.files import write_json

LINES = "lines.jsonl"
SENT = "sent.json"
FILES = "files"


class Outbox:
    """Lines of one run. Remembers where they lie, and the last step that each metric has in them."""

    def __init__(self, folder: Path) -> None:
        """Open a box, or make an empty one."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LINES).touch()
        self._file: TextIO | None = None
        entries = [entry for entry, _ in self.entries()]
        self.start: dict[str, Any] | None = entries[0] if entries else None
        self.last_steps: dict[str, int] = {}
        self.last_status: str | None = None
        for entry in entries:
            self._notice(entry)

    def append(self, kind: str, **values: Any) -> None:
        """Add a line; it outlives the process at once, and the machine after `sync`."""
        entry = {"kind": kind, "time": int(time.time() * 1000), **values}
        file = self._file = self._file or self._open()
        file.write(json.dumps(entry) + "\n")
        file.flush()
        self._notice(entry)

    def sync(self) -> None:
        """Have all lines on the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def keep_files(self, folder: str, files: Iterable[Path]) -> None:
        """Copy artifacts into the box, to be sent to `folder` of the run's artifacts."""
        target = self.folder / FILES / folder
        target.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copyfile(file, target / file.name)
        self.append("files", folder=folder)

    def entries(self, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
        """Whole lines from a place on, each with the place behind it, bytes."""
        with (self.folder / LINES).open("rb") as file:
            file.seek(offset)
            for line in file:
                if line.endswith(b"\n"):
                    offset += len(line)
                    yield json.loads(line), offset

    @property
    def run_id(self) -> str | None:
        """Id of the run in the store; None before the store has one."""
        return self._read_sent()["run_id"]

    @property
    def sent(self) -> int:
        """Bytes of the lines that the store has."""
        return self._read_sent()["bytes"]

    def note_sent(self, run_id: str | None, sent: int) -> None:
        """Keep the run's id and how much of the lines has arrived."""
        write_json(self.folder / SENT, {"run_id": run_id, "bytes": sent})

    def is_empty(self) -> bool:
        """Whether all lines have arrived."""
        return self.sent >= (self.folder / LINES).stat().st_size

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether no other process is sending this box; none begins to meanwhile."""
        lock = FileLock(self.folder / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _open(self) -> TextIO:
        """The lines, to add to: half a line that a killed process left is cut off."""
        path = self.folder / LINES
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        return path.open("a", encoding="utf-8")

    def _notice(self, entry: Mapping[str, Any]) -> None:
        self.start = self.start or dict(entry)
        if entry["kind"] == "metrics":
            self.last_steps |= dict.fromkeys(entry["values"], entry["step"])
        if entry["kind"] == "status":
            self.last_status = entry["status"]

    def _read_sent(self) -> dict[str, Any]:
        return read_json(self.folder / SENT) or {"run_id": None, "bytes": 0}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; an empty one where the file is missing or holds none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}

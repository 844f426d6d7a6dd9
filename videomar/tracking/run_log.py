"""What a run records for MLflow, on disk first: a store that is away costs no step and loses nothing.

The log of a run is a folder in the run's `outbox/`:

    lines.jsonl    one JSON object per line, only ever appended: |  sent  |  unsent  |
    sent.json      the run's id in the store, and the position of that border, in bytes
    files/         artifacts

`uploader.upload` sends the unsent lines and moves the border. To send a line twice is harmless: the run is
found again by a tag, metrics that the store already has are skipped, and everything else replaces itself.
"""

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from videomar.files import write_json

LINES = "lines.jsonl"
SENT = "sent.json"
FILES = "files"

Entry = dict[str, Any]


class RunLog:
    """The log of one run. Remembers its folder, its first line, and the last step of each metric in it."""

    def __init__(self, folder: Path) -> None:
        """Open a log, or create an empty one."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LINES).touch()
        self.start: Entry = {}
        self.last_steps: dict[str, int] = {}
        self.last_status: str | None = None
        self.problem = ""
        """Why the last upload failed."""
        self._file: TextIO | None = None
        for entry, _ in self._entries(0):
            self._notice(entry)

    def append(self, kind: str, **values: Any) -> None:
        """Add a line. It survives the process from now on, and a crash of the machine after `sync`."""
        entry = {"kind": kind, "time": int(time.time() * 1000), **values}
        file = self._file = self._file or self._open()
        file.write(json.dumps(entry) + "\n")
        file.flush()
        self._notice(entry)

    def append_files(self, folder: str, files: Iterable[Path]) -> None:
        """Copy artifacts into the log, to be sent to `folder` of the run's artifacts."""
        target = self.folder / FILES / folder
        target.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copyfile(file, target / file.name)
        self.append("files", folder=folder)

    def sync(self) -> None:
        """Return once all lines are on disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def unsent(self) -> Iterator[tuple[Entry, int]]:
        """Yield the lines that the store does not have, each with the position behind it, in bytes."""
        return self._entries(self.sent)

    def mark(self, run_id: str | None, sent: int) -> None:
        """Record the run's id in the store, and the position up to which lines are sent."""
        write_json(self.folder / SENT, {"run_id": run_id, "bytes": sent})

    @property
    def run_id(self) -> str | None:
        """Id of the run in the store; None before the store has assigned one."""
        return read_json(self.folder / SENT).get("run_id")

    @property
    def sent(self) -> int:
        """Position up to which lines are sent, in bytes."""
        return read_json(self.folder / SENT).get("bytes", 0)

    @property
    def is_sent(self) -> bool:
        """Whether the store has all lines."""
        return self.sent >= (self.folder / LINES).stat().st_size

    def _entries(self, offset: int) -> Iterator[tuple[Entry, int]]:
        with (self.folder / LINES).open("rb") as file:
            file.seek(offset)
            for line in file:
                if line.endswith(b"\n"):  # else a process is writing it, or died while it did
                    offset += len(line)
                    yield json.loads(line), offset

    def _open(self) -> TextIO:
        """Open the lines for appending, without the half line that a killed process may have left."""
        path = self.folder / LINES
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        return path.open("a", encoding="utf-8")

    def _notice(self, entry: Mapping[str, Any]) -> None:
        self.start = self.start or dict(entry)
        if entry["kind"] == "metrics":
            self.last_steps |= dict.fromkeys(entry["values"], entry["step"])
        if entry["kind"] == "status":
            self.last_status = entry["status"]


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file; an empty one if the file is missing or holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}

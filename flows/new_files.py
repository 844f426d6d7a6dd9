"""The files that the pipeline starts from, at a glance."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

_RAW = Path("data/raw")


class Seen(NamedTuple):
    """A look at the files."""

    source: str
    """`samples.source` of params.yaml."""
    files: str
    """Hash of all names, sizes and times."""


def look() -> Seen:
    """Look at the files of `samples.source`, and at those in data/raw that a user put there by hand."""
    source = str(yaml.safe_load(Path("params.yaml").read_text())["samples"]["source"])
    record = _RAW / ".collected.json"
    own = set(json.loads(record.read_text("utf-8"))) if record.is_file() else set()
    own_paths = {os.path.join(_RAW, name) for name in own}
    found = hashlib.sha256()
    for path in (*_files(source), *(path for path in _files(str(_RAW)) if path not in own_paths)):
        facts = os.lstat(path)
        found.update(os.fsencode(f"{path}\0{facts.st_size}\0{facts.st_mtime_ns}\0"))
    return Seen(source, found.hexdigest())


def _files(folder: str) -> Iterator[str]:
    """All files but dotfiles, in a fixed order; links to folders are followed, once."""
    known = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = () if real in known else sorted(name for name in folders if not name.startswith("."))
        shown = () if real in known else sorted(name for name in files if not name.startswith("."))
        known.add(real)
        yield from (os.path.join(place, name) for name in shown)

"""The files that the pipeline starts from, at a glance."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import yaml

from videomar.sources.listing import walk

_RAW = Path("data/raw")


class Seen(NamedTuple):
    """A look at the files."""

    source: str
    """`samples.source` of params.yaml."""
    files: str
    """Hash of all names, sizes and times."""


def look() -> Seen:
    """Look at the files of `samples.source`, and at those in data/raw that a user put there by hand."""
    source = str(yaml.safe_load(Path("params.yaml").read_text("utf-8"))["samples"]["source"])
    record = _RAW / ".collected.json"
    own = set(json.loads(record.read_text("utf-8"))) if record.is_file() else set()
    by_hand = [entry for entry in walk(_RAW) if entry.name not in own] if _RAW.is_dir() else []
    found = hashlib.sha256(repr([*walk(Path(source)), by_hand]).encode("utf-8", "surrogateescape"))
    return Seen(source, found.hexdigest())

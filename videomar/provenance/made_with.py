"""What the output of a stage was made with, recorded in a file beside it: OUTPUT.made_with.json.

DVC runs a stage again when any byte of a file that it depends on has changed. The stage then compares:

    inputs    hashes of the contents of files and folders
    params    the sections of params.yaml that the stage reads, without `resources`
    code      `code_hash` of the stage: comments, docstrings and moved files do not change it

If all three are equal, the output would be too, so it stays. What moves results by rounding only (packages,
processor, device, threads) is recorded under `beside` and not compared.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from videomar.environment import processor_kind
from videomar.files import sha256_of, write_json
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
"""Third-party packages whose versions may move bits."""
CPU = "cpu"
RUN_RECORD = "made_with.json"
"""The record in the folder of a training run."""
BESIDE = "beside"
"""Key of the part that is recorded and not compared."""
# Files that say how a folder was filled, and are no part of its contents.
_NOTES = {SUFFIX, ".collected.json", ".ffmpeg"}
# A folder with all files of _RUN is a training run; _SENT in it is what MLflow has received, no result.
_RUN, _SENT = {RUN_RECORD, "log.csv"}, {"run.json", "outbox"}


def record_of(out: Path) -> Path:
    """Path of the record beside an output."""
    return out.with_name(out.name + SUFFIX)


def describe(
    roots: Roots,
    inputs: Mapping[str, Path | str],
    params: Mapping[str, Any],
    resources: Mapping[str, Any],
    device: str = CPU,
) -> dict[str, Any]:
    """Return the record of an output, ready for JSON.

    Args:
        roots: Its code.
        inputs: Files and folders, which are hashed; or text that identifies an input.
        params: Sections without resources.
        resources: How the stage runs.
        device: Kind of device that it computes on.
    """
    contents = {
        name: content_sha256(value) if isinstance(value, Path) else value for name, value in inputs.items()
    }
    made_with = {"inputs": contents, "params": dict(params), "code": code_hash(roots)}
    return json.loads(json.dumps({**made_with, BESIDE: rounding(resources, device)}))


def rounding(resources: Mapping[str, Any], device: str = CPU) -> dict[str, Any]:
    """What moves a result by rounding only: packages, kinds of processor and device, threads and workers."""
    kinds = {"processor": processor_kind(), "device": device}
    return {"packages": package_versions(), **kinds, "resources": dict(resources)}


def device_of(record: Path) -> str:
    """Kind of device that an output was made on, by its record; those from before say nothing: a CPU."""
    found = (read_record(record) or {}).get(BESIDE, {})
    return str(found.get("device", CPU))


def read_record(record: Path) -> dict[str, Any] | None:
    """Read a record; None if there is none, or it cannot be read."""
    try:
        return dict(json.loads(record.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_record(record: Path, made_with: Mapping[str, Any], outputs: Mapping[str, Path]) -> None:
    """Write a record, with the hashes of the outputs."""
    write_json(record, {**made_with, "outputs": checksums_of(outputs)})


def checksums_of(outputs: Mapping[str, Path]) -> dict[str, str | None]:
    """`content_sha256` of files and folders by name; None for one that does not exist."""
    return {name: content_sha256(path) if path.exists() else None for name, path in outputs.items()}


def differing_keys(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Dotted keys whose values differ, as `key: theirs -> ours`, without those under `beside`."""
    a, b = (flatten({key: value for key, value in each.items() if key != BESIDE}) for each in (ours, theirs))
    return [
        f"{key}: {_short(b.get(key))} -> {_short(a.get(key))}"
        for key in sorted({*a, *b})
        if a.get(key) != b.get(key)
    ]


def content_sha256(path: Path) -> str:
    """Hash of a file, or of the names and contents of all files in a folder."""
    if not path.is_dir():
        return sha256_of(path)
    hashes = [[name, _file_sha256(path / name)] for name in _files(path)]
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


def named_folders(**names: str | None) -> dict[str, Path]:
    """Values of params.yaml that are paths of existing folders or files, by their keys."""
    return {key: Path(name) for key, name in names.items() if name is not None and Path(name).exists()}


def package_versions(names: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Installed versions by package; `none` for one that is not installed."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def _file_sha256(path: Path) -> str:
    """Hash of a file. One that cannot be read must not end the stage: its hash is the reason."""
    if not path.is_file():  # opening a named pipe would block
        return "no file"
    try:
        return content_sha256(path)
    except OSError as error:
        return str(error.strerror)


def _files(folder: Path) -> Iterator[str]:
    """Sorted names of the files below a folder that count; circular links are followed once."""
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

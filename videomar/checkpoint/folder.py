"""Checkpoints: weights and optimizer as safetensors, all else as JSON; written whole or not at all.

A training run keeps `step_NNNNNNNN/` folders; each holds model, ema and optimizer tensors and
`checkpoint.json`, which is written last, with the size and hash of the others. Finding one looks at sizes;
hashes, which take seconds for each gigabyte, are compared once: when it is loaded.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from videomar.checkpoint.manifest import ModelShape, check_manifest, read_shape
from videomar.checkpoint.tensors import Later, save_file
from videomar.config import ModelParams
from videomar.errors import CheckpointError
from videomar.model.videomar import VideoMAR

MANIFEST = "checkpoint.json"
_STEP_FOLDER = "step_*"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint in memory: the network, its shape's parameters, the steps it was trained for."""

    model: VideoMAR
    params: ModelParams
    step: int
    shape: ModelShape
    manifest: Mapping[str, Any]


def save(
    folder: Path,
    step: int,
    shape: ModelShape,
    tensors: Mapping[str, Mapping[str, Tensor | Later]],
    made_with: object,
    progress: object = None,
) -> Path:
    """Write `folder/step_NNNNNNNN` and return it.

    Args:
        folder: where the run keeps its checkpoints.
        step: optimizer steps done.
        shape: how to build the network.
        tensors: file stem (`model`, `ema`, `optimizer`) to named tensors.
        made_with: JSON of the parameters of the run; a run with others does not continue from here.
        progress: JSON of all else that a run remembers.

    Raises:
        CheckpointError: it cannot be written, because the disk is full, say; earlier ones are as they were.
    """
    target = folder / f"step_{step:08d}"
    with _explained(target):
        folder.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder))
        try:
            files = {}
            for stem, values in tensors.items():
                path = draft / f"{stem}.safetensors"
                save_file(values, path)
                fsync(path)
                files[path.name] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
            manifest = {"step": step, "shape": asdict(shape), "files": files}
            manifest |= {"made_with": made_with, "progress": progress}
            (draft / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
            fsync(draft / MANIFEST)
            fsync(draft)
            shutil.rmtree(target, ignore_errors=True)  # a damaged one: an intact one would not be made again
            os.replace(draft, target)
            fsync(folder)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    return target


def load(folder: str | Path, device: str = "cpu", weights: str = "ema") -> Loaded:
    """Load a checkpoint, or the newest one of a run's folder, for inference.

    Args:
        folder: a checkpoint, or a folder of `step_NNNNNNNN`.
        device: where the network goes.
        weights: `ema` or `model`.

    Raises:
        CheckpointError: nothing there, damaged, or of another shape.
    """
    path = Path(folder)
    if not (path / MANIFEST).is_file():
        path = newest_intact(path) or path
    manifest = read_manifest(path) if path != Path(folder) else verify(path)
    shape = read_shape(manifest, path / MANIFEST)
    model = shape.build()
    try:
        model.load_state_dict(load_tensors(path, weights))
    except RuntimeError as error:
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from None
    return Loaded(
        model.to(device).eval().requires_grad_(False), shape.params, manifest["step"], shape, manifest
    )


def weights_hash(folder: Path, weights: str = "ema") -> str:
    """Hash of the weights that `load` would take, of how they are shaped, and of the run's seed.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    path = folder if (folder / MANIFEST).is_file() else latest(folder) or folder
    manifest = read_manifest(path)
    facts = [manifest["files"][f"{weights}.safetensors"]["sha256"], manifest["shape"]]
    facts.append(manifest["made_with"]["train"]["seed"])
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def load_tensors(checkpoint: Path, stem: str) -> dict[str, Tensor]:
    """Tensors of one file of a checkpoint.

    Raises:
        CheckpointError: the file is missing.
    """
    path = checkpoint / f"{stem}.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file, expected weights `model` or `ema`; check the folder")
    return load_file(path)


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """`checkpoint.json`, after a check that every file it names is there in its stated size.

    Raises:
        CheckpointError: the manifest or a file is missing, or a file is cut.
    """
    path = checkpoint / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise CheckpointError(
            f"{checkpoint}: no {MANIFEST}, expected a checkpoint; run `dvc repro train`"
        ) from None
    check_manifest(manifest, path)
    for name, facts in manifest["files"].items():
        file = checkpoint / name
        if not file.is_file() or file.stat().st_size != facts["bytes"]:
            raise CheckpointError(f"{file}: missing or damaged, expected {facts['bytes']} bytes; use another")
    return manifest


def verify(checkpoint: Path) -> dict[str, Any]:
    """`checkpoint.json`, after a check that every file it names has its stated hash.

    Raises:
        CheckpointError: the manifest or a file is missing or differs.
    """
    manifest = read_manifest(checkpoint)
    for name, facts in manifest["files"].items():
        if (found := _sha256(checkpoint / name)) != facts["sha256"]:
            rule = f"expected sha256 {facts['sha256'][:12]}"
            raise CheckpointError(
                f"{checkpoint / name}: missing or damaged, got {found[:12]}, {rule}; use another"
            )
    return manifest


def latest(folder: Path) -> Path | None:
    """The newest checkpoint of a run's folder whose files are all there; None if there is none."""
    for path in sorted(folder.glob(_STEP_FOLDER), reverse=True):
        with contextlib.suppress(CheckpointError):
            read_manifest(path)
            return path
    return None


def newest_intact(folder: Path) -> Path | None:
    """The newest checkpoint whose files have their hashes; a warning names what is wrong with newer ones."""
    for path in sorted(folder.glob(_STEP_FOLDER), reverse=True):
        try:
            verify(path)
        except CheckpointError as error:
            _log.warning("%s; going back to the checkpoint before it", error)
            continue
        return path
    return None


def export(checkpoint: Path, folder: Path) -> None:
    """Copy what generation needs of a checkpoint to a new folder: all but the optimizer's state."""
    manifest = verify(checkpoint)
    manifest["files"].pop("optimizer.safetensors", None)
    folder.mkdir(parents=True)
    for name in manifest["files"]:
        shutil.copyfile(checkpoint / name, folder / name)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def prune(folder: Path, keep: int, best: int | None = None) -> None:
    """Remove all but the newest `keep` checkpoints of a run and that of step `best`; and drafts."""
    old = [path for path in sorted(folder.glob(_STEP_FOLDER))[:-keep] if path.name != f"step_{best or 0:08d}"]
    for path in old + list(folder.glob(".draft-*")):
        shutil.rmtree(path, ignore_errors=True)


def fsync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    """An operating system's refusal to write, in the house's words."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{target}: could not be written ({' '.join(str(error).split())}), expected room on the disk; "
            "free some, or lower resources.train.keep_checkpoints, and run again: the checkpoints before it "
            "are intact"
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

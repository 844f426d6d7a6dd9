"""Checkpoints: weights and optimizer as safetensors, everything else as JSON; written whole or not at all.

A training run keeps `step_NNNNNNNN/` folders. Each has model, ema and optimizer tensors and
`checkpoint.json`, which is written last, with the sizes and hashes of the others. Finding a checkpoint
compares sizes; hashes, which take seconds per gigabyte, are compared once, when it is loaded.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from videomar.checkpoint.manifest import ModelShape, NetworkShape, check_manifest, read_shape
from videomar.checkpoint.tensors import Later, save_file
from videomar.config import ModelParams
from videomar.errors import CheckpointError
from videomar.files import fsync, sha256_of
from videomar.model.videomar import VideoMAR

if TYPE_CHECKING:
    from videomar.checkpoint.model_folder import ModelParts

MANIFEST = "checkpoint.json"
_STEP_FOLDER = "step_*"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A loaded checkpoint: the network, its parameters and shape, and the steps it was trained for."""

    model: VideoMAR
    params: ModelParams
    step: int
    shape: ModelShape
    manifest: Mapping[str, Any]


def save(
    folder: Path,
    step: int,
    shape: NetworkShape,
    tensors: Mapping[str, Mapping[str, Tensor | Later]],
    run_spec: object,
    progress: object = None,
    parts: "ModelParts | None" = None,
) -> Path:
    """Write `folder/step_NNNNNNNN` and return it.

    Args:
        folder: where the run keeps its checkpoints.
        step: optimizer steps done.
        shape: how to build the network.
        tensors: file stem (`model`, `ema`, `optimizer`) to named tensors.
        run_spec: JSON of the parameters of the run; a run with others does not continue from here.
        progress: JSON of the other state of the run.
        parts: what makes the checkpoint a whole model; None = weights alone.

    Raises:
        CheckpointError: it cannot be written, for example because the disk is full; earlier ones are intact.
    """
    target = folder / f"step_{step:08d}"
    with _explain_write_errors(target):
        folder.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder))
        try:
            files = {}
            for stem, values in tensors.items():
                path = draft / f"{stem}.safetensors"
                save_file(values, path)
                fsync(path)
                files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            if parts is not None:
                files |= parts.write(draft, latest(folder))
            manifest = {"step": step, "shape": shape.to_dict(), "files": files}
            manifest |= {"made_with": run_spec, "progress": progress}
            (draft / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
            fsync(draft / MANIFEST)
            fsync(draft)
            shutil.rmtree(target, ignore_errors=True)  # only a damaged one is written again
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
        device: device of the network.
        weights: `ema` or `model`.

    Raises:
        CheckpointError: it is absent, damaged, or of another shape.
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
    """Hash the weights that `load` would take, their shape, and the run's seed.

    Raises:
        CheckpointError: the folder has no checkpoint.
    """
    path = folder if (folder / MANIFEST).is_file() else latest(folder) or folder
    manifest = read_manifest(path)
    parts = [manifest["files"][f"{weights}.safetensors"]["sha256"], manifest["shape"]]
    parts.append(seed_of(manifest))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def seed_of(manifest: Mapping[str, Any]) -> int:
    """Return the seed of the run that wrote a checkpoint; 0 for weights of other origin, as imported ones."""
    made_with = manifest["made_with"]
    train = made_with.get("train") if isinstance(made_with, Mapping) else None
    return int(train["seed"]) if train else 0


def load_tensors(checkpoint: Path, stem: str) -> dict[str, Tensor]:
    """Load the tensors of one file of a checkpoint.

    Raises:
        CheckpointError: the file is missing.
    """
    path = checkpoint / f"{stem}.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file, expected weights `model` or `ema`; check the folder")
    return load_file(path)


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """Read `checkpoint.json` and check that every file it names has its stated size.

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
    for name, stated in manifest["files"].items():
        file = checkpoint / name
        if not file.is_file() or file.stat().st_size != stated["bytes"]:
            raise CheckpointError(
                f"{file}: missing or damaged, expected {stated['bytes']} bytes; use another"
            )
    return manifest


def verify(checkpoint: Path) -> dict[str, Any]:
    """Read `checkpoint.json` and check that every file it names has its stated hash.

    Raises:
        CheckpointError: the manifest or a file is missing or differs.
    """
    manifest = read_manifest(checkpoint)
    for name, stated in manifest["files"].items():
        if (found := sha256_of(checkpoint / name)) != stated["sha256"]:
            rule = f"expected sha256 {stated['sha256'][:12]}"
            raise CheckpointError(
                f"{checkpoint / name}: missing or damaged, got {found[:12]}, {rule}; use another"
            )
    return manifest


def latest(folder: Path) -> Path | None:
    """Return the newest checkpoint of a run's folder whose files all exist, or None."""
    for path in sorted(folder.glob(_STEP_FOLDER), reverse=True):
        with contextlib.suppress(CheckpointError):
            read_manifest(path)
            return path
    return None


def newest_intact(folder: Path) -> Path | None:
    """Return the newest checkpoint whose files have their hashes; warn of damaged newer ones."""
    for path in sorted(folder.glob(_STEP_FOLDER), reverse=True):
        try:
            verify(path)
        except CheckpointError as error:
            _log.warning("%s; going back to the checkpoint before it", error)
            continue
        return path
    return None


def prune(folder: Path, keep: int, best: int | None = None) -> None:
    """Remove drafts, and all checkpoints of a run but the newest `keep` and that of step `best`."""
    old = [path for path in sorted(folder.glob(_STEP_FOLDER))[:-keep] if path.name != f"step_{best or 0:08d}"]
    for path in old + list(folder.glob(".draft-*")):
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _explain_write_errors(target: Path) -> Iterator[None]:
    """Replace errors of writing by a `CheckpointError` that says what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{target}: could not be written ({' '.join(str(error).split())}), expected room on the disk; "
            "free some, or lower resources.train.keep_checkpoints, and run again: the checkpoints before it "
            "are intact"
        ) from error

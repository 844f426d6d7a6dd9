"""Which run a folder holds: training continues only from a checkpoint of the same run.

A run is identified by the shape of its network, its parameters, its data and its code. `out` holds the
current
run. Runs of another identity are archived beside it, and restored when their parameters come back:

    checkpoints/videomar/            current run: made_with.json, step_00000500/, log.csv
    checkpoints/videomar.aside/
        3f0c2a9be1d4/                one archived run, named by the hash of its identity
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videomar import checkpoint
from videomar.checkpoint.manifest import ModelShape
from videomar.checkpoint.transfer import start_origin, start_sha256
from videomar.config import TrainParams
from videomar.config.section import fixed_keys, free_keys
from videomar.files import write_json
from videomar.latents.dataset import LatentDataset
from videomar.provenance.code_hash import TRAINING, code_hash
from videomar.provenance.made_with import BESIDE, CPU, RUN_RECORD, differing_keys, rounding

IDENTITY_FILE = RUN_RECORD
_log = logging.getLogger(__name__)


def describe_run(
    shape: ModelShape, dataset: LatentDataset, params: TrainParams, device: str = CPU
) -> dict[str, Any]:
    """Return the identity of a run as JSON: all that its checkpoints depend on.

    What changes numbers by rounding at most is recorded under the key `BESIDE`, and may change within a run.
    Weights to start from count by their hash; `BESIDE` has their name and origin.

    Raises:
        CheckpointError: `train.start_from` is no folder with weights: names are resolved before.
    """
    run: dict[str, Any] = {
        "shape": shape.to_dict(),
        "train": fixed_keys(params),
        "data": dataset.content_hash,
    }
    run |= {"code": code_hash(TRAINING), BESIDE: rounding(free_keys(params), device)}
    if params.start_from is not None:
        start = Path(str(params.start_from))
        run["start"] = start_sha256(start)
        run[BESIDE]["start"] = start_origin(start)
    return json.loads(json.dumps(run))


def claim_run_folder(out: Path, identity: Mapping[str, Any]) -> None:
    """Make `out` the folder of this run: archive another run there, restore this one from its archive."""
    theirs = folder_owner(out)
    if theirs is not None and (different := differing_keys(identity, theirs)):
        archive = archive_run(out, theirs)
        _log.warning(
            "%s holds another run (%s): archived in %s, and restored when its parameters come back; "
            "`videomar gc` removes it once it is old",
            out,
            "; ".join(different[:5]),
            archive,
        )
        theirs = None
    ours = archive_path(out, identity)
    if theirs is None and ours.is_dir():
        _log.warning("restoring the archived run %s", ours)
        _move(ours, out)
    write_json(out / IDENTITY_FILE, identity)


def archive_path(out: Path, identity: Mapping[str, Any]) -> Path:
    """Return the folder that archives a run of `out` with this identity."""
    text = json.dumps({key: value for key, value in identity.items() if key != BESIDE}, sort_keys=True)
    return out.with_name(f"{out.name}.aside") / hashlib.sha256(text.encode()).hexdigest()[:12]


def archive_run(out: Path, identity: Mapping[str, Any]) -> Path:
    """Move a run's folder to its archive path, and return that."""
    archive = archive_path(out, identity)
    _move(out, archive)
    return archive


def folder_owner(out: Path) -> Mapping[str, Any] | None:
    """Return the identity of the run in `out`, recorded at its start or in its newest checkpoint."""
    try:
        return json.loads((out / IDENTITY_FILE).read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        newest = checkpoint.latest(out)
        return checkpoint.read_manifest(newest)["made_with"] if newest else None


def _move(source: Path, target: Path) -> None:
    """Rename a run's folder; of two copies of one run, the one with more steps stays."""
    if target.exists():
        if _steps(target) > _steps(source):
            shutil.rmtree(source)
            return
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)


def _steps(out: Path) -> int:
    newest = checkpoint.latest(out)
    return checkpoint.read_manifest(newest)["step"] if newest else -1

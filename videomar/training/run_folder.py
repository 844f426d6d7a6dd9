"""Which run a folder belongs to: a run goes on only where the same run stopped.

`out` holds the present run. Runs of other parameters, data or code are set aside next to it, in
`OUT.aside/HASH`, and taken up again when their parameters come back.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from videomar.checkpoint import folder as checkpoint
from videomar.checkpoint.manifest import ModelShape
from videomar.config import TrainParams
from videomar.config.section import fixed_keys, free_keys
from videomar.files import write_json
from videomar.latents.dataset import LatentDataset
from videomar.provenance.code_hash import TRAINING, code_hash
from videomar.provenance.made_with import BESIDE, differing_keys, rounding

IDENTITY_FILE = "made_with.json"
_log = logging.getLogger(__name__)


def describe_run(shape: ModelShape, dataset: LatentDataset, params: TrainParams) -> dict[str, Any]:
    """JSON of all that a checkpoint depends on; a run goes on only from a checkpoint with the same.

    What moves its numbers by rounding at most is recorded beside, and may change within a run.
    """
    run = {"shape": asdict(shape), "train": fixed_keys(params), "data": dataset.content_hash}
    run |= {"code": code_hash(TRAINING), BESIDE: rounding(free_keys(params))}
    return json.loads(json.dumps(run))


def claim(out: Path, made_with: Mapping[str, Any]) -> None:
    """Make `out` the folder of this run: set another run aside, and take this one up if it lies there."""
    theirs = owner(out)
    if theirs is not None and (different := differing_keys(made_with, theirs)):
        place = set_aside(out, theirs)
        _log.warning(
            "%s holds another run (%s); it is set aside in %s, and taken up when its parameters come back; "
            "`videomar gc` removes it once it is old",
            out,
            "; ".join(different[:5]),
            place,
        )
        theirs = None
    ours = aside(out, made_with)
    if theirs is None and ours.is_dir():
        _log.warning("taking up the run that was set aside in %s", ours)
        _move(ours, out)
    write_json(out / IDENTITY_FILE, made_with)


def aside(out: Path, made_with: Mapping[str, Any]) -> Path:
    """Where a run that is not the present one of `out` is kept."""
    text = json.dumps({key: value for key, value in made_with.items() if key != BESIDE}, sort_keys=True)
    return out.with_name(f"{out.name}.aside") / hashlib.sha256(text.encode()).hexdigest()[:12]


def set_aside(out: Path, made_with: Mapping[str, Any]) -> Path:
    """Move a run's folder to where it is kept while it is not the present one; returns that."""
    place = aside(out, made_with)
    _move(out, place)
    return place


def owner(out: Path) -> Mapping[str, Any] | None:
    """What the run in `out` was made with: as it said at its start, or as its newest checkpoint says."""
    try:
        return json.loads((out / IDENTITY_FILE).read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        newest = checkpoint.latest(out)
        return checkpoint.read_manifest(newest)["made_with"] if newest else None


def _move(source: Path, target: Path) -> None:
    """Rename a run's folder; where two copies of one run meet, the one that is further on stays."""
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

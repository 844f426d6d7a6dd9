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

from videomar import checkpoint
from videomar.config import TrainParams
from videomar.config.section import Mark, fixed_keys, keys_marked
from videomar.data.dataset import LatentDataset
from videomar.drafts import write_json
from videomar.manifest import ModelShape

IDENTITY_FILE = "made_with.json"
_log = logging.getLogger(__name__)


def describe_run(shape: ModelShape, dataset: LatentDataset, params: TrainParams) -> dict[str, Any]:
    """JSON of all that a checkpoint depends on; a run goes on only from a checkpoint with the same."""
    train = fixed_keys(params)
    run = {"shape": asdict(shape), "train": train, "data": dataset.content_hash, "code": code_hash()}
    return json.loads(json.dumps(run))


def code_hash() -> str:
    """Hash of the code of model and training: an edit there may change what a step does."""
    package = Path(__file__).parent.parent
    files = sorted([*package.glob("model/*.py"), *package.glob("training/*.py")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def differing_keys(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Dotted keys whose values differ, as `key: theirs -> ours`."""
    a, b = _flat(_compared(ours)), _flat(_compared(theirs))
    return [f"{key}: {b.get(key)} -> {a.get(key)}" for key in sorted({*a, *b}) if a.get(key) != b.get(key)]


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
    text = json.dumps(_compared(made_with), sort_keys=True)
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


def _compared(made_with: Mapping[str, Any]) -> dict[str, Any]:
    """What says which run it is; runs recorded before resources stood apart hold them as well."""
    free = keys_marked(TrainParams, *Mark)
    train = {key: value for key, value in made_with.get("train", {}).items() if key not in free}
    return {**made_with, "train": train}


def _flat(made_with: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in made_with.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat

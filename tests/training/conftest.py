"""A small run: clips, a network and what is left of it on disk."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.caches import write_cache
from videomar import checkpoint
from videomar.checkpoint.manifest import ModelShape
from videomar.config import Params
from videomar.latents.dataset import LatentDataset, Splits
from videomar.latents.shards import read_rows, write_shards
from videomar.provenance.made_with import BESIDE


@pytest.fixture
def dataset(tmp_path: Path) -> LatentDataset:
    return LatentDataset(write_cache(tmp_path / "latents"), "train", 5)


@pytest.fixture
def data(dataset: LatentDataset) -> Splits:
    """The same clips to learn and to validate on."""
    return Splits(dataset, dataset)


@pytest.fixture
def shape(params: Params) -> ModelShape:
    return ModelShape(params.model, 4, 6, 5)


def with_train(params: Params, **changes: object):
    """Section `train` with other values; `stages` changes both stages of the curriculum."""
    stages = changes.pop("stages", {})
    curriculum = tuple(dataclasses.replace(stage, **stages) for stage in params.train.curriculum)
    return dataclasses.replace(params.train, **{"curriculum": curriculum, **changes})


def spoil(folder: Path, *numbers: int) -> None:
    """Make the latents of some clips of a cache so large that their loss is not finite."""
    rows = []
    for row in read_rows(folder):
        wide = {name: np.frombuffer(row[name], "float16").astype("float32") for name in ("latents", "text")}
        if int(row["clip_id"].removeprefix("clip")) in numbers:
            wide["latents"] = np.full_like(wide["latents"], 1e30)
        rows.append({**row, "dtype": "float32"} | {name: array.tobytes() for name, array in wide.items()})
    write_shards(folder, rows, 100)


def files_of(folder: Path) -> dict[str, bytes]:
    """The newest checkpoint of a run and its log, byte by byte, but for what is recorded beside."""
    newest = checkpoint.latest(folder)
    assert newest is not None
    files = {path.name: path.read_bytes() for path in [*newest.iterdir(), folder / "log.csv"]}
    manifest = json.loads(files["checkpoint.json"])
    manifest["made_with"].pop(BESIDE)
    return {**files, "checkpoint.json": json.dumps(manifest).encode()}

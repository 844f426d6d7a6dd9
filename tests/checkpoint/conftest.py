"""A trained network to start from."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.conftest import lively
from videomar import checkpoint
from videomar.checkpoint.manifest import ModelShape
from videomar.config import ModelParams, Params
from videomar.model.videomar import VideoMAR
from videomar.training.state import untrained


@pytest.fixture
def network(params: Params) -> ModelParams:
    """Shape of a network that knows one condition."""
    return dataclasses.replace(params.model, conditions=("motion",))


@pytest.fixture
def source(network: ModelParams, tmp_path: Path) -> Path:
    """A checkpoint of it, whose model and average differ."""
    shape = ModelShape(network, 4, 6, 5)
    weights = {
        stem: lively(untrained(shape, seed)).state_dict() for seed, stem in enumerate(("model", "ema"))
    }
    return checkpoint.save(tmp_path / "source", 7, shape, weights, {"train": {"seed": 0}})


def hidden(network: VideoMAR, captions: tuple[Tensor, Tensor], tokens: int = 0) -> Tensor:
    """Hidden vectors of three clips, of which one has no caption; captions padded by so many tokens."""
    text, mask = captions
    clips = torch.randn(3, 4, 3, 2, 2, generator=torch.Generator().manual_seed(3))
    hide = torch.zeros(3, 3, 4, dtype=torch.bool)
    hide[:, 1:] = True
    text = torch.nn.functional.pad(text, (0, 0, 0, tokens))
    with torch.no_grad():
        return network.eval().trunk(clips, hide, text, torch.nn.functional.pad(mask, (0, tokens)))

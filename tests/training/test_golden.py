"""Ten losses of fixed weights. After a wanted change rewrite them: `python -m tests.training.test_golden`."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.caches import write_cache
from tests.conftest import small_params
from videomar.checkpoint import ModelShape
from videomar.data.dataset import LatentDataset
from videomar.runtime import step_generator
from videomar.training.loop import clips_on, untrained
from videomar.training.optim import make_optimizer

GOLDEN = Path(__file__).parent / "golden_losses.json"


def ten_losses(folder):
    params = small_params()
    batch = LatentDataset(write_cache(folder), "train", 5).rows(np.arange(8))
    clips = clips_on(torch.device("cpu"), batch)
    model = untrained(ModelShape(params.model, 4, 6, 5), 0)
    optimizer = make_optimizer(model, params.train)
    losses = []
    for step in range(10):
        loss = model.loss(clips, params.train, step_generator(0, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_ten_losses_are_the_golden_ones(tmp_path):
    assert ten_losses(tmp_path) == pytest.approx(json.loads(GOLDEN.read_text()), rel=1e-4)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text(json.dumps(ten_losses(Path(folder)), indent=1) + "\n")

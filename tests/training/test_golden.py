"""Ten losses of fixed weights. After a wanted change rewrite them: `python -m tests.training.test_golden`."""

import dataclasses
import itertools
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import small_params
from tests.support.caches import write_cache
from videomar.checkpoint.manifest import ModelShape
from videomar.compute.seeding import step_generator
from videomar.config.models import HEADS
from videomar.config.training import OBJECTIVES
from videomar.latents.dataset import LatentDataset
from videomar.training.micro_batches import clips_on
from videomar.training.optim import make_optimizer
from videomar.training.state import untrained

GOLDEN = Path(__file__).parent / "golden_losses.json"
CHOICES = list(itertools.product(OBJECTIVES, HEADS, ("tokens", "residual")))
"""Objective, head, and what it draws: tokens, as in the paper, or residuals, with the tokens before fed."""


def ten_losses(folder, objective, head, drawn):
    params = small_params()
    train = dataclasses.replace(params.train, objective=objective)
    batch = LatentDataset(write_cache(folder), "train", 5).rows(np.arange(8))
    residual = drawn == "residual"
    network = dataclasses.replace(params.model, head=head, residual=residual, feed_previous=residual)
    model = untrained(ModelShape(network, 4, 6, 5), 0)
    optimizer = make_optimizer(model, train)
    losses = []
    for step in range(10):
        loss = model.loss(clips_on(torch.device("cpu"), batch), train, step_generator(0, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(("objective", "head", "drawn"), CHOICES)
def test_ten_losses_are_the_golden_ones(tmp_path, objective, head, drawn):
    golden = json.loads(GOLDEN.read_text())[f"{objective} {head} {drawn}"]
    assert ten_losses(tmp_path, objective, head, drawn) == pytest.approx(golden, rel=1e-4)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        golden = {" ".join(choice): ten_losses(Path(folder), *choice) for choice in CHOICES}
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")

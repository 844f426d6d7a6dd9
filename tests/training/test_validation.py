import dataclasses

import numpy as np
import pytest
import torch

from tests.training.conftest import with_train
from videomar.compute.seeding import step_generator
from videomar.training.loop import VALIDATION_STEP, train, validation_loss
from videomar.training.micro_batches import clips_on
from videomar.training.parallelize import Loss
from videomar.training.worker import Worker


@pytest.fixture
def measure(model, dataset, params):
    """Validation loss of the last stage, with some parameters changed."""

    def loss(**changes):
        settings = with_train(params, validation_clips=5, **changes)
        return validation_loss(Loss(model, "float32"), dataset, settings.curriculum[-1], settings, Worker())

    return loss


def test_same_weights_have_the_same_validation_loss_whatever_is_trained(measure):
    """Not the batch, the workers, the objective nor what is dropped in training shows in it."""
    expected = measure()
    assert measure() == expected
    for change in (
        {"objective": "single_frame"},
        {"cond_drop_prob": 0.9, "condition_drop_prob": 0.9, "history_noise": 0.5},
        {"real_cond_drop_prob": 0.9},
        {"num_workers": 4, "accumulation": 1},
        {"simulated_share": 0.1, "learning_rate": 1.0},
    ):
        assert measure(**change) == expected, change
    assert measure(seed=1) != expected


def test_validation_loss_is_the_mean_over_evenly_spaced_clips_each_with_its_own_noise(
    measure, model, dataset, params
):
    settings = dataclasses.replace(
        params.train,
        cond_drop_prob=0.0,
        real_cond_drop_prob=None,
        condition_drop_prob=0.0,
        objective="all_frames",
    )
    losses = []
    for number, row in enumerate([0, 3, 6, 8, 11]):
        clips = clips_on(torch.device("cpu"), dataset.rows([row]))
        generator = step_generator(settings.seed, VALIDATION_STEP, number)
        losses.append(model.loss(clips, settings, generator).item())
    assert measure() == pytest.approx(np.mean(losses), rel=1e-6)


def test_validation_leaves_weights_and_training_as_they_are(data, shape, params, tmp_path):
    often, never = with_train(params, validate_every=1), with_train(params, validate_every=0)
    for name, settings in (("often", often), ("never", never)):
        train(shape, data, settings, tmp_path / name, Worker(), None)
    ours, theirs = (tmp_path / name / "step_00000012/ema.safetensors" for name in ("often", "never"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_validation_loss_is_logged_at_its_interval_and_at_the_end_of_a_stage(data, shape, params, tmp_path):
    settings = with_train(params, validate_every=5)
    train(shape, data, settings, tmp_path / "run", Worker(), None)
    rows = [row.split(",") for row in (tmp_path / "run/log.csv").read_text().splitlines()]
    column = rows[0].index("val_loss")
    assert [int(row[0]) for row in rows[1:] if row[column]] == [5, 6, 10, 12]

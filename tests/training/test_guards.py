import dataclasses

import pytest
import torch

from tests.training.conftest import spoil, with_train
from videomar import checkpoint
from videomar.errors import CheckpointError, ParamsError
from videomar.latents.dataset import LatentDataset, Splits
from videomar.training.loop import train
from videomar.training.state import Progress, check_step
from videomar.training.worker import Worker

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def spoilt(tmp_path, dataset):
    """Clips of which one makes the loss of its batch infinite."""
    spoil(tmp_path / "latents", 3)
    return Splits(LatentDataset(tmp_path / "latents", "train", 5))


@pytest.mark.parametrize(
    ("loss", "grad_norm", "latest", "wrong"),
    [
        (1.0, 1.0, [], None),
        (NAN, 1.0, [], "expected finite numbers"),
        (1.0, INF, [], "got loss 1 and gradient norm inf"),
        (9.9, 1.0, [1.0] * 20, None),
        (10.1, 1.0, [1.0] * 20, "expected at most 10 times the median of the last 20, 10"),
        (10.1, 1.0, [1.0] * 19, None),  # too few to know what is usual
        (10.1, 1.0, [1.0] * 11 + [5.0] * 9, "got loss 10.1"),  # the median, not the mean
    ],
)
def test_spike_is_far_above_the_median(loss, grad_norm, latest, wrong):
    found = check_step(loss, grad_norm, latest, 10.0)
    assert (found is None) if wrong is None else wrong in found


def test_factor_of_zero_finds_no_spike():
    assert check_step(1e9, 1.0, [1.0] * 20, 0.0) is None


def test_bad_step_stops_the_run_and_names_step_clips_and_checkpoint(spoilt, shape, params, tmp_path):
    settings = with_train(params, checkpoint_every=1)
    with pytest.raises(CheckpointError) as caught:
        train(shape, spoilt, settings, tmp_path / "run", Worker(), None)
    message = str(caught.value)
    last = checkpoint.latest(tmp_path / "run")
    step = int(last.name.removeprefix("step_"))
    assert f"step {step} (clips " in message
    assert "clip003" in message
    assert "expected finite numbers" in message
    assert f"last good checkpoint: {last}" in message


def test_stopped_run_goes_on_with_the_other_policy_as_if_it_had_it_from_the_start(
    spoilt, shape, params, tmp_path
):
    stop, skip = (with_train(params, on_bad_step=policy, checkpoint_every=1) for policy in ("stop", "skip"))
    with pytest.raises(CheckpointError):
        train(shape, spoilt, stop, tmp_path / "run", Worker(), None)
    figures = train(shape, spoilt, skip, tmp_path / "run", Worker(), None)
    assert figures == train(shape, spoilt, skip, tmp_path / "whole", Worker(), None)
    ours, theirs = (checkpoint.latest(tmp_path / name) / "ema.safetensors" for name in ("run", "whole"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_skipped_step_changes_nothing_and_is_counted(spoilt, shape, params, tmp_path):
    settings = with_train(params, on_bad_step="skip", checkpoint_every=1, keep_checkpoints=99)
    figures = train(shape, spoilt, settings, tmp_path / "run", Worker(), None)
    folders = sorted((tmp_path / "run").glob("step_*"))
    skipped = [
        checkpoint.read_manifest(path)["progress"]["skipped"]
        + checkpoint.read_manifest(path)["progress"]["skipped_before"]
        for path in folders
    ]
    assert figures["skipped_steps"] == skipped[-1] > 0
    for number in range(1, len(folders)):
        same = [
            (folders[number - 1] / f"{stem}.safetensors").read_bytes()
            == (folders[number] / f"{stem}.safetensors").read_bytes()
            for stem in ("model", "ema", "optimizer")
        ]
        assert same == [skipped[number] > skipped[number - 1]] * 3
    weights = checkpoint.load_tensors(folders[-1], "model").values()
    assert all(torch.isfinite(weight).all() for weight in weights)


def test_too_many_skipped_steps_stop_the_run(spoilt, shape, params, tmp_path):
    settings = with_train(params, on_bad_step="skip", max_skipped_steps=1)
    with pytest.raises(CheckpointError, match="raise resources.train.max_skipped_steps"):
        train(shape, spoilt, settings, tmp_path / "run", Worker(), None)


def test_new_stage_is_not_measured_by_the_losses_of_the_one_before():
    progress = Progress()
    for _ in range(30):
        progress.accept(0.1)
    progress.end_stage("steps")
    assert check_step(5.0, 1.0, progress.latest, 10.0) is None


def test_spike_factor_that_every_step_would_exceed_is_refused(params):
    with pytest.raises(ParamsError, match="train.spike_factor: got 0.5"):
        dataclasses.replace(params.train, spike_factor=0.5)

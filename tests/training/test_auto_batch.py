import dataclasses
import json

import pytest

from tests.training.conftest import files_of, with_train
from videomar import checkpoint
from videomar.config.training import AUTO
from videomar.errors import ParamsError
from videomar.training import auto_batch as batch_size
from videomar.training.auto_batch import BATCH_FILE
from videomar.training.loop import train
from videomar.training.worker import Worker


@pytest.mark.parametrize(
    ("peaks", "expected"), [({1: 0.5, 2: 0.6, 4: 0.8, 8: 1.2}, 4), ({1: 0.5, 2: 0.6}, 2), ({1: 1.0}, 1)]
)
def test_largest_size_within_the_budget_is_taken(peaks, expected):
    assert batch_size._largest(peaks, 0, 1.0) == expected


@pytest.mark.parametrize(
    ("peaks", "least"), [({1: 1.5}, "at least 1.50 GB"), ({}, "more memory than this machine has")]
)
def test_budget_below_one_clip_is_refused(peaks, least):
    with pytest.raises(ParamsError, match=f"resources.train.memory_gb: got 1.0, expected .*{least}"):
        batch_size._largest(peaks, 0, 1.0)


@pytest.mark.slow
def test_automatic_batch_is_measured_recorded_and_kept(data, shape, params, tmp_path, caplog):
    """12 clips dealt to two micro-batches: 4 is the largest power of two that 6 clips fill."""
    by_number = with_train(params, stages={"batch_size": 8}, accumulation=2, memory_gb=64.0)
    first, last = by_number.curriculum
    settings = dataclasses.replace(by_number, curriculum=(dataclasses.replace(first, batch_size=AUTO), last))
    out = tmp_path / "run"
    train(shape, data, settings, out, Worker(), None)
    assert json.loads((out / BATCH_FILE).read_text()) == {"0": 8}
    assert "stage 0: batch size 8 (by clips at once: 1: " in caplog.text
    train(shape, data, by_number, tmp_path / "number", Worker(), None)
    ours, theirs = (checkpoint.latest(path) / "ema.safetensors" for path in (out, tmp_path / "number"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_resumed_run_takes_the_recorded_size_whatever_memory_there_is_now(data, shape, params, tmp_path):
    for name, memory_gb in (("one", 4.0), ("two", 0.1)):
        out = tmp_path / name
        out.mkdir()
        (out / BATCH_FILE).write_text(json.dumps({"0": 2, "1": 6}))
        settings = with_train(params, stages={"batch_size": AUTO}, memory_gb=memory_gb)
        train(shape, data, settings, out, Worker(), None)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


@pytest.mark.slow
def test_memory_of_larger_batches_is_measured(data, shape, params):
    """A clip a hundred times as long, so that activations are more than the library's own memory moves by."""
    settings = with_train(params)
    trial = batch_size._trial(shape, data.train, 1, settings, Worker())
    clip = trial.clip._replace(latents=trial.clip.latents.repeat(1, 1, 1, 8, 8))
    peaks = batch_size.peaks_gb(trial._replace(clip=clip, most=8))
    assert sorted(peaks) == [1, 2, 4, 8]
    assert peaks[1] < peaks[4] < peaks[8]

"""The training loop on a GPU that is not there: one wait a step, and what comes before a step made ahead."""

import dataclasses
import itertools
import threading
from collections import Counter

import pytest
import torch

from tests.support.fake_cuda import FakeCuda
from tests.training.conftest import with_train
from videomar.errors import DataError
from videomar.training import loop
from videomar.training.loop import train
from videomar.training.micro_batches import Ahead
from videomar.training.worker import Worker


@pytest.fixture(autouse=True)
def restored():
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.backends.cuda.matmul.allow_tf32 = False


needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="stands in for a GPU")


@needs_no_gpu
@pytest.mark.parametrize("objective", ["single_frame", "all_frames"])
def test_step_waits_for_the_gpu_once(data, shape, params, tmp_path, monkeypatch, objective):
    """Micro-batches, recomputation, bfloat16 and skipped updates included; rows of the log are read apart."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", _pinned)  # on the thread of the batches, too
    settings = with_train(
        params, objective=objective, accumulation=2, precision="bfloat16", activation_checkpointing=True,
        log_every=100, checkpoint_every=100, validate_every=0, stages={"steps": 4},
    )  # fmt: skip
    settings = dataclasses.replace(settings, curriculum=settings.curriculum[-1:])
    waits: list[Counter[str]] = []
    with FakeCuda(values=False) as cuda:
        check = loop.check_step

        def check_step(*arguments):
            waits.append(Counter(cuda.waits))
            return check(*arguments)

        monkeypatch.setattr(loop, "check_step", check_step)
        train(shape, data, settings, tmp_path / "run", Worker(device=torch.device("cuda")), None)
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        places = dict(cuda.places)
    made = [later - earlier for earlier, later in itertools.pairwise(waits)]
    assert made == [{"copy to the host": 1}] * 3, places


def _pinned(tensor):
    made = tensor.clone()
    made._pinned = True
    return made


@needs_no_gpu
def test_validation_waits_for_the_gpu_once(data, params, model):
    settings = dataclasses.replace(params.train, validation_clips=4)
    stage = settings.curriculum[-1]
    with FakeCuda() as cuda:
        model.to("cuda")
        loss_of = loop.Loss(model, "float32")
        worker = Worker(device=torch.device("cuda"))
        loop.validation_loss(loss_of, data.train, stage, settings, worker)
        cuda.clear()
        loop.validation_loss(loss_of, data.train, stage, settings, worker)
        assert cuda.waits == {"copy to the host": 1}, cuda.places


def test_next_batch_is_made_while_a_step_runs():
    ours, begun = threading.current_thread(), threading.Event()

    def make(step, stage):
        if threading.current_thread() is not ours:
            begun.set()
        return step, stage, threading.current_thread() is ours

    batches = Ahead(make)
    assert batches.take(0, 0, more=True) == (0, 0, True)
    assert begun.wait(10)
    assert batches.take(1, 0, more=True) == (1, 0, False)
    assert batches.take(2, 1, more=False) == (2, 1, True)  # not what was begun: the stage had ended early
    assert batches.take(3, 1, more=False) == (3, 1, True)


def test_batch_that_cannot_be_made_stops_the_run_at_its_step():
    """And not a step before; nor at all if the stage ends first."""

    def make(step, stage):
        if (step, stage) == (1, 0):
            raise DataError("clip 7: got damaged bytes")
        return step

    batches = Ahead(make)
    assert batches.take(0, 0, more=True) == 0
    with pytest.raises(DataError, match="clip 7"):
        batches.take(1, 0, more=True)
    batches = Ahead(make)
    batches.take(0, 0, more=True)
    assert batches.take(1, 1, more=False) == 1

"""Kernels recorded once and replayed give what the function gives; where they cannot, the function runs."""

import dataclasses

import pytest
import torch

from tests.conftest import lively_model
from tests.support.fake_cuda import FakeCuda
from videomar.compute.seeding import step_generator
from videomar.model import generation, replay
from videomar.model.replay import Replayed

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="test_gpu.py runs the same on a real one")


def mixed(x, y, weight):
    """Two results of two tensors, one of which may be missing, and a number."""
    total = x if y is None else torch.lerp(x, y, weight)
    return total * weight, total.sum(0)


def test_results_are_those_of_the_function_for_all_inputs():
    """Values, numbers, shapes, a missing input; each recorded once, and one launch afterwards."""
    with FakeCuda() as cuda:
        replayed = Replayed(mixed)
        for turn in range(2):
            for rows in (2, 3):
                for missing in (False, True):
                    x, y = torch.full((rows, 4), turn + 1.0).cuda(), torch.full((rows, 4), turn - 2.0).cuda()
                    given = (x, None if missing else y, 0.25 * (turn + 1))
                    results = [part.clone() for part in replayed(*given)]
                    assert all(map(torch.equal, results, mixed(*given)))
        cuda.clear()
        first = replayed(x, y, 0.75)
        assert cuda.launches == {"copy_": 2, "fill_": 1, "graph": 1}
        cuda.clear()
        replayed(x, y, 0.75)
        assert cuda.launches == {"copy_": 2, "graph": 1}
        assert not cuda.waits
        assert replayed(y, x, 0.75)[0] is first[0]  # overwritten


def test_result_may_be_the_next_input():
    with FakeCuda():
        replayed, x, y = Replayed(mixed), torch.ones(2, 4).cuda(), torch.full((2, 4), 3.0).cuda()
        state, plain = x, x
        for _ in range(4):
            [state, _], [plain, _] = replayed(state, y, 0.5), mixed(plain, y, 0.5)
        assert torch.equal(state, plain)


@pytest.mark.parametrize("fault", ["waits", "remembers"])
def test_function_that_cannot_be_recorded_runs_as_it_is(fault, caplog):
    seen = []

    def function(x):
        seen.append(float(x.sum()) if fault == "waits" else 1.0)
        return (x + len(seen),)

    with FakeCuda():
        replayed, x = Replayed(function), torch.zeros(2).cuda()
        calls = [replayed(x)[0].tolist() for _ in range(2)]
    assert calls == [[len(seen) - 1.0] * 2, [float(len(seen))] * 2]
    [warning] = caplog.messages
    assert {"waits": "capturing", "remembers": "other values"}[fault] in warning


def test_recordings_have_a_limit(monkeypatch):
    monkeypatch.setattr(replay, "_MOST_RECORDINGS", 2)
    with FakeCuda() as cuda:
        replayed = Replayed(lambda x: (x + 1,))
        for rows in (1, 2, 3):
            assert replayed(torch.zeros(rows).cuda())[0].tolist() == [1] * rows
        cuda.clear()
        replayed(torch.zeros(3).cuda())
        assert cuda.launches["graph"] == 0


def test_function_itself_runs_on_the_cpu():
    x = torch.ones(2)
    assert Replayed(lambda value: (value,))(x)[0] is x


@pytest.mark.parametrize("head", ["flow", "ddpm"])
def test_generation_with_and_without_recordings_gives_the_same_clip(params, captions, head, monkeypatch):
    """Of steps of the head and of passes of the trunk, whose window slides over the frames."""
    monkeypatch.setattr(generation, "_MANY_PASSES", 3)
    sampling = dataclasses.replace(
        params.sample, num_unmask_steps=3, num_diffusion_steps=3, cfg_scale=2.0, cfg_from=0.5, window_frames=3
    )
    context = torch.randn(3, 4, 1, 2, 3, generator=step_generator(3, 0))
    made, launches = [], []
    for recorded in (True, False):
        with FakeCuda() as cuda:
            network = lively_model(dataclasses.replace(params.model, head=head)).to("cuda")
            if not recorded:
                monkeypatch.setattr(generation, "Replayed", lambda function: function)
            noise = step_generator(0, 0, device="cuda")
            clip = network.generate(context.cuda(), 4, *(x.cuda() for x in captions), sampling, noise)
            made.append(clip.cpu())
            launches.append(dict(cuda.launches))
    assert torch.equal(*made)
    assert launches[0]["graph"] >= 3 * 3 * (3 + 1)
    assert "graph" not in launches[1]


def test_bfloat16_weights_give_the_clip_of_autocast(params, captions, monkeypatch):
    """Autocast would make them from float32 at every use."""
    context, made = torch.randn(3, 4, 1, 2, 3, generator=step_generator(3, 0)), []
    for kept in (True, False):
        with FakeCuda():
            network = lively_model(params.model).to("cuda")
            if not kept:
                monkeypatch.setattr(generation, "in_bfloat16", lambda network: network)
            noise = step_generator(0, 0, device="cuda")
            made.append(
                network.generate(context.cuda(), 3, *(x.cuda() for x in captions), params.sample, noise)
            )
            made[-1] = made[-1].cpu()
    assert torch.equal(*made)
    clip = lively_model(params.model).generate(context, 3, *captions, params.sample, step_generator(0, 0))
    assert 0 < (clip - made[0]).abs().max() < 0.2 * clip.abs().max()

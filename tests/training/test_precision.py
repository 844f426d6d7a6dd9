import copy
import dataclasses
import functools

import pytest
import torch

from tests.training.conftest import with_train
from videomar.compute.seeding import step_generator
from videomar.errors import ParamsError
from videomar.training.loop import train
from videomar.training.micro_batches import clips_on
from videomar.training.parallelize import Loss, compile_blocks, recompute_blocks, refuse_emulated
from videomar.training.worker import Worker

CPU = torch.device("cpu")


def has_bfloat16():
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def gradients(model, dataset, params, precision="float32"):
    clips = clips_on(CPU, dataset.rows([0, 1, 2]))
    model.zero_grad()
    loss = Loss(model, precision)(clips, params.train, step_generator(0, 0)).mean
    loss.backward()
    return loss.item(), torch.cat([weight.grad.flatten() for weight in model.parameters()])


def test_recomputed_activations_give_the_same_gradient(model, dataset, params):
    loss, expected = gradients(model, dataset, params)
    again = copy.deepcopy(model)
    recompute_blocks(again)
    assert list(again.state_dict()) == list(model.state_dict())
    loss_again, got = gradients(again, dataset, params)
    assert loss_again == loss
    assert got.equal(expected)


def test_recomputed_activations_are_not_kept(model, dataset, params):
    """Fewer tensors are saved for the way back: those of the blocks are computed again."""

    def saved(network):
        count = 0

        def pack(tensor):
            nonlocal count
            count += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network.loss(clips_on(CPU, dataset.rows([0, 1, 2])), params.train, step_generator(0, 0))
        return count

    again = copy.deepcopy(model)
    recompute_blocks(again)
    assert saved(again) < 0.7 * saved(model)


def test_training_with_recomputed_activations_ends_with_the_same_weights(data, shape, params, tmp_path):
    plain = with_train(params)
    saving = with_train(params, activation_checkpointing=True)
    for name, settings in (("plain", plain), ("saving", saving)):
        train(shape, data, settings, tmp_path / name, Worker(), None)
    ours, theirs = (tmp_path / name / "step_00000012/ema.safetensors" for name in ("plain", "saving"))
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.slow
def test_compiled_blocks_give_the_same_gradient_but_for_rounding(model, dataset, params, monkeypatch):
    """Captured as a compiler does, and run as they are: writing and compiling C++ would take minutes."""
    eager = functools.partialmethod(torch.nn.Module.compile, backend="aot_eager")
    monkeypatch.setattr(torch.nn.Module, "compile", eager)
    loss, expected = gradients(model, dataset, params)
    compiled = copy.deepcopy(model)
    compile_blocks(compiled)
    assert list(compiled.state_dict()) == list(model.state_dict())
    loss_again, got = gradients(compiled, dataset, params)
    assert loss_again == pytest.approx(loss, rel=1e-4)
    assert (got - expected).abs().max() <= 1e-3 * expected.abs().max()


def test_bfloat16_keeps_weights_in_float32_and_is_near(model, dataset, params):
    """What is computed, wherever it is: on a CPU without bfloat16 it is slow, and the same."""
    loss, expected = gradients(model, dataset, params)
    near, got = gradients(model, dataset, params, "bfloat16")
    assert near != loss
    assert near == pytest.approx(loss, rel=0.05)
    assert got.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(got, expected, 0) > 0.98


def test_emulated_bfloat16_is_refused(params, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    with pytest.raises(ParamsError, match="train.precision: got bfloat16 on cpu hardware that only emulates"):
        refuse_emulated("bfloat16", CPU)
    refuse_emulated("float32", CPU)


def test_bfloat16_runs_where_the_hardware_has_it_and_nowhere_else(data, shape, params, tmp_path):
    settings = dataclasses.replace(params.train, precision="bfloat16")
    if has_bfloat16():
        assert train(shape, data, settings, tmp_path / "run", Worker(), None)["steps"] == 12
    else:
        with pytest.raises(ParamsError, match="only emulates"):
            train(shape, data, settings, tmp_path / "run", Worker(), None)

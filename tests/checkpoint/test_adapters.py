"""Low-rank adapters: what they train, and that checkpoints hold a plain network."""

import dataclasses
import sys

import pytest
import torch

from tests.checkpoint.conftest import hidden
from tests.conftest import lively_model
from tests.support.caches import write_cache
from tests.training.conftest import files_of, with_train
from tests.training.test_loop import Bomb, Interrupted
from videomar import checkpoint
from videomar.checkpoint.adapters import add_adapters, merged_weights
from videomar.checkpoint.manifest import ModelShape
from videomar.compute.seeding import step_generator
from videomar.config.training import LoraParams
from videomar.errors import CheckpointError, ParamsError
from videomar.latents.dataset import LatentDataset, Splits
from videomar.model.linear import Linear
from videomar.training.loop import train
from videomar.training.state import begin_from, new_state
from videomar.training.worker import Worker

LORA = LoraParams(rank=4, alpha=8)


@pytest.fixture
def settings(params, source):
    return with_train(
        params, start_from=str(source), lora=LORA, validate_every=0, preview_every=0, learning_rate=1e-2
    )


def test_adapters_start_without_effect_and_only_they_are_trained(settings, network, source, captions):
    state = new_state(ModelShape(network, 4, 6, 5), settings, torch.device("cpu"))
    begin_from(state, source)
    before = hidden(checkpoint.load(source).model, captions)
    assert torch.equal(hidden(state.model, captions), before)
    assert torch.equal(hidden(state.ema, captions), before)
    wrapped = [name for name, layer in state.model.named_modules() if hasattr(layer, "lora_A")]
    linear = [
        name
        for name, layer in checkpoint.load(source).model.trunk.blocks.named_modules()
        if isinstance(layer, Linear)
    ]
    assert sorted(wrapped) == sorted(f"trunk.blocks.{name}" for name in linear)
    trained = [name for name, weight in state.model.named_parameters() if weight.requires_grad]
    assert trained
    assert all(".lora_" in name for name in trained)
    again = new_state(ModelShape(network, 4, 6, 5), settings, torch.device("cpu"))
    begin_from(again, source)
    for name, value in state.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), "drawn from the seed alone"


def test_merged_weights_compute_the_same(params, captions, measured):
    adapted = lively_model(params.model)
    add_adapters(adapted, LORA, step_generator(0, 5))
    generator = step_generator(0, 6)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if ".lora_B." in name:
                weight.normal_(0, 0.1, generator=generator)
    plain = lively_model(params.model)
    before = hidden(plain, captions)
    plain.load_state_dict(merged_weights(adapted))
    assert (hidden(adapted, captions) - before).abs().max() > 0.1
    measured("merged adapters", (hidden(plain, captions) - hidden(adapted, captions)).abs().max(), 1e-5)


def test_checkpoint_is_a_plain_network_whose_other_weights_are_those_of_the_start(
    settings,
    network,
    source,
    tmp_path,
):
    data = Splits(LatentDataset(write_cache(tmp_path / "latents"), "train", 5))
    train(ModelShape(network, 4, 6, 5), data, settings, tmp_path / "run", Worker(), None)
    trained, start = checkpoint.load(tmp_path / "run"), checkpoint.load(source)
    kept = start.model.state_dict()
    moved = [name for name, value in trained.model.state_dict().items() if not torch.equal(value, kept[name])]
    assert moved
    assert all(name.startswith("trunk.blocks.") and "norm" not in name for name in moved)
    assert len(moved) == 7 * network.depth
    newest = checkpoint.latest(tmp_path / "run")
    checkpoint.export(newest, tmp_path / "export")
    names = {path.name for path in (tmp_path / "export").iterdir()}
    assert names == {"checkpoint.json", "model.safetensors", "ema.safetensors"}
    moments = (newest / "optimizer.safetensors").stat().st_size
    assert moments < (newest / "model.safetensors").stat().st_size, "of the adapters alone"


@pytest.mark.slow
def test_resumed_run_with_adapters_ends_in_the_same_bits(settings, network, source, tmp_path):
    data = Splits(LatentDataset(write_cache(tmp_path / "latents"), "train", 5))
    shape = ModelShape(network, 4, 6, 5)
    train(shape, data, settings, tmp_path / "whole", Worker(), None)
    with pytest.raises(Interrupted):
        train(shape, data, settings, tmp_path / "resumed", Worker(), Bomb(6))
    weights = source / "ema.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    train(shape, data, settings, tmp_path / "resumed", Worker(), None)
    assert files_of(tmp_path / "resumed") == files_of(tmp_path / "whole")


def test_new_conditions_need_all_weights(settings, network, source, tmp_path):
    data = Splits(LatentDataset(write_cache(tmp_path / "latents"), "train", 5))
    more = dataclasses.replace(network, conditions=("motion", "fps"))
    with pytest.raises(CheckpointError, match=r"train.lora: got new model.conditions fps, expected"):
        train(ModelShape(more, 4, 6, 5), data, settings, tmp_path / "run", Worker(), None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"start_from": None}, "null without train.start_from"),
        ({"sharding": "fsdp"}, "together they are untried"),
        ({"sharding": "zero1"}, "together they are untried"),
        ({"compile": True}, "together they are untried"),
    ],
)
def test_adapters_without_weights_or_with_what_is_untried_are_refused(params, changes, words):
    with pytest.raises(ParamsError, match=words):
        with_train(params, **{"start_from": "champion", "lora": LORA, **changes})


def test_machine_without_peft_is_told_so(params, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ParamsError, match=r"train.lora: got adapters, but no package peft"):
        add_adapters(lively_model(params.model), LORA, step_generator(0, 0))

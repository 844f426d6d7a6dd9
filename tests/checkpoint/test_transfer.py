"""Weights of a trained network as the start of another run."""

import dataclasses
import json

import pytest
import torch

from tests.checkpoint.conftest import hidden
from tests.conftest import lively
from tests.support.caches import write_cache
from tests.support.two_workers import on_two_workers
from tests.training.conftest import files_of, with_train
from tests.training.test_loop import Bomb, Interrupted
from videomar import checkpoint
from videomar.checkpoint.manifest import ModelShape
from videomar.checkpoint.transfer import fitted_shape, start_sha256
from videomar.errors import CheckpointError
from videomar.latents.dataset import LatentDataset, Splits
from videomar.model.conditions import HISTORY_NOISE
from videomar.model.objective import Clips
from videomar.training.loop import train
from videomar.training.parallelize import gather, mesh_of
from videomar.training.run_folder import describe_run
from videomar.training.state import begin_from, new_state, untrained
from videomar.training.worker import Worker

CPU = torch.device("cpu")


def started(shape, params, folder):
    state = new_state(fitted_shape(shape, folder), with_train(params, start_from=str(folder)), CPU)
    begin_from(state, folder)
    return state


def test_model_and_average_both_start_from_the_average(params, network, source):
    state = started(ModelShape(network, 4, 6, 5), params, source)
    kept = checkpoint.load_tensors(source, "ema")
    for each in (state.model, state.ema):
        assert all(torch.equal(value, kept[name]) for name, value in each.state_dict().items())


def test_new_conditions_change_no_bit(params, network, source, captions):
    more = dataclasses.replace(network, conditions=("fps", "motion", HISTORY_NOISE))
    state = started(ModelShape(more, 4, 6, 5), params, source)
    before = checkpoint.load(source).model
    assert torch.equal(hidden(state.model, captions), hidden(before, captions))
    fps = state.model.trunk.conditions["fps"]
    assert not fps(torch.tensor([24.0, torch.nan])).any()
    fps(torch.tensor([24.0])).sum().backward()
    assert fps.layers[2].weight.grad.any(), "it can learn"


def test_new_feed_changes_no_bit_and_can_learn(params, network, tmp_path, captions):
    plain = ModelShape(dataclasses.replace(network, feed_previous=False), 4, 6, 5)
    weights = {"ema": lively(untrained(plain, 1)).state_dict()}
    source = checkpoint.save(tmp_path / "plain", 7, plain, weights, {"train": {"seed": 0}})
    state = started(ModelShape(network, 4, 6, 5), params, source)
    assert torch.equal(hidden(state.model, captions), hidden(checkpoint.load(source).model, captions))
    clips = Clips(torch.randn(3, 4, 3, 2, 2), *captions)
    state.model.loss(clips, params.train, torch.Generator()).backward()
    assert state.model.trunk.previous_proj.weight.grad.any()
    with pytest.raises(CheckpointError, match="train.lora: got new model.feed_previous true, expected"):
        fitted_shape(ModelShape(network, 4, 6, 5), source, with_new_layers=False)


def test_longer_captions_change_only_by_rounding(params, network, source, captions, measured):
    shape = fitted_shape(ModelShape(network, 4, 6, 9), source)
    assert shape.null_text_tokens == 5
    state = started(ModelShape(network, 4, 6, 9), params, source)
    before = hidden(checkpoint.load(source).model, captions)
    error = (hidden(state.model, captions, 4) - before).abs().max()
    measured("a start with longer captions", error, 1e-5)
    again = ModelShape(**{**shape.to_dict(), "params": network})
    saved = checkpoint.save(source.parent / "longer", 0, again, {"ema": state.ema.state_dict()}, {})
    assert torch.equal(hidden(checkpoint.load(saved).model, captions, 4), hidden(state.ema, captions, 4))


def test_refusal_names_every_tensor_both_shapes_and_the_keys(network, source):
    other = dataclasses.replace(network, depth=3, mlp_ratio=2.0, head_width=48)
    with pytest.raises(CheckpointError) as caught:
        fitted_shape(ModelShape(other, 4, 8, 5), source)
    text = str(caught.value)
    for part in (
        "train.start_from",
        "trunk.blocks.*.ff.0.weight [128, 32] there, [64, 32] here (model.mlp_ratio, model.depth), "
        "in 2 blocks",
        "trunk.blocks.*.ff.0.weight none there, [64, 32] here (model.mlp_ratio, model.depth)",
        "trunk.context_embed.weight [32, 6] there, [32, 8] here (text.encoder)",
        "(model.head_width)",
        "set the keys as there",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"head": "ddpm"}, "model.head flow there, ddpm here"),
        ({"residual": False}, "model.residual true there, false here, expected"),
        ({"feed_previous": False}, "model.feed_previous true there, false here, expected"),
        ({"conditions": ()}, "model.conditions with motion there, without here"),
        ({"rope_axis_dims": (4, 6, 6)}, r"model.rope_axis_dims \[8, 4, 4\] there, \[4, 6, 6\] here"),
        ({"num_heads": 1, "rope_axis_dims": (16, 8, 8)}, r"q_norm.weight \[16\] there, \[32\] here"),
    ],
)
def test_other_meanings_of_the_same_weights_are_refused(network, source, change, words):
    with pytest.raises(CheckpointError, match=words):
        fitted_shape(ModelShape(dataclasses.replace(network, **change), 4, 6, 5), source)


def test_shorter_captions_are_refused(network, source):
    with pytest.raises(CheckpointError, match=r"text.max_tokens 5 there, 4 here"):
        fitted_shape(ModelShape(network, 4, 6, 4), source)


def test_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="expected a checkpoint"):
        start_sha256(tmp_path)


def test_run_is_known_by_the_weights_and_not_by_the_folder(params, network, source, tmp_path):
    dataset = LatentDataset(write_cache(tmp_path / "latents"), "train", 5)
    shape = ModelShape(network, 4, 6, 5)
    moved = source.rename(tmp_path / "moved")
    copy = checkpoint.save(
        tmp_path / "other",
        7,
        shape,
        {stem: checkpoint.load_tensors(moved, stem) for stem in ("model", "ema")},
        {},
    )
    runs = [
        describe_run(shape, dataset, with_train(params, start_from=str(folder))) for folder in (moved, copy)
    ]
    others = [{key: value for key, value in run.items() if key != "beside"} for run in runs]
    assert others[0] == others[1]
    assert others[0]["start"] == start_sha256(moved)
    assert "start" not in describe_run(shape, dataset, params.train)


def test_resumed_run_never_reads_the_start_again_and_ends_in_the_same_bits(params, network, source, tmp_path):
    data = Splits(LatentDataset(write_cache(tmp_path / "latents"), "train", 5))
    shape = ModelShape(dataclasses.replace(network, conditions=("motion", "fps")), 4, 6, 7)
    own = with_train(params, start_from=str(source), validate_every=0, preview_every=0)
    train(shape, data, own, tmp_path / "whole", Worker(), None)
    with pytest.raises(Interrupted):
        train(shape, data, own, tmp_path / "resumed", Worker(), Bomb(6))
    weights = source / "ema.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    train(shape, data, own, tmp_path / "resumed", Worker(), None)
    assert files_of(tmp_path / "resumed") == files_of(tmp_path / "whole")
    manifest = json.loads((checkpoint.latest(tmp_path / "whole") / "checkpoint.json").read_text())
    assert manifest["shape"]["null_text_tokens"] == 5
    with pytest.raises(CheckpointError, match="it is damaged"):
        train(shape, data, own, tmp_path / "new", Worker(), None)


@pytest.mark.slow
def test_shards_start_from_the_same_weights(params, network, source):
    own = with_train(params, start_from=str(source), sharding="fsdp", num_workers=2)

    def start(worker: Worker) -> list[float]:
        state = new_state(ModelShape(network, 4, 6, 5), own, worker.device, mesh_of(own, worker))
        begin_from(state, source)
        return [gather(value).double().sum().item() for value in state.model.state_dict().values()]

    kept = checkpoint.load(source).model.state_dict()
    expected = [value.double().sum().item() for value in kept.values()]
    assert on_two_workers(start) == [expected, expected]

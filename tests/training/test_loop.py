import dataclasses
import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.caches import write_cache
from videomar import checkpoint
from videomar.checkpoint import ModelShape
from videomar.data.dataset import LatentDataset
from videomar.data.latents import read_rows, write_shards
from videomar.errors import CheckpointError
from videomar.model.masking import draw_target_frames
from videomar.model.objective import Clips
from videomar.runtime import step_generator
from videomar.training import loop
from videomar.training.loop import Worker, differing_keys, stage_at, train
from videomar.training.optim import learning_rate_at, make_optimizer


@pytest.fixture
def dataset(tmp_path):
    return LatentDataset(write_cache(tmp_path / "latents"), "train", 5)


@pytest.fixture
def shape(params):
    return ModelShape(params.model, 4, 6, 5)


class Interrupted(Exception):
    pass


class Bomb:
    """A tracker that ends the run while it logs a step."""

    def __init__(self, at):
        self.at = at

    def log(self, step, figures):
        if step == self.at:
            raise Interrupted

    def flush(self):
        pass


def files_of(folder):
    return {
        path.name: path.read_bytes() for path in [*checkpoint.latest(folder).iterdir(), folder / "log.csv"]
    }


@pytest.mark.parametrize("at", [2, 6, 8, 12])
def test_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(dataset, shape, params, tmp_path, at):
    train(shape, dataset, params.train, tmp_path / "whole", Worker(), None)
    with pytest.raises(Interrupted):
        train(shape, dataset, params.train, tmp_path / "cut", Worker(), Bomb(at))
    train(shape, dataset, params.train, tmp_path / "cut", Worker(), None)
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


@pytest.mark.slow
def test_run_killed_by_sigkill_ends_with_the_same_bits(dataset, shape, params, tmp_path):
    """The process dies in the middle of writing a checkpoint: a draft is left, and no half a checkpoint."""
    script = tmp_path / "run.py"
    script.write_text(
        "import os, signal, sys, pickle\n"
        "from pathlib import Path\n"
        "from videomar import checkpoint\n"
        "from videomar.data.dataset import LatentDataset\n"
        "from videomar.training.loop import Worker, train\n"
        f"shape, params = pickle.loads(Path({str(tmp_path / 'args')!r}).read_bytes())\n"
        f"dataset = LatentDataset(Path({str(tmp_path / 'latents')!r}), 'train', 5)\n"
        "def killed(folder): os.kill(os.getpid(), signal.SIGKILL)\n"
        "if sys.argv[1] == 'kill':\n"
        "    checkpoint._fsync = killed\n"
        f"train(shape, dataset, params, Path({str(tmp_path)!r}) / 'cut', Worker(), None)\n"
    )
    (tmp_path / "args").write_bytes(pickle.dumps((shape, params.train)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script, "kill"], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert checkpoint.latest(tmp_path / "cut") is None
    assert list((tmp_path / "cut").glob(".draft-*"))
    subprocess.run([sys.executable, script, "run"], env=environment, check=True)
    train(shape, dataset, params.train, tmp_path / "whole", Worker(), None)
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")
    assert not list((tmp_path / "cut").glob(".draft-*"))


def test_checkpoint_of_other_parameters_is_not_continued(dataset, shape, params, tmp_path, caplog):
    out = tmp_path / "run"
    train(shape, dataset, params.train, out, Worker(), None)
    other = dataclasses.replace(params.train, learning_rate=1e-4)
    train(shape, dataset, other, out, Worker(), None)
    assert "train.learning_rate: 0.002 -> 0.0001" in caplog.text
    train(shape, dataset, other, tmp_path / "fresh", Worker(), None)
    assert files_of(out) == files_of(tmp_path / "fresh")


def test_checkpoint_of_other_code_is_not_continued(dataset, shape, params, tmp_path, caplog, monkeypatch):
    train(shape, dataset, params.train, tmp_path / "run", Worker(), None)
    monkeypatch.setattr(loop, "code_hash", lambda: "another")
    train(shape, dataset, params.train, tmp_path / "run", Worker(), None)
    assert "is of another run (code: " in caplog.text


def test_damaged_newest_checkpoint_falls_back_to_the_one_before(dataset, shape, params, tmp_path):
    out = tmp_path / "run"
    train(shape, dataset, params.train, out, Worker(), None)
    whole = files_of(out)
    newest = checkpoint.latest(out)
    (newest / "ema.safetensors").write_bytes(b"torn")
    assert checkpoint.latest(out) < newest
    train(shape, dataset, params.train, out, Worker(), None)
    assert files_of(out) == whole


def test_non_finite_loss_stops_the_run_and_names_the_clips(dataset, shape, params, tmp_path):
    huge = np.full(48, 1e30, "float32").tobytes()
    text = np.zeros(12, "float32").tobytes()
    rows = [
        row | {"dtype": "float32", "latents": huge, "text": text} for row in read_rows(tmp_path / "latents")
    ]
    write_shards(tmp_path / "latents", rows, 100)
    dataset = LatentDataset(tmp_path / "latents", "train", 5)
    with pytest.raises(CheckpointError, match=r"got loss nan before step 2 \(clips clip"):
        train(shape, dataset, params.train, tmp_path, Worker(), None)


def test_tiny_model_overfits_one_clip(params, tmp_path):
    """Trained on one clip alone, the model gives it back from its first latent frame."""
    data = LatentDataset(write_cache(tmp_path / "one", clips=1), "train", 5)
    stage = dataclasses.replace(params.train.curriculum[-1], steps=500, batch_size=8)
    train_params = dataclasses.replace(
        params.train,
        curriculum=(stage,),
        learning_rate=5e-3,
        cond_drop_prob=0.0,
        condition_drop_prob=1.0,
        ema_decay=0.9,
        checkpoint_every=500,
    )
    model_params = dataclasses.replace(params.model, head_width=96)
    train(ModelShape(model_params, 4, 6, 5), data, train_params, tmp_path / "run", Worker(), None)
    model = checkpoint.load(tmp_path / "run").model
    clip, text, mask = (torch.from_numpy(array) for array in data.rows([0])[:3])
    # In one pass: of the 4 tokens of a frame, training hides 3 or 4, and never fewer.
    sampling = dataclasses.replace(params.sample, num_unmask_steps=1, num_diffusion_steps=30)
    again = model.generate(clip[:, :, :1], 3, text, mask, sampling, step_generator(0, 0))
    error = (again - clip)[:, :, 1:].square().mean() / clip[:, :, 1:].square().mean()
    assert error < 0.05


def test_loss_ignores_frames_after_the_last_target(model, captions, params):
    latents = torch.randn(3, 4, 5, 2, 3, generator=step_generator(0, 0))
    changed = latents.clone()
    single = dataclasses.replace(params.train, objective="single_frame")
    changed[:, :, 4] += 1
    # A seed whose three target frames lie before frame 4, and one with a target in it.
    seeds = {int(draw_target_frames(3, 5, step_generator(seed, 1)).max()): seed for seed in range(20)}
    for last, equal in ((3, True), (4, False)):
        before, after = (
            model.loss(Clips(clips, *captions), single, step_generator(seeds[last], 1))
            for clips in (latents, changed)
        )
        assert torch.equal(before, after) == equal


def test_stages_follow_each_other(params):
    numbers = [stage_at(step, params.train)[0] for step in range(params.train.max_steps)]
    assert numbers == [0] * 6 + [1] * 6


def test_learning_rate_warms_up_and_decays_to_its_share(params):
    rates = [learning_rate_at(step, params.train) for step in range(params.train.max_steps)]
    assert rates[0] == params.train.learning_rate / 2
    assert max(rates) == params.train.learning_rate
    last = learning_rate_at(params.train.max_steps, params.train)
    assert last == pytest.approx(params.train.learning_rate * params.train.final_learning_rate_share)


def test_weight_decay_spares_vectors_and_the_head(model, params):
    decayed, plain = make_optimizer(model, params.train).param_groups
    head = {id(weight) for weight in model.head.parameters()}
    assert all(weight.ndim > 1 and id(weight) not in head for weight in decayed["params"])
    assert plain["weight_decay"] == 0
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))


def test_differing_keys_name_both_values():
    ours, theirs = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 5}, "d": 3, "e": 4}
    assert differing_keys(ours, theirs) == ["a.c: 5 -> 2", "e: 4 -> None"]

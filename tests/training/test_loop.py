import dataclasses
import json

import numpy as np
import pytest
import torch

from tests.support.caches import write_cache
from tests.training.conftest import files_of, with_train
from videomar import checkpoint
from videomar.checkpoint.manifest import ModelShape
from videomar.compute.seeding import step_generator
from videomar.files import read_log
from videomar.latents.dataset import LatentDataset, Splits
from videomar.latents.shards import read_rows, write_shards
from videomar.model.objective import Clips, draw_target_frames
from videomar.training.curriculum import max_steps
from videomar.training.loop import train
from videomar.training.optim import learning_rate_at, make_optimizer
from videomar.training.state import new_state, run_summary, save_checkpoint
from videomar.training.worker import Worker


class Interrupted(Exception):
    pass


class Bomb:
    """A tracker that ends the run while it logs a step."""

    def __init__(self, at):
        self.at = at

    def log(self, step, figures):
        if step == self.at:
            raise Interrupted

    def tag(self, values):
        pass

    def log_preview(self, step, model):
        pass

    def flush(self):
        pass


@pytest.mark.parametrize("at", [2, 6, 8, 12])
def test_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(data, shape, params, tmp_path, at):
    train(shape, data, params.train, tmp_path / "whole", Worker(), None)
    with pytest.raises(Interrupted):
        train(shape, data, params.train, tmp_path / "cut", Worker(), Bomb(at))
    train(shape, data, params.train, tmp_path / "cut", Worker(), None)
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


def test_residual_is_scaled_alike_from_the_start_to_the_last_checkpoint(data, shape, params, tmp_path):
    settings = with_train(params, simulated_share=1.0, preview_every=0)
    train(shape, data, settings, tmp_path / "run", Worker(), None)
    loaded = checkpoint.load(tmp_path / "run")
    simulated = [number for number, is_it in enumerate(data.train.simulated) if is_it]
    changes = np.diff(data.train.rows(simulated).latents.astype(np.float64), axis=2)
    assert loaded.model.head.residual_scale.numpy() == pytest.approx(
        np.square(changes).mean((0, 2, 3, 4)) ** 0.25, rel=0.01
    )  # batches repeat some clips more often than others
    own = with_train(params, start_from=str(tmp_path / "run"), simulated_share=0.0, preview_every=0)
    train(shape, data, own, tmp_path / "tuned", Worker(), None)
    kept = checkpoint.load(tmp_path / "tuned").model.head.residual_scale
    assert torch.equal(kept, loaded.model.head.residual_scale)


def test_channel_that_never_changes_can_be_learnt(shape, params, tmp_path):
    rows = read_rows(write_cache(tmp_path / "latents"))
    flat = {"latents": np.zeros((4, 3, 2, 2), "float16").tobytes()}
    write_shards(tmp_path / "latents", [{**row, **flat} for row in rows], 100)
    data = Splits(LatentDataset(tmp_path / "latents", "train", 5))
    figures = train(shape, data, with_train(params, preview_every=0), tmp_path / "run", Worker(), None)
    assert np.isfinite(figures["loss"])
    assert (checkpoint.load(tmp_path / "run").model.head.residual_scale > 0).all()


def test_mean_loss_of_the_log_goes_on_where_a_checkpoint_lies_between_its_rows(
    dataset, shape, params, tmp_path
):
    settings = with_train(params, log_every=5, checkpoint_every=3, validate_every=0)
    train(shape, Splits(dataset), settings, tmp_path / "whole", Worker(), None)
    with pytest.raises(Interrupted):
        train(shape, Splits(dataset), settings, tmp_path / "cut", Worker(), Bomb(10))
    train(shape, Splits(dataset), settings, tmp_path / "cut", Worker(), None)
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


def test_when_checkpoints_and_previews_are_made_changes_nothing_else(data, shape, params, tmp_path):
    """Weights, ends of stages, log and figures: in the first stage each validation reaches the target."""
    first, last = params.train.curriculum
    curriculum = (dataclasses.replace(first, steps=50, target_loss=1e3), last)
    settings = with_train(params, log_every=3, validate_every=4)
    runs = {
        "rare": {"checkpoint_every": 500, "keep_best": False, "preview_every": 0},
        "often": {"checkpoint_every": 1, "keep_checkpoints": 1, "preview_every": 2},
        "between": {"checkpoint_every": 3, "keep_checkpoints": 9, "preview_every": 5},
    }
    ended = {}
    for name, resources in runs.items():
        own, out = dataclasses.replace(settings, curriculum=curriculum, **resources), tmp_path / name
        figures = train(shape, data, own, out, Worker(), Bomb(-1))
        made = files_of(out)
        ends = json.loads(made.pop("checkpoint.json"))["progress"]["ends"]
        ended[name] = figures, ends, made
    assert ended["rare"][1] == [[4, "target"], [10, "steps"]]
    assert ended["rare"] == ended["often"] == ended["between"]


def test_run_that_is_done_does_nothing_and_says_the_same(data, shape, params, tmp_path):
    out = tmp_path / "run"
    figures = train(shape, data, params.train, out, Worker(), None)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert train(shape, data, params.train, out, Worker(), None) == figures == run_summary(out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == before


def test_damaged_newest_checkpoint_falls_back_to_the_one_before(data, shape, params, tmp_path, caplog):
    out = tmp_path / "run"
    train(shape, data, params.train, out, Worker(), None)
    whole = files_of(out)
    damaged = checkpoint.latest(out) / "ema.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1  # of the same size: only its hash tells
    damaged.write_bytes(content)
    train(shape, data, params.train, out, Worker(), None)
    assert "ema.safetensors: missing or damaged" in caplog.text
    assert "going back to the checkpoint before it" in caplog.text
    assert "continuing from" in caplog.text
    assert files_of(out) == whole


def test_run_without_held_out_clips_has_no_validation_loss(dataset, shape, params, tmp_path):
    figures = train(shape, Splits(dataset), params.train, tmp_path / "run", Worker(), None)
    assert figures["steps"] == 12
    assert "val_loss" not in figures


def test_best_checkpoint_of_the_stage_is_kept_beside_the_newest(shape, params, tmp_path):
    def kept(out, **changes):
        settings = with_train(params, keep_checkpoints=1, **changes)
        state = new_state(shape, settings, torch.device("cpu"))
        for step, val_loss, stage in ((2, 0.5, 0), (4, 0.3, 0), (6, 0.4, 0), (8, 0.9, 1), (10, 1.1, 1)):
            state.progress.step = step
            state.progress.note_checkpoint(val_loss, stage)
            save_checkpoint(state, out, shape, settings, {}, Worker())
            yield [int(path.name.removeprefix("step_")) for path in sorted(out.glob("step_*"))]

    assert list(kept(tmp_path / "best")) == [[2], [4], [4, 6], [8], [8, 10]]
    assert list(kept(tmp_path / "newest", keep_best=False)) == [[2], [4], [6], [8], [10]]


def test_best_checkpoint_is_that_of_the_lowest_validation_loss(data, shape, params, tmp_path):
    settings = with_train(params, checkpoint_every=2, validate_every=2)
    train(shape, data, settings, tmp_path / "run", Worker(), None)
    loss, step, _ = checkpoint.read_manifest(checkpoint.latest(tmp_path / "run"))["progress"]["best"]
    losses = {row["step"]: row["val_loss"] for row in read_log(tmp_path / "run") if row["stage"] == 1}
    assert (loss, step) == (min(losses.values()), min(losses, key=losses.get))


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
        log_every=100,
    )
    model_params = dataclasses.replace(params.model, head_width=96)
    train(ModelShape(model_params, 4, 6, 5), Splits(data), train_params, tmp_path / "run", Worker(), None)
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


def test_learning_rate_warms_up_and_decays_to_its_share(params):
    rates = [learning_rate_at(step, params.train) for step in range(max_steps(params.train))]
    assert rates[0] == params.train.learning_rate / 2
    assert max(rates) == params.train.learning_rate
    last = learning_rate_at(max_steps(params.train), params.train)
    assert last == pytest.approx(params.train.learning_rate * params.train.final_learning_rate_share)


def test_weight_decay_spares_vectors_and_the_head(model, params):
    decayed, plain = make_optimizer(model, params.train).param_groups
    head = {id(weight) for weight in model.head.parameters()}
    assert all(weight.ndim > 1 and id(weight) not in head for weight in decayed["params"])
    assert plain["weight_decay"] == 0
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))

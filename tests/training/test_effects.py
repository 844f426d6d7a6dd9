"""What each part of a step does to the weights: a part that is left out, or turned round, shows here."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn

from tests.training.conftest import with_train
from videomar import checkpoint
from videomar.compute.seeding import step_generator
from videomar.files import read_log
from videomar.latents.dataset import Splits
from videomar.training.curriculum import draw_of, max_steps
from videomar.training.loop import VALIDATION_STEP, train, validation_loss
from videomar.training.micro_batches import parts_of
from videomar.training.optim import ema_decay_at, learning_rate_at, update_ema
from videomar.training.parallelize import Loss
from videomar.training.state import INIT_STEP, untrained
from videomar.training.worker import Worker


@pytest.fixture
def moved_by(dataset, shape, params, tmp_path):
    """How far four steps with other parameters move the weights, at most."""

    def distance(**changes):
        plain = {"warmup_steps": 0, "weight_decay": 0.0, "checkpoint_every": 100}
        settings = with_train(params, stages={"steps": 2}, **{**plain, **changes})
        out = tmp_path / "run"
        train(shape, Splits(dataset), settings, out, Worker(), None)
        after = checkpoint.load_tensors(out / "step_00000004", "model")
        out.rename(tmp_path / f"run {len(list(tmp_path.iterdir()))}")
        before = dict(untrained(shape, settings.seed).named_parameters())  # no buffers: those are measured
        return max(float((after[name] - weight.detach()).abs().max()) for name, weight in before.items())

    return distance


def test_gradient_is_cut_to_its_limit_before_the_step(moved_by):
    """AdamW takes steps of one size whatever the gradient's; but of one far below its epsilon, hardly any."""
    assert moved_by(learning_rate=1e-2) > 1e-3
    assert moved_by(learning_rate=1e-2, max_grad_norm=1e-12) < 1e-5


def test_step_is_as_long_as_the_schedule_says(moved_by):
    assert moved_by(learning_rate=1e-2, final_learning_rate_share=1.0) > 1e-2
    assert 0 < moved_by(learning_rate=1e-2, warmup_steps=10**6) < 1e-5


def test_rate_falls_slowly_at_both_ends_and_fastest_between(params):
    settings = with_train(params, stages={"steps": 500}, warmup_steps=0)
    rates = [learning_rate_at(step, settings) for step in range(0, max_steps(settings) + 1, 125)]
    falls = [before - after for before, after in itertools.pairwise(rates)]
    assert falls[0] == pytest.approx(falls[-1])
    assert falls[len(falls) // 2] > 3 * falls[0] > 0
    assert rates[len(rates) // 2] == pytest.approx((rates[0] + rates[-1]) / 2)


def test_optimizer_that_is_reset_warms_up_again(data, shape, params, tmp_path):
    settings = with_train(params, warmup_steps=3, log_every=1, validate_every=0)
    first, last = settings.curriculum
    for name in ("keep", "reset"):
        curriculum = (first, dataclasses.replace(last, optimizer=name))
        asked = dataclasses.replace(settings, curriculum=curriculum)
        train(shape, data, asked, tmp_path / name, Worker(), None)
    kept, reset = ([row["learning_rate"] for row in read_log(tmp_path / name)] for name in ("keep", "reset"))
    assert reset[:6] == kept[:6]
    assert [after / before for before, after in zip(kept[6:9], reset[6:9], strict=True)] == pytest.approx(
        [1 / 3, 2 / 3, 1.0]
    )
    assert reset[9:] == kept[9:]


def test_every_step_and_every_part_has_noise_of_its_own(dataset, params):
    draw = draw_of(params.train.curriculum[-1], params.train)
    parts = [part for step in range(3) for part in parts_of(step, dataset, draw, 2, Worker())]
    assert len({part.generator.initial_seed() for part in parts}) == 6
    first, again = (parts_of(1, dataset, draw, 2, Worker())[0].generator.initial_seed() for _ in range(2))
    assert first == again


def averaged(decay, *weights):
    """The average of a network of one weight, 0 at first, that then has each of these weights."""
    ema, model = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.zeros_(ema.weight)
    for step, weight in enumerate(weights):
        nn.init.constant_(model.weight, weight)
        update_ema(ema, model, decay(step))
    assert model.weight.item() == weights[-1], "only the average changes"
    return ema.weight.item()


def test_average_moves_by_what_the_decay_leaves_and_forgets_the_random_start():
    assert averaged(lambda _: 0.9, 1.0) == pytest.approx(0.1)
    assert averaged(lambda _: 0.9, 1.0, 1.0) == pytest.approx(0.19)
    assert averaged(lambda step: ema_decay_at(step, 0.999), *[1.0] * 60) > 0.999
    assert averaged(lambda _: 0.999, *[1.0] * 60) < 0.1
    late = [1.0] * 1000 + [0.0]
    assert averaged(lambda step: ema_decay_at(step, 0.9), *late) == pytest.approx(0.9)


def test_validation_judges_the_average_and_not_the_weights_of_the_last_step(data, shape, params, tmp_path):
    settings = with_train(params, learning_rate=2e-2, validation_clips=4, validate_every=100)
    figures = train(shape, data, settings, tmp_path / "run", Worker(), None)
    losses = {}
    for stem in ("ema", "model"):
        network = checkpoint.load(tmp_path / "run", weights=stem).model
        stage = settings.curriculum[-1]
        losses[stem] = validation_loss(Loss(network, "float32"), data.val, stage, settings, Worker())
    assert figures["val_loss"] == pytest.approx(losses["ema"], rel=1e-5)
    assert abs(losses["model"] - losses["ema"]) > 1e-3 * losses["ema"], "else this test says nothing"


def test_validation_draws_from_no_stream_of_training(dataset, shape, params):
    seeds = []

    class Listening(Loss):
        def forward(self, clips, train_params, generator, hidden=None):
            seeds.append(generator.initial_seed())
            return super().forward(clips, train_params, generator, hidden)

    settings = with_train(params, validation_clips=5)
    network = Listening(untrained(shape, 0), "float32")
    validation_loss(network, dataset, settings.curriculum[-1], settings, Worker())
    assert len(set(seeds)) == 5, "each clip has noise of its own"
    steps = range(INIT_STEP, 2000)
    used = {step_generator(settings.seed, step, part).initial_seed() for step in steps for part in range(8)}
    assert not used & set(seeds)
    assert VALIDATION_STEP not in steps


def test_decay_of_weights_shrinks_matrices_that_get_no_gradient(dataset, shape, params, tmp_path):
    """With gradients cut to nothing all that is left of a step is the decay, of matrices alone."""
    settings = with_train(
        params,
        learning_rate=1e-2,
        final_learning_rate_share=1.0,
        max_grad_norm=1e-14,
        warmup_steps=0,
        weight_decay=10.0,
        checkpoint_every=100,
    )
    train(shape, Splits(dataset), settings, tmp_path / "run", Worker(), None)
    before = untrained(shape, settings.seed).state_dict()
    after = checkpoint.load_tensors(checkpoint.latest(tmp_path / "run"), "model")
    name = "trunk.blocks.0.attn1.wqkv.weight"
    assert torch.allclose(after[name], before[name] * 0.9**12, rtol=1e-3, atol=1e-6)
    for kept in ("trunk.norm.weight", "head.net.input_proj.weight"):
        assert torch.allclose(after[kept], before[kept], atol=1e-5)

import dataclasses

import pytest
import torch

from tests.conftest import lively_model
from videomar.compute.seeding import step_generator
from videomar.model.conditions import HISTORY_NOISE, ScalarEmbed, drop_conditions
from videomar.model.frames import causal, complete_and_masked
from videomar.model.objective import (
    Clips,
    add_history_noise,
    draw_dropped,
    draw_frames,
    draw_hidden_counts,
    draw_target_frames,
    draw_token_mask,
)
from videomar.model.patchify import patchify

GRID = (2, 3)


def clips(num_frames=4, batch_size=3):
    return torch.randn(batch_size, 4, num_frames, *GRID, generator=step_generator(3, 0))


def objective(params, name, **changes):
    return dataclasses.replace(params.train, objective=name, **changes)


@pytest.mark.parametrize("head", ["flow", "ddpm"])
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_all_frames_loss_of_a_frame_is_its_single_frame_loss(
    params, captions, head, noisy, residual, measured
):
    """For the same hidden tokens, history noise, head times and head noise."""
    conditions = ("history_noise", "motion")
    choices = {"head": head, "conditions": conditions, "residual": residual, "feed_previous": residual}
    model = lively_model(dataclasses.replace(params.model, **choices))
    tokens = patchify(clips(), 1)
    generator = step_generator(0, 0)
    token_mask = draw_token_mask(torch.full((12,), 4), 6, generator).unflatten(0, (3, 4))
    complete, levels = add_history_noise(tokens, 0.4 if noisy else 0.0, generator)
    conditioning = model.trunk.encode_text(captions[0], captions[1], {"motion": torch.tensor([3.0])})

    def errors(frames, only=None):
        only = frames.token_mask if only is None else only
        hidden = model.trunk.forward_tokens(frames, conditioning)[only]
        time = model.head.draw_time(len(hidden), "logit_normal", step_generator(1, 0))
        noise = torch.randn(len(hidden), 4, generator=step_generator(2, 0))
        drawn = model.head.to_drawn(frames.tokens[only], frames.previous[only])
        return model.head.errors(drawn, hidden, time, noise)

    together = complete_and_masked(complete, tokens, token_mask, GRID, levels)
    for target in (1, 2, 3):
        cut = slice(0, target + 1)
        is_target = torch.arange(target + 1) == target
        alone = causal(
            torch.where(is_target[:, None, None], tokens[:, cut], complete[:, cut]),
            token_mask[:, cut] & is_target[:, None],
            GRID,
            None if levels is None else levels[:, cut] * ~is_target,
        )
        only = torch.zeros_like(together.token_mask)
        only[:, 2 + target] = token_mask[:, target]  # three complete frames stand before the masked ones
        from_all = errors(together, only)
        difference = ((from_all - errors(alone)).abs() / (1 + from_all)).max()
        law = f"{head}: all_frames loss of a frame = its single_frame loss"
        law += " (residual and feed)" * residual
        measured(law + " (history noise)" * noisy, difference, 1e-5)


def test_all_frames_learns_every_frame_but_the_first(params):
    frames = draw_frames(patchify(clips(), 1), GRID, objective(params, "all_frames"), step_generator(0, 0))
    learnt = frames.token_mask.any(2)
    assert frames.positions.tolist() == [0, 1, 2, 1, 2, 3]
    assert learnt.tolist() == [[False] * 3 + [True] * 3] * 3


def test_single_frame_learns_one_frame_of_each_clip_and_cuts_the_rest(params):
    for seed in range(5):
        frames = draw_frames(
            patchify(clips(), 1), GRID, objective(params, "single_frame"), step_generator(seed, 0)
        )
        learnt = frames.token_mask.any(2)
        assert learnt.sum(1).tolist() == [1, 1, 1]
        assert learnt[:, -1].any()
        assert not learnt[:, 0].any()


@pytest.mark.parametrize("name", ["single_frame", "all_frames"])
def test_still_images_are_learnt_at_frame_zero(params, model, captions, name):
    frames = draw_frames(patchify(clips(1), 1), GRID, objective(params, name), step_generator(0, 0))
    assert frames.positions.tolist() == [0]
    assert frames.token_mask.any(2).all()
    loss = model.loss(Clips(clips(1), *captions), objective(params, name), step_generator(0, 0))
    assert torch.isfinite(loss)


@pytest.mark.parametrize("name", ["single_frame", "all_frames"])
def test_learnt_tokens_stay_clean_and_history_gets_its_level(params, name):
    tokens = patchify(clips(), 1)
    frames = draw_frames(tokens, GRID, objective(params, name, history_noise=0.6), step_generator(0, 0))
    target = frames.token_mask.any(2)
    truth = tokens[:, frames.positions]
    assert torch.equal(frames.tokens[target], truth[target])
    assert not frames.noise_levels[target].any()
    history = frames.positions[None] < torch.where(target, frames.positions, 0).amax(1, keepdim=True)
    history &= ~target
    assert frames.noise_levels[history].min() > 0
    assert frames.noise_levels[history].max() <= 0.6
    assert (frames.tokens[history] != truth[history]).any(-1).all()


@pytest.mark.parametrize("name", ["single_frame", "all_frames"])
def test_head_learns_the_difference_to_the_frame_that_the_network_sees(params, captions, name):
    """History with noise: what the head is given is the clean token less the noisy one before it."""
    model = lively_model(params.model)
    train = objective(params, name, history_noise=0.6, batch_multiplier=1)
    given = []
    model.head.losses = lambda drawn, *_: given.append(drawn) or drawn.mean(-1)
    model.loss(Clips(clips(), *captions), train, step_generator(0, 0))
    tokens = patchify(clips(), 1)
    frames = draw_frames(tokens, GRID, train, step_generator(0, 0))
    rows, places, at = frames.token_mask.nonzero(as_tuple=True)
    learnt = frames.positions[places]
    assert (learnt > 0).all()
    seen = frames.tokens[rows, learnt - 1, at]
    expected = (tokens[rows, learnt, at] - seen) / model.head.residual_scale
    assert torch.equal(given[0], expected)


def test_first_frame_is_learnt_as_a_difference_to_nothing(params, captions):
    model, train = lively_model(params.model), objective(params, "all_frames", batch_multiplier=1)
    given = []
    model.head.losses = lambda drawn, *_: given.append(drawn) or drawn.mean(-1)
    model.loss(Clips(clips(1), *captions), train, step_generator(0, 0))
    frames = draw_frames(patchify(clips(1), 1), GRID, train, step_generator(0, 0))
    assert torch.equal(given[0], frames.tokens[frames.token_mask] / model.head.residual_scale)


def test_history_noise_has_the_stated_variance():
    noisy, levels = add_history_noise(torch.zeros(4, 3, 500, 8), 0.5, step_generator(0, 0))
    assert noisy.std((2, 3)).sub(levels).abs().max() < 0.02


def test_masked_frames_do_not_see_each_other_nor_their_complete_copy(model, captions):
    """What a masked frame is given must be what it has in generation, and nothing of the answer."""
    tokens, conditioning = patchify(clips(), 1), model.trunk.encode_text(*captions)
    token_mask = torch.ones(3, 4, 6, dtype=torch.bool)
    before = model.trunk.forward_tokens(complete_and_masked(tokens, tokens, token_mask, GRID), conditioning)
    changed = tokens.clone()
    changed[:, 2] += 1
    after = model.trunk.forward_tokens(complete_and_masked(changed, changed, token_mask, GRID), conditioning)
    assert torch.equal(before[:, [0, 1, 3, 4]], after[:, [0, 1, 3, 4]])  # complete 0, 1; masked 1, 2
    assert not torch.equal(before[:, 5], after[:, 5])  # masked 3 has frame 2 as history


def test_conditions_are_forgotten_independently_and_as_often_as_stated():
    values = {"fps": torch.full((4000,), 8.0), "motion": torch.full((4000,), 3.0)}
    forgotten = drop_conditions(values, 0.3, step_generator(0, 0))
    unknown = {name: values.isnan() for name, values in forgotten.items()}
    assert all(abs(gone.float().mean() - 0.3) < 0.03 for gone in unknown.values())
    assert abs((unknown["fps"] & unknown["motion"]).float().mean() - 0.09) < 0.02
    assert (forgotten["motion"][~unknown["motion"]] == 3).all()


def test_captions_of_real_clips_are_dropped_as_often_as_stated(params, captions):
    """The draws are the same: those of simulated clips, and of a run without the key, stay as they were."""
    simulated = torch.arange(4000) % 2 == 0
    many = Clips(torch.zeros(4000, 1, 1, 1, 1), *captions, {}, simulated)
    dropped = {}
    for real in (None, 0.1, 0.6):
        train = dataclasses.replace(params.train, cond_drop_prob=0.1, real_cond_drop_prob=real)
        dropped[real] = draw_dropped(many, train, step_generator(0, 0))
    assert torch.equal(dropped[None], dropped[0.1])
    assert torch.equal(dropped[None][simulated], dropped[0.6][simulated])
    assert abs(dropped[0.6][simulated].float().mean() - 0.1) < 0.03
    assert abs(dropped[0.6][~simulated].float().mean() - 0.6) < 0.03
    unknown = draw_dropped(many._replace(simulated=None), train, step_generator(0, 0))
    assert torch.equal(unknown, dropped[None])


@pytest.mark.parametrize("name", ["single_frame", "all_frames"])
@pytest.mark.parametrize("head", ["flow", "ddpm"])
def test_every_parameter_gets_a_finite_gradient(params, captions, name, head):
    conditions = ("fps", "motion", "history_noise")
    model = lively_model(dataclasses.replace(params.model, head=head, conditions=conditions))
    train = objective(params, name, cond_drop_prob=0.5, history_noise=0.3)
    values = {"fps": torch.tensor([8.0, 12.0, 24.0]), "motion": torch.tensor([1.0, float("nan"), 9.0])}
    for step in range(4):  # with and without their captions
        model.loss(Clips(clips(), *captions, values), train, step_generator(0, step)).backward()
    for parameter_name, weight in model.named_parameters():
        if parameter_name.endswith("history_noise.unknown"):
            continue  # the level is always known
        assert torch.isfinite(weight.grad).all(), parameter_name
        assert weight.grad.any(), parameter_name


def test_target_frames_are_all_but_the_first():
    target = draw_target_frames(2000, 5, step_generator(0, 0))
    counts = torch.bincount(target, minlength=5)
    assert counts[0] == 0
    assert counts[1:].min() > 400


def test_still_image_is_learnt_at_frame_zero():
    assert draw_target_frames(3, 1, step_generator(0, 0)).tolist() == [0, 0, 0]


def test_hidden_share_follows_the_truncated_normal():
    counts = draw_hidden_counts(20_000, 1000, (0.7, 1.0, 0.25), step_generator(0, 0)).float() / 1000
    assert counts.min() >= 0.7
    assert counts.max() <= 1.0
    # Mean of a normal (1, 0.25) truncated to [0.7, 1]: 1 - 0.25 (phi(0) - phi(1.2)) / (Phi(0) - Phi(-1.2)).
    assert counts.mean().item() == pytest.approx(0.867, abs=0.003)


def test_token_mask_hides_exactly_the_count():
    counts = torch.tensor([0, 3, 16])
    assert draw_token_mask(counts, 16, step_generator(0, 0)).sum(1).tolist() == [0, 3, 16]


def test_every_learnt_frame_has_a_token_to_learn():
    counts = draw_hidden_counts(1000, 4, (0.01, 0.1, 0.05), step_generator(0, 0))
    assert counts.min() == 1


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_clip_that_is_dropped_is_learnt_without_its_caption_and_its_conditions(params, captions, probability):
    model = lively_model(dataclasses.replace(params.model, conditions=("motion",)))
    train = objective(params, "all_frames", cond_drop_prob=probability, condition_drop_prob=0.0)
    motion, full = torch.tensor([1.0, 5.0, 9.0]), torch.ones_like(captions[1])

    def loss(text, values):
        return model.loss(Clips(clips(), text, full, {"motion": values}), train, step_generator(0, 0))

    before = loss(captions[0], motion)
    assert torch.equal(loss(captions[0] + 1, motion), before) == (probability == 1)
    assert torch.equal(loss(captions[0], motion + 7), before) == (probability == 1)


@pytest.mark.parametrize(("name", "values"), [(HISTORY_NOISE, [0.1, 0.15, 0.2]), ("motion", [2.0, 4.0, 8.0])])
def test_conditions_tell_apart_numbers_of_their_usual_size(name, values):
    torch.manual_seed(0)
    vectors = ScalarEmbed(name, 64)(torch.tensor(values))
    apart = (vectors[1:] - vectors[:-1]).norm(dim=1) / vectors[1:].norm(dim=1)
    assert apart.min() > 0.1

"""What each choice of generation does to a clip: one that is left out, or turned round, shows here."""

import dataclasses
import itertools
import math

import pytest
import torch

from tests.conftest import lively_model
from videomar.compute.seeding import step_generator
from videomar.model.conditions import HISTORY_NOISE
from videomar.model.generation import hidden_after
from videomar.model.patchify import patchify

GRID = 6, 8
LEVEL = 0.3


@pytest.fixture
def sampling(params):
    return dataclasses.replace(
        params.sample, num_unmask_steps=6, num_diffusion_steps=2, final_diffusion_steps=2, cfg_scale=1.0
    )


def context(frames=1, grid=GRID):
    return torch.randn(3, 4, frames, *grid, generator=step_generator(5, 0))


def passes_over(model):
    """Frames, and hidden vectors of the first three rows, of every pass of the trunk from here on."""
    passes, run = [], model.trunk.forward_tokens

    def kept(frames, *others):
        passes.append((frames, run(frames, *others)))
        return passes[-1][1]

    model.trunk.forward_tokens = kept
    return passes


@pytest.mark.parametrize("unmask_steps", [1, 9])
def test_frame_is_generated_at_its_own_time_and_place(params, captions, sampling, unmask_steps):
    """The first pass over each new frame is the one that training makes, without a cache, over the clip.

    So the times and places of the rotary embedding are those of training; nine passes are run as recorded.
    """
    model = lively_model(params.model)
    asked = dataclasses.replace(sampling, num_unmask_steps=unmask_steps, clamp=1e9)
    passes = passes_over(model)
    clip = model.generate(context(2), 6, *captions, asked, step_generator(0, 0))
    first = [hidden[:3, 0] for frames, hidden in passes if frames.token_mask.all()]
    del model.trunk.forward_tokens
    assert len(first) == 4
    for index, ours in enumerate(first, 2):
        token_mask = torch.zeros(3, index + 1, GRID[0] * GRID[1], dtype=torch.bool)
        token_mask[:, index] = True
        whole = model.trunk(clip[:, :, : index + 1], token_mask, *captions)
        assert (ours - whole[:, index]).abs().max() < 1e-4, index
        elsewhere = model.trunk(clip[:, :, 1 : index + 1], token_mask[:, 1:], *captions)
        assert (ours - elsewhere[:, index - 1]).abs().max() > 1e-2, "else times could be any"


def test_guidance_grows_with_what_is_revealed_up_to_its_scale(model, captions, sampling):
    asked = dataclasses.replace(sampling, cfg_scale=5.0, cfg_from=0.0)
    weights, revealed, draw = [], [], model.head.sample

    def kept(guided, *others):
        weights.append(guided.weight)
        revealed.append(guided.hidden.shape[1])
        return draw(guided, *others)

    model.head.sample = kept
    model.generate(context(), 2, *captions, asked, step_generator(0, 0))
    assert weights == sorted(weights)
    assert weights[0] < 1.5
    assert weights[-1] == pytest.approx(5.0)
    # Twice as many tokens in a pass make the weight grow twice as much.
    grown = [after - before for before, after in itertools.pairwise([1, *weights])]
    growth = [gain / count for gain, count in zip(grown, revealed, strict=True)]
    assert growth == pytest.approx([4.0 / sum(revealed)] * len(growth))


def test_guidance_goes_away_from_the_null_text_and_not_towards_it(model, captions, sampling):
    """With one step of the head what it draws is linear in the weight: beyond the caption's own draw."""
    asked = dataclasses.replace(sampling, num_unmask_steps=1, num_diffusion_steps=1, final_diffusion_steps=1)
    nothing = torch.zeros_like(captions[1])

    def clip(scale, mask):
        changed = dataclasses.replace(asked, cfg_scale=scale, clamp=1e9)
        made = model.generate(context(), 2, captions[0], mask, changed, step_generator(0, 0))
        return made[:2, :, 1]  # the third caption is empty

    plain, null, strong = clip(1.0, captions[1]), clip(1.0, nothing), clip(3.0, captions[1])
    assert torch.allclose(strong - null, 3.0 * (plain - null), atol=1e-3)
    assert (plain - null).abs().max() > 1e-2


def test_null_branch_knows_no_condition_either(params, captions, sampling):
    """As in training, which drops captions and conditions together."""
    model = lively_model(dataclasses.replace(params.model, conditions=("motion",)))
    asked = dataclasses.replace(
        sampling, num_unmask_steps=1, num_diffusion_steps=1, final_diffusion_steps=1, motion=30.0, clamp=1e9
    )

    def clip(scale, motion, mask):
        changed = dataclasses.replace(asked, cfg_scale=scale, motion=motion)
        return model.generate(context(), 2, captions[0], mask, changed, step_generator(0, 0))[:2, :, 1]

    null = clip(1.0, None, torch.zeros_like(captions[1]))
    plain, strong = clip(1.0, 30.0, captions[1]), clip(3.0, 30.0, captions[1])
    assert torch.allclose(strong - null, 3.0 * (plain - null), atol=1e-3)


def test_later_frames_see_generated_ones_with_noise_of_the_level_that_they_are_given(
    params, captions, sampling
):
    model = lively_model(dataclasses.replace(params.model, conditions=(HISTORY_NOISE,)))
    asked = dataclasses.replace(sampling, num_unmask_steps=1, history_noise=LEVEL, clamp=1e9)
    passes = passes_over(model)
    clip = model.generate(context(2, (24, 32)), 5, *captions, asked, step_generator(0, 0))
    history = [frames for frames, _ in passes if not frames.token_mask.any()]
    made = patchify(clip, 1)
    assert [float(frames.noise_levels) for frames in history] == pytest.approx([0.0, 0.0, LEVEL, LEVEL])
    for index, frames in enumerate(history):
        seen = frames.tokens[:3, 0]
        if index < 2:
            assert torch.equal(seen, made[:, index]), "what is given is seen as it is"
            continue
        noise = (seen - (1 - LEVEL) * made[:, index]) / LEVEL
        assert noise.std() == pytest.approx(1.0, abs=0.05)
        assert noise.mean() == pytest.approx(0.0, abs=0.05)
        correlation = torch.corrcoef(torch.stack([noise.flatten(), made[:, index].flatten()]))[0, 1]
        assert abs(correlation) < 0.05
        assert not torch.equal(noise[0], noise[1]), "each clip has noise of its own"


def test_noise_of_history_is_seen_even_by_a_model_that_ignores_its_level(params, captions, sampling):
    model = lively_model(dataclasses.replace(params.model, conditions=(HISTORY_NOISE,)))
    for weight in model.trunk.conditions[HISTORY_NOISE].parameters():
        torch.nn.init.zeros_(weight)
    clips = [
        model.generate(
            context(), 4, *captions, dataclasses.replace(sampling, history_noise=level), step_generator(0, 0)
        )
        for level in (0.0, LEVEL)
    ]
    assert torch.equal(clips[0][:, :, :2], clips[1][:, :, :2])
    assert not torch.allclose(clips[0][:, :, 2], clips[1][:, :, 2], atol=1e-2)


def test_tokens_are_revealed_along_a_quarter_of_a_cosine():
    hidden, shares = 10_000, []
    for step in range(12):
        hidden = hidden_after(step, 12, 10_000, hidden)
        shares.append(hidden / 10_000)
    third, half, two_thirds = (shares[passes - 1] for passes in (4, 6, 8))
    assert third == pytest.approx(math.sqrt(3) / 2, abs=1e-3)
    assert half == pytest.approx(math.sqrt(2) / 2, abs=1e-3)
    assert two_thirds == pytest.approx(0.5, abs=1e-3)
    assert shares[-1] == 0


def test_order_of_the_tokens_is_drawn_for_each_clip(model, captions, sampling):
    """Without noise the order alone is left to chance; it shows because later tokens see earlier ones."""
    cold = dataclasses.replace(sampling, temperature=0.0, final_temperature=0.0)
    same = [part[:1].expand(3, *part.shape[1:]) for part in (context(), *captions)]
    first, other = (model.generate(same[0], 2, *same[1:], cold, step_generator(s, 0)) for s in (0, 1))
    assert not torch.allclose(first[0], other[0], atol=1e-3)
    assert not torch.allclose(first[0], first[1], atol=1e-3)

import dataclasses

import pytest
import torch

from benchmarks import methods
from benchmarks.methods import METHODS
from tests.conftest import lively_model
from videomar.compute.seeding import step_generator
from videomar.model import videomar
from videomar.model.objective import Clips
from videomar.model.patchify import patchify
from videomar.model.transformer import Trunk
from videomar.sampling import sample, tasks
from videomar.training import micro_batches

SHAPE = (64, 5, 16)


@pytest.fixture
def plain(params):
    """Without residual, feed and conditions, which whole clips have no use for."""
    return dataclasses.replace(params.model, residual=False, feed_previous=False, conditions=())


def clips_of(batch=3, frames=4):
    noise = step_generator(1, 0)
    latents = torch.randn(batch, 4, frames, 3, 3, generator=noise)
    text = torch.randn(batch, 5, 6, generator=noise)
    return Clips(latents, text, torch.ones(batch, 5, dtype=torch.bool))


def test_a_frame_is_hidden_in_part_and_all_after_it_whole(params):
    mask = methods.later_frames(SHAPE, params.train, step_generator(0, 0)).token_mask
    shares = mask.float().mean(2)
    first = (shares > 0).int().argmax(1)  # the frame that is learnt
    assert set(first.tolist()) == {1, 2, 3, 4}
    assert (shares.gather(1, first[:, None]) >= params.train.mask_ratio_min).all()
    later = torch.arange(SHAPE[1]) > first[:, None]
    assert (shares[later] == 1).all()
    assert (shares.gather(1, first[:, None]) < 1).sum() > 0


def test_a_share_of_all_tokens_after_the_given_frames_is_hidden(params):
    hidden = methods.whole_clip(SHAPE, params.train, step_generator(0, 0))
    by_frame = hidden.token_mask.float().mean(2)
    assert (by_frame[:, 0] == 0).all()
    given = 1 + (by_frame[:, 1] == 0).int()
    assert 0.3 < (given == 2).float().mean() < 0.7
    shares = by_frame.sum(1) / (SHAPE[1] - given)
    assert (shares >= params.train.mask_ratio_min).all()
    assert torch.equal(hidden.places, hidden.token_mask.flatten().nonzero().squeeze(1))


@pytest.mark.parametrize(("name", "sees_later"), [("later_frames", False), ("whole_clip", True)])
def test_what_a_frame_sees_of_later_ones(plain, params, name, sees_later):
    model, grid, noise = lively_model(plain), (3, 3), step_generator(2, 0)
    tokens = patchify(clips_of().latents, 1)
    with METHODS[name].applied():
        hidden = videomar.draw_hidden(tokens.shape, params.train, step_generator(3, 0))
        hidden = hidden._replace(token_mask=torch.zeros_like(hidden.token_mask))
        conditioning = model.trunk.encode_text(clips_of().text, clips_of().text_mask, {})
        found = [
            model.trunk.forward_tokens(
                videomar.draw_frames(values, grid, params.train, noise, hidden), conditioning
            )[:, 1]
            for values in (tokens, torch.cat([tokens[:, :-1], -tokens[:, -1:]], 1))
        ]
    assert torch.equal(*found) is not sees_later


@pytest.mark.parametrize("name", ["later_frames", "whole_clip"])
def test_a_network_learns_by_a_method_and_nothing_of_it_stays(plain, params, name):
    before = videomar.draw_hidden, videomar.draw_frames, videomar.generate_frames, micro_batches.draw_hidden
    model, losses = lively_model(plain), []
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    with METHODS[name].applied():
        assert videomar.draw_hidden is micro_batches.draw_hidden is not before[0]
        for step in range(60):
            optimizer.zero_grad()
            loss = model.loss(clips_of(), params.train, step_generator(4, step))
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    after = videomar.draw_hidden, videomar.draw_frames, videomar.generate_frames, micro_batches.draw_hidden
    assert after == before


def test_a_clip_is_unmasked_as_a_whole_in_as_many_passes_as_frame_by_frame(plain, params, monkeypatch):
    model, clips = lively_model(plain).eval(), clips_of()
    sampling = dataclasses.replace(params.sample, num_unmask_steps=2, cfg_scale=1.0, clamp=30.0)

    def made(seed):
        noise = [step_generator(seed, row) for row in range(3)]
        return model.generate(clips.latents[:, :, :2], 6, clips.text, clips.text_mask, sampling, noise)

    with METHODS["whole_clip"].applied():
        first, again, other = made(0), made(0), made(1)
        passes, forward = [], Trunk.forward_tokens
        monkeypatch.setattr(
            Trunk, "forward_tokens", lambda *given: passes.append(given[1]) or forward(*given)
        )
        made(0)
    assert len(passes) == 2 * 4
    # What is given is always shown, and all tokens of new frames are hidden at first.
    assert not any(frames.token_mask[:, :2].any() for frames in passes)
    assert passes[0].token_mask[:, 2:].all()
    assert all(torch.equal(frames.tokens[:, :2], patchify(clips.latents[:, :, :2], 1)) for frames in passes)
    assert first.shape == (3, 4, 6, 3, 3)
    assert torch.equal(first, again)
    # Every token of every new frame was drawn.
    assert ((first != other).flatten(3).all(3)[:, :, 2:]).all()


def test_clips_of_other_sizes():
    large = tasks.Task("image_large", tasks.IMAGE, stretch="large")
    with METHODS["twice_the_size"].applied():
        assert large.scale == 2
    with METHODS["twice_as_wide"].applied():
        assert sample._larger_size(large, (17, 32, 48), None) == (32, 96)
    assert large.scale == tasks.LARGER == 1.5

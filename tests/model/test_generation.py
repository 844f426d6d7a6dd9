import dataclasses

import pytest
import torch

from videomar.runtime import step_generator


@pytest.fixture
def sampling(params):
    return dataclasses.replace(params.sample, num_unmask_steps=3, num_diffusion_steps=4, cfg_scale=1.0)


def context(frames=1):
    return torch.randn(3, 4, frames, 2, 3, generator=step_generator(5, 0))


def test_generate_continues_the_context_unchanged(model, captions, sampling):
    given = context(2)
    clip = model.generate(given, 4, *captions, sampling, step_generator(0, 0))
    assert clip.shape == (3, 4, 4, 2, 3)
    assert torch.equal(clip[:, :, :2], given)
    assert torch.isfinite(clip).all()


def test_generate_is_a_function_of_the_generator(model, captions, sampling):
    first, again, other = (
        model.generate(context(), 3, *captions, sampling, step_generator(seed, 0)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_guidance_of_nearly_one_is_no_guidance(model, captions, sampling):
    plain = model.generate(context(), 3, *captions, sampling, step_generator(0, 0))
    nearly = dataclasses.replace(sampling, cfg_scale=1 + 1e-9)
    guided = model.generate(context(), 3, *captions, nearly, step_generator(0, 0))
    assert torch.allclose(plain, guided, atol=1e-5)


def test_guidance_changes_clips_with_a_caption_only(model, captions, sampling):
    plain = model.generate(context(), 3, *captions, sampling, step_generator(0, 0))
    strong = dataclasses.replace(sampling, cfg_scale=3.0)
    guided = model.generate(context(), 3, *captions, strong, step_generator(0, 0))
    assert not torch.allclose(plain[0], guided[0], atol=1e-3)
    assert torch.allclose(plain[2], guided[2], atol=1e-5)  # its caption is empty


def test_temperature_zero_draws_no_noise(model, captions, sampling):
    cold = dataclasses.replace(sampling, temperature=0.0, final_temperature=0.0, num_unmask_steps=1)
    first, other = (model.generate(context(), 3, *captions, cold, step_generator(s, 0)) for s in (0, 1))
    assert torch.equal(first, other)


def test_clamp_bounds_all_but_the_first_generated_frame(model, captions, sampling):
    tight = dataclasses.replace(sampling, clamp=0.01)
    clip = model.generate(context(), 4, *captions, tight, step_generator(0, 0))
    assert clip[:, :, 2:].abs().max() <= 0.01
    assert clip[:, :, 1].abs().max() > 0.01


@pytest.mark.parametrize("frames", [3, 4])
def test_context_that_fills_the_clip_is_refused(model, captions, sampling, frames):
    with pytest.raises(ValueError, match=f"got {frames} latent frames, expected 1 to 2"):
        model.generate(context(frames), 3, *captions, sampling, step_generator(0, 0))

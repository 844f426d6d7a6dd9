"""What holds for autoencoders of diffusers beyond the laws of all tokenizers, with small random networks."""

import pytest
import torch

from tests.encoders.conftest import small_autoencoder
from videomar.compute.seeding import step_generator
from videomar.encoders.diffusers_video import load_diffusers_video
from videomar.encoders.load import load_tokenizer
from videomar.encoders.tokenizer import with_moments
from videomar.errors import CheckpointError


def video(tokenizer, num_latent_frames=3):
    shape = (2, 3, tokenizer.num_frames(num_latent_frames), 16, 24)
    return torch.rand(shape, generator=step_generator(1, 0)) * 2 - 1


def written(folder, kind, **changed):
    small_autoencoder(kind, **changed).save_pretrained(folder)
    return folder


def column(*values):
    return torch.tensor(values).view(1, -1, 1, 1, 1)


@pytest.mark.parametrize("kind", ["wan", "ltx"])
def test_latents_are_those_of_the_class_normalised_as_its_pipeline_does(kind, tokenizer):
    clip, model = video(tokenizer), tokenizer.model
    mode = model.encode(clip).latent_dist.mode()
    if kind == "wan":
        mode = (mode - column(0.1, 0.2, 0.3, 0.4)) / column(1.0, 2.0, 3.0, 4.0)
    assert torch.allclose(tokenizer.encode(clip), mode, rtol=0, atol=1e-6)
    raw = tokenizer.encode(clip) * tokenizer.latent_std.view(1, -1, 1, 1, 1)
    raw += tokenizer.latent_mean.view(1, -1, 1, 1, 1)
    assert torch.allclose(tokenizer.decode(tokenizer.encode(clip)), model.decode(raw).sample.clamp(-1, 1))


@pytest.mark.parametrize("kind", ["cogvideox"])
def test_cogvideox_equals_its_class_for_an_image(tokenizer):
    """Longer videos it takes in larger pieces, over which its norms mix the future into the past."""
    clip, model = video(tokenizer), tokenizer.model
    image = clip[:, :, :1]
    latents = tokenizer.encode(image)
    assert torch.equal(latents, model.encode(image).latent_dist.mode() / tokenizer.latent_std[0])
    shown = model.decode(latents * tokenizer.latent_std[0]).sample.clamp(-1, 1)
    assert torch.equal(tokenizer.decode(latents), shown)
    own = model.encode(clip).latent_dist.mode() * 0.7
    assert not torch.allclose(own[:, :, :1], latents, atol=1e-3)


@pytest.mark.parametrize("kind", ["wan", "ltx", "cogvideox"])
def test_moments_are_normalised_with_the_latents(kind, tokenizer):
    clip = video(tokenizer)
    mean, std = with_moments(tokenizer).encode_moments(clip)
    assert torch.equal(mean, tokenizer.encode(clip))
    assert std.shape == mean.shape
    if kind != "cogvideox":  # which is encoded in other pieces here
        expected = tokenizer.model.encode(clip).latent_dist.std / tokenizer.latent_std.view(1, -1, 1, 1, 1)
        assert torch.allclose(std, expected, rtol=1e-5)


def test_scaling_factor_and_statistics_act_together(tmp_path):
    """As the pipelines of LTX and Mochi: (latents - mean) * scaling_factor / std."""
    folder = written(tmp_path / "mochi", "mochi", scaling_factor=0.5)
    mochi = load_tokenizer(folder)
    assert (mochi.time_stride, mochi.space_stride) == (6, 8)
    assert torch.allclose(mochi.latent_std, torch.tensor([2.0, 4.0, 6.0, 8.0]))
    assert torch.allclose(mochi.latent_mean, torch.tensor([0.1, 0.2, 0.3, 0.4]))


def test_released_ltx_decodes_without_chance(tmp_path):
    """Its decoder looks ahead and takes a time; its encoder is causal, as that of all."""
    folder = written(tmp_path / "ltx", "ltx", decoder_causal=False, timestep_conditioning=True)
    ltx = load_tokenizer(folder)
    clip = video(ltx)
    latents = ltx.encode(clip)
    assert torch.equal(ltx.decode(latents), ltx.decode(latents))
    assert torch.allclose(latents[:, :, :1], ltx.encode(clip[:, :, :1]), atol=1e-5)
    noisy = written(tmp_path / "noisy", "ltx", decoder_inject_noise=(True, False, False, False))
    with pytest.raises(CheckpointError, match="draws noise, expected a decoder that draws no noise"):
        load_tokenizer(noisy)


@pytest.mark.parametrize(
    ("kind", "changed", "problem"),
    [
        ("hunyuan", {}, "AutoencoderKLHunyuanVideo: latents of the first picture that depend on later ones"),
        ("ltx", {"encoder_causal": False}, "latents of the first picture that depend on later ones"),
        ("image", {}, "got AutoencoderKL: .* expected a causal video autoencoder, such as AutoencoderKLWan"),
        (
            "wan",
            {"scale_factor_spatial": 16},
            r"latents \(1, 4, 2, 4, 4\) of video .* and 16 pixels",
        ),
        ("wan", {"latents_mean": [0.0]}, "statistics of 1 and 4 channels for latents of 4"),
    ],
)
def test_what_is_no_causal_video_autoencoder_is_refused(kind, changed, problem, tmp_path):
    with pytest.raises(CheckpointError, match=problem):
        load_diffusers_video(written(tmp_path, kind, **changed))


def test_strides_that_are_not_stated_are_measured(tmp_path):
    folder = written(tmp_path, "wan", scale_factor_temporal=None)
    wan = load_tokenizer(folder)
    assert (wan.time_stride, wan.space_stride, wan.channels) == (4, 8, 4)

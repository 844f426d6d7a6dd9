"""What holds for our tokenizer beyond the laws of all."""

import dataclasses
import json

import pytest
import torch

from tests.encoders.conftest import redraw
from videomar.compute.seeding import step_generator
from videomar.encoders.causal import CausalTokenizer, load_causal, save_tokenizer, start_from_pca


@pytest.fixture
def tokenizer(params):
    """Random weights everywhere, so that a leak in time would show."""
    return redraw(CausalTokenizer(params.tokenizer))


def video(frames=9, batch_size=2):
    return torch.rand(batch_size, 3, frames, 16, 24, generator=step_generator(1, 0)) * 2 - 1


def test_encoder_and_decoder_are_causal_to_the_bit(tokenizer):
    clip = video()
    changed = clip.clone()
    changed[:, :, 5:] = 0.5
    assert torch.equal(tokenizer.encode(clip)[:, :, :2], tokenizer.encode(changed)[:, :, :2])
    latents = tokenizer.encode(clip)
    later = latents.clone()
    later[:, :, 2:] += 1
    assert torch.equal(tokenizer.decode(latents)[:, :, :5], tokenizer.decode(later)[:, :, :5])


def test_latents_are_the_mean_of_the_moments(tokenizer):
    mean, log_variance = tokenizer.moments(video())
    assert torch.equal(tokenizer.encode(video()), mean)
    assert log_variance.shape == mean.shape
    assert log_variance.std() > 0


def test_normalised_deviations_are_those_of_the_moments(tokenizer):
    """Against float64, with statistics that are not trivial; the means are `encode`'s to the bit."""
    tokenizer.latent_mean += torch.arange(4.0)
    tokenizer.latent_std *= 1 + torch.arange(4.0)
    scale = tokenizer.latent_std.double()[:, None, None, None]
    for chunk_frames in (1, 2, 8):
        mean, std = tokenizer.encode_moments(video(), chunk_frames)
        expected = (tokenizer.moments(video())[1].double() / 2).exp() / scale
        assert torch.equal(mean, tokenizer.encode(video(), chunk_frames))
        assert torch.allclose(std.double(), expected, rtol=1e-5, atol=0)


def test_pca_start_is_the_best_linear_code(params):
    """Clips that lie in four directions of patch space come back exactly through four channels."""
    generator = step_generator(0, 0)
    directions = torch.randn(4, 3, 1, 8, 8, generator=generator).repeat_interleave(4, 2)
    weights = torch.randn(8, 4, 1, 2, 2, generator=generator)
    frames = torch.einsum("bktij,kcfpq->bctfipjq", weights, directions).reshape(8, 3, 4, 16, 16) * 0.1
    coder = CausalTokenizer(params.tokenizer)
    clip = frames[:, :, :1]
    start_from_pca(coder, clip)
    assert torch.allclose(coder.reconstruct(coder.moments(clip)[0]), clip, atol=1e-3)


def test_hash_depends_on_weights_and_shape_alone(tokenizer, params, tmp_path):
    """How a tokenizer was trained does not change the latents that its weights make."""
    other = CausalTokenizer(dataclasses.replace(params.tokenizer, steps=7, seed=7))
    other.load_state_dict(tokenizer.state_dict())
    assert other.content_hash() == tokenizer.content_hash()
    save_tokenizer(tokenizer, tmp_path)
    stored = json.loads((tmp_path / "tokenizer.json").read_text())
    assert set(stored) == {"channels", "time_stride", "space_stride", "hidden_size", "depth"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored | {"steps": 7}))
    assert load_causal(tmp_path).content_hash() == tokenizer.content_hash()
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-3
    assert other.content_hash() != tokenizer.content_hash()

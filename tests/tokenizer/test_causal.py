import pytest
import torch

from videomar.errors import CheckpointError, DataError
from videomar.tokenizer.causal import (
    CausalTokenizer,
    load_tokenizer,
    save_tokenizer,
    start_from_pca,
    to_pictures,
    to_unit_range,
)
from videomar.runtime import step_generator


@pytest.fixture
def tokenizer(params):
    """Random weights everywhere, so that a leak in time would show."""
    coder = CausalTokenizer(params.tokenizer)
    generator = step_generator(0, 0)
    with torch.no_grad():
        for weight in coder.parameters():
            weight.normal_(0, 0.1, generator=generator)
    return coder.eval()


def video(frames=9, batch_size=2):
    return torch.rand(batch_size, 3, frames, 16, 24, generator=step_generator(1, 0)) * 2 - 1


def test_latents_have_the_stated_shape(tokenizer):
    latents = tokenizer.encode(video())
    assert latents.shape == (2, 4, 3, 2, 3)
    assert tokenizer.decode(latents).shape == (2, 3, 9, 16, 24)


def test_encoder_and_decoder_are_causal(tokenizer):
    clip = video()
    changed = clip.clone()
    changed[:, :, 5:] = 0.5
    assert torch.equal(tokenizer.encode(clip)[:, :, :2], tokenizer.encode(changed)[:, :, :2])
    latents = tokenizer.encode(clip)
    later = latents.clone()
    later[:, :, 2:] += 1
    assert torch.equal(tokenizer.decode(latents)[:, :, :5], tokenizer.decode(later)[:, :, :5])


def test_image_is_a_one_frame_video(tokenizer):
    clip = video()
    assert torch.allclose(tokenizer.encode(clip[:, :, :1]), tokenizer.encode(clip)[:, :, :1], atol=1e-6)


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


def test_normalised_latents_use_the_stored_statistics(tokenizer):
    plain = tokenizer.encode(video())
    tokenizer.latent_mean += 1
    tokenizer.latent_std *= 2
    assert torch.allclose(tokenizer.encode(video()), (plain - 1) / 2, atol=1e-6)


def test_save_and_load_give_the_same_bits_and_hash(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path / "coder")
    loaded = load_tokenizer(tmp_path / "coder")
    assert loaded.content_hash() == tokenizer.content_hash()
    assert torch.equal(loaded.encode(video()), tokenizer.encode(video()))


def test_hash_changes_with_one_weight(tokenizer):
    before = tokenizer.content_hash()
    with torch.no_grad():
        next(tokenizer.parameters()).view(-1)[0] += 1e-3
    assert tokenizer.content_hash() != before


def test_pictures_survive_the_unit_range():
    pictures = torch.randint(0, 256, (2, 3, 4, 5, 3), dtype=torch.uint8)
    assert torch.equal(to_pictures(to_unit_range(pictures)), pictures)


def test_sizes_that_do_not_fit_are_refused(tokenizer):
    with pytest.raises(DataError, match="got 8 frames, expected 1 . a multiple of the time stride 4"):
        tokenizer.encode(video(8))
    with pytest.raises(DataError, match="got 20x16 pixels, expected multiples of the stride 8"):
        tokenizer.encode(video()[..., :20])


def test_missing_tokenizer_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no tokenizer\.safetensors"):
        load_tokenizer(tmp_path)

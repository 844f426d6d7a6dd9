"""Laws that every tokenizer keeps: ours, TorchScript files, and classes of diffusers."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.encoders.conftest import STRIDES, WITH_MOMENTS
from videomar.compute.seeding import step_generator
from videomar.encoders.load import copy_tokenizer, load_tokenizer
from videomar.encoders.tokenizer import to_pictures, to_unit_range, with_moments
from videomar.errors import DataError

TOLERANCE = {"ours": 1e-6, "torchscript": 0.0}
TOLERANCE |= dict.fromkeys(("cosmos8", "cosmos16", "wan", "ltx", "cogvideox"), 1e-5)


def video(tokenizer, num_latent_frames=3, batch_size=2):
    shape = (batch_size, 3, tokenizer.num_frames(num_latent_frames), 32, 48)
    return torch.rand(shape, generator=step_generator(1, 0)) * 2 - 1


def latents(tokenizer, num_latent_frames, batch_size=1):
    shape = (batch_size, 4, num_latent_frames, 32 // tokenizer.space_stride, 48 // tokenizer.space_stride)
    return torch.randn(shape, generator=step_generator(2, 0))


def largest_input(tokenizer, method, given, chunk_frames):
    """Numbers in the largest input of any layer in `method`; attention over time is left out."""
    sizes = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].numel()))
        for name, layer in tokenizer.named_modules()
        if name and "temp_attentions" not in name
    ]
    getattr(tokenizer, method)(given, chunk_frames)
    for hook in hooks:
        hook.remove()
    return max(sizes)


def test_latents_and_video_have_the_stated_shapes(kind, tokenizer):
    time_stride, space_stride = STRIDES[kind]
    assert (tokenizer.time_stride, tokenizer.space_stride, tokenizer.channels) == (*STRIDES[kind], 4)
    clip = video(tokenizer)
    encoded = tokenizer.encode(clip)
    assert clip.shape[2] == 1 + 2 * time_stride
    assert encoded.shape == (2, 4, 3, 32 // space_stride, 48 // space_stride)
    decoded = tokenizer.decode(encoded)
    assert decoded.shape == clip.shape
    assert decoded.abs().max() <= 1
    assert tokenizer.latent_mean.shape == tokenizer.latent_std.shape == (4,)


def test_later_frames_leave_earlier_ones_unchanged(kind, tokenizer):
    clip = video(tokenizer)
    changed = clip.clone()
    changed[:, :, tokenizer.num_frames(2) :] *= -1
    one, other = tokenizer.encode(clip), tokenizer.encode(changed)
    assert torch.allclose(one[:, :, :2], other[:, :, :2], rtol=0, atol=TOLERANCE[kind])
    assert not torch.allclose(one[:, :, 2:], other[:, :, 2:], atol=1e-2)
    changed = one.clone()
    changed[:, :, 2:] += 1
    shown = tokenizer.num_frames(2)
    one, other = tokenizer.decode(one), tokenizer.decode(changed)
    assert torch.allclose(one[:, :, :shown], other[:, :, :shown], rtol=0, atol=TOLERANCE[kind])
    assert not torch.allclose(one[:, :, shown:], other[:, :, shown:], atol=1e-2)


def test_image_is_a_one_frame_video(tokenizer):
    clip = video(tokenizer)
    image = tokenizer.encode(clip[:, :, :1])
    assert torch.allclose(image, tokenizer.encode(clip)[:, :, :1], atol=1e-5)
    assert tokenizer.decode(image).shape == clip[:, :, :1].shape


def test_latents_are_normalised_by_the_stored_statistics(tokenizer):
    clip = video(tokenizer)
    mean, std = tokenizer.latent_mean.clone(), tokenizer.latent_std.clone()
    own = (mean[:, None, None, None], std[:, None, None, None])
    raw, decoded = tokenizer.encode(clip) * own[1] + own[0], tokenizer.decode(tokenizer.encode(clip))
    tokenizer.latent_mean += torch.arange(4.0)
    tokenizer.latent_std *= 1 + torch.arange(4.0)
    columns = (tokenizer.latent_mean[:, None, None, None], tokenizer.latent_std[:, None, None, None])
    assert torch.allclose(tokenizer.encode(clip), (raw - columns[0]) / columns[1], atol=1e-5)
    assert torch.allclose(tokenizer.decode(tokenizer.encode(clip)), decoded, atol=1e-4)


def test_cosmos_latents_are_halved(folders):
    """As VideoMAR does (arXiv 2506.14168)."""
    cosmos = load_tokenizer(folders["cosmos16"])
    clip = video(cosmos)
    assert torch.equal(cosmos.encode(clip), cosmos.model.encode(clip).latent_dist.mode() * 0.5)


@pytest.mark.parametrize("chunk_frames", [1, 2, 3])
def test_chunks_give_what_the_whole_gives(kind, tokenizer, chunk_frames, measured):
    """For Cosmos against the model's own encode and decode in one piece."""
    clip, given = video(tokenizer, 7, 1), latents(tokenizer, 7)
    whole = tokenizer.encode(clip, 7), tokenizer.decode(given, 7)
    if kind.startswith("cosmos"):
        own = tokenizer.model.encode(clip).latent_dist.mode() / 2
        assert torch.equal(own, whole[0])
        assert torch.equal(tokenizer.model.decode(given * 2).sample.clamp(-1, 1), whole[1])
    parts = tokenizer.encode(clip, chunk_frames), tokenizer.decode(given, chunk_frames)
    for what, one, other in zip(("encoded", "decoded"), whole, parts, strict=True):
        error = (one - other).abs().max()
        measured(f"tokenizer {kind}: {what} by chunks = in one piece", error, TOLERANCE[kind])


@pytest.mark.parametrize("kind", ["ours", "cosmos8", "cosmos16"])
def test_past_of_a_chunk_matters(tokenizer):
    """Or the law above would hold for chunks that know nothing of each other."""
    given = latents(tokenizer, 6)
    late = tokenizer.decode(given)[:, :, tokenizer.num_frames(4) - 1 :]
    alone = tokenizer.decode(given[:, :, 3:])
    assert (late - alone).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["ours", "cosmos8", "cosmos16"])
def test_largest_layer_input_does_not_grow_with_the_length(tokenizer):
    for method, given in (("decode", latents), ("encode", video)):
        six, twelve = given(tokenizer, 6, 1), given(tokenizer, 12, 1)
        most = largest_input(tokenizer, method, six, 2)
        assert largest_input(tokenizer, method, twelve, 2) == most
        assert largest_input(tokenizer, method, twelve, 12) > 2 * most


def test_copy_gives_the_same_bits_and_hash(kind, folders, tokenizer, tmp_path):
    (tmp_path / "coder").mkdir()
    (tmp_path / "coder/tokenizer.json").write_text("left by another one")
    source = shutil.copytree(folders[kind], tmp_path / "source")
    (source / "README.md").touch()
    loaded = copy_tokenizer(source, tmp_path / "coder")
    assert {path.name for path in (tmp_path / "coder").iterdir()} == {
        path.name for path in folders[kind].iterdir()
    }
    shutil.rmtree(source)
    again = load_tokenizer(tmp_path / "coder")
    assert loaded.content_hash() == again.content_hash() == tokenizer.content_hash()
    clip = video(tokenizer)
    assert torch.equal(again.encode(clip), tokenizer.encode(clip))


def test_hash_changes_with_one_weight(kind, folders, tokenizer, tmp_path):
    changed = shutil.copytree(folders[kind], tmp_path / "coder")
    if kind == "torchscript":
        decoder = torch.jit.load(changed / "decoder.jit")
        next(decoder.parameters()).data.view(-1)[0] += 1e-3
        decoder.save(changed / "decoder.jit")
    else:
        (file,) = changed.glob("*.safetensors")
        tensors = load_file(file)
        next(tensors[name] for name in tensors if name.endswith("weight")).view(-1)[0] += 1e-3
        save_file(tensors, file, {"format": "pt"})
    assert load_tokenizer(changed).content_hash() != tokenizer.content_hash()


def test_sizes_that_do_not_fit_are_refused(tokenizer):
    clip, stride = video(tokenizer), tokenizer.space_stride
    with pytest.raises(DataError, match=f"got 44x32 pixels, expected multiples of the stride {stride}"):
        tokenizer.encode(clip[..., :44])
    rule = f"got 8 frames, expected 1 . a multiple of the time stride {tokenizer.time_stride}"
    with pytest.raises(DataError, match=rule):
        tokenizer.encode(clip[:, :, :8])
    with pytest.raises(DataError, match="got latents of 3 channels, expected 4 channels"):
        tokenizer.decode(tokenizer.encode(clip)[:, :3])


def test_tokenizer_without_distributions_says_so(kind, tokenizer):
    if kind in WITH_MOMENTS:
        assert with_moments(tokenizer) is tokenizer
        return
    rule = (
        f"encode.moments: got true and {type(tokenizer).__name__}, a plain autoencoder, expected a tokenizer"
    )
    with pytest.raises(DataError, match=rule):
        with_moments(tokenizer)


def test_pictures_survive_the_unit_range():
    pictures = torch.arange(256, dtype=torch.uint8).reshape(1, 4, 8, 8, 1).expand(2, -1, -1, -1, 3)
    assert torch.equal(to_pictures(to_unit_range(pictures)), pictures)

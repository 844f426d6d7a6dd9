"""Carry: given pictures come out as they are, and their detail stays where a clip has not changed."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.tiny_model import write_tiny_model
from videomar.compute.seeding import step_generator
from videomar.config import load_generation_params, load_params
from videomar.encoders.tokenizer import to_pictures, to_unit_range
from videomar.errors import DataError, ParamsError
from videomar.media.cover import cover
from videomar.sampling.carry import carry_detail
from videomar.sampling.generate import ClipGenerator, GenerationRequest

SCALE = 0.1
REGISTERED_BEFORE = Path(__file__).parents[1] / "fixtures/registered_before_serving/artifacts/params.yaml"


def video(*shape, seed=0):
    """Values in [-1, 1]."""
    return torch.rand(shape, generator=step_generator(seed, 0)) * 2 - 1


@pytest.fixture(scope="module")
def folder(params, tmp_path_factory):
    return write_tiny_model(params, tmp_path_factory.mktemp("model"))


def with_carry(folder, carry):
    """A model whose trained clips are long enough to be continued."""
    model = ClipGenerator(folder)
    sample, ingest = model.params.sample, model.params.ingest
    model.params = dataclasses.replace(
        model.params,
        sample=dataclasses.replace(sample, carry=carry),
        ingest=dataclasses.replace(ingest, num_frames=17),
    )
    return model


def pictures(count, height=20, width=30):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def by_loops(decoded, given, scale):
    """The formula, place by place, in float64."""
    decoded, given, out = decoded.double(), given.double(), decoded.double().clone()
    last = given.shape[2] - 1
    change = (decoded - decoded[:, :, last : last + 1]).square().mean(1)
    for clip, frame, row, column in np.ndindex(*change.shape):
        rows, columns = (slice(max(0, at - 2), at + 3) for at in (row, column))
        weight = torch.exp(-change[clip, frame, rows, columns].mean() / (2 * scale**2))
        lost = given[clip, :, last, row, column] - decoded[clip, :, last, row, column]
        out[clip, :, frame, row, column] += weight * lost
    out[:, :, : last + 1] = given
    return out.clamp(-1, 1).float()


@pytest.mark.parametrize(("num_given", "size"), [(1, (7, 6)), (3, (6, 9)), (2, (1, 3))])
def test_carry_is_its_formula(num_given, size):
    decoded = video(2, 3, 1, *size) + 0.1 * video(2, 3, 4, *size, seed=1)
    given = video(2, 3, num_given, *size, seed=2)
    carried = carry_detail(decoded, given, SCALE)
    assert torch.allclose(carried, by_loops(decoded, given, SCALE), atol=1e-5)
    assert (carried[:, :, num_given:] - decoded[:, :, num_given:]).abs().max() > 0.1


def test_still_place_becomes_the_given_picture_and_a_changed_one_stays_as_decoded():
    given = video(1, 3, 1, 16, 32)
    decoded = (given + 0.1 * video(1, 3, 1, 16, 32, seed=1)).clamp(-1, 1).repeat(1, 1, 3, 1, 1)
    decoded[:, :, 2, :, 16:] = -decoded[:, :, 2, :, 16:].sign()
    carried = carry_detail(decoded, given, SCALE)
    assert torch.allclose(carried[:, :, 1], given[:, :, 0], atol=1e-6)
    assert torch.allclose(carried[:, :, 2, :, :14], given[:, :, 0, :, :14], atol=1e-6)
    assert torch.allclose(carried[:, :, 2, :, 18:], decoded[:, :, 2, :, 18:], atol=1e-6)


@pytest.mark.parametrize("scale", [0.001, SCALE, 1.0])
def test_given_pictures_come_out_bit_by_bit(scale):
    clip = torch.from_numpy(pictures(5)[None])
    carried = carry_detail(video(1, 3, 9, 20, 30), to_unit_range(clip), scale)
    assert torch.equal(to_pictures(carried)[:, :5], clip)
    assert carried.abs().max() <= 1


def test_no_carry_is_the_decoded_video_itself():
    decoded = video(1, 3, 5, 8, 8)
    assert carry_detail(decoded, video(1, 3, 1, 8, 8), 0) is decoded


def test_later_frames_change_no_earlier_one():
    decoded, given = video(2, 3, 9, 8, 8), video(2, 3, 5, 8, 8, seed=1)
    whole = carry_detail(decoded, given, SCALE)
    for length in (5, 6, 8):
        assert torch.equal(carry_detail(decoded[:, :, :length], given, SCALE), whole[:, :, :length])


@pytest.mark.parametrize("shape", [(1, 3, 0, 8, 8), (1, 3, 6, 8, 8), (1, 3, 1, 8, 4), (2, 3, 1, 8, 8)])
def test_pictures_that_do_not_fit_are_refused(shape):
    with pytest.raises(DataError, match=r"carry: got given pictures of shape \(.*that fit the decoded"):
        carry_detail(video(1, 3, 5, 8, 8), video(*shape), SCALE)


@pytest.mark.parametrize(
    ("num_given", "wanted", "used"),
    [
        (1, {}, 1),
        (13, {"frames": 13}, 5),
        (13, {"frames": 29}, 5),  # a window has slid past the given pictures
        (1, {"size": (32, 16)}, 1),
        (6, {"size": (8, 24)}, 5),
    ],
)
def test_clip_begins_with_the_pictures_that_were_given(folder, num_given, wanted, used):
    context, plain, model = pictures(num_given), with_carry(folder, 0.0), with_carry(folder, 1.0)
    decoded, clip = plain(context, **wanted), model(context, **wanted)
    given = np.stack([cover(picture, (clip.shape[2], clip.shape[1])) for picture in context[-used:]])
    assert np.array_equal(clip[:used], given)
    assert not np.array_equal(decoded[:used], given)
    expected = carry_detail(*(to_unit_range(torch.from_numpy(part)[None]) for part in (decoded, given)), 1.0)
    # Here the decoded frames were rounded to grey levels before.
    assert np.abs(to_pictures(expected)[0].numpy().astype(int) - clip).max() <= 2
    assert np.abs(clip[used:].astype(int) - decoded[used:]).max() > 8


def test_streamed_and_partial_frames_are_those_of_the_whole_clip(folder):
    model = with_carry(folder, 1.0)
    whole = model(pictures(13), frames=21, seed=3).astype(int)
    streamed = np.stack(list(model.stream(pictures(13), frames=21, seed=3)))
    assert np.abs(streamed - whole).max() <= 1
    for clip in model.partial_clips(pictures(13), GenerationRequest(num_frames=21, seed=3)):
        assert np.abs(model.decode(clip) - whole[: clip.num_frames]).max() <= 1


def test_model_from_before_there_was_a_carry_has_none():
    for read in (load_params, load_generation_params):
        assert read(REGISTERED_BEFORE).sample.carry == 0


@pytest.mark.parametrize("carry", [-0.1, 1e-9, 1.01, float("nan"), float("inf")])
def test_carry_out_of_range_is_refused(params, carry):
    with pytest.raises(ParamsError, match=r"sample\.carry: got .*, expected 0, or 0\.001 to 1"):
        dataclasses.replace(params.sample, carry=carry)

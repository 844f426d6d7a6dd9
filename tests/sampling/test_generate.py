import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.fake_cuda import FakeCuda
from tests.support.tiny_model import write_tiny_model
from videomar import checkpoint
from videomar.errors import DataError
from videomar.media.cover import cover
from videomar.sampling.generate import ClipGenerator, GenerationRequest
from videomar.training.state import untrained


@pytest.fixture(scope="module")
def folder(params, tmp_path_factory):
    return write_tiny_model(params, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder):
    return ClipGenerator(folder)


def pictures(count, height=20, width=30):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("num_given", "wanted", "shape"),
    [
        (1, {}, (9, 16, 16, 3)),
        (1, {"frames": 21}, (21, 16, 16, 3)),
        (1, {"size": (32, 16)}, (9, 16, 32, 3)),
        (1, {"size": (8, 24), "frames": 5}, (5, 24, 8, 3)),
        (13, {}, (9, 16, 16, 3)),
    ],
)
def test_clip_has_the_length_and_size_asked_for(model, num_given, wanted, shape):
    assert model(pictures(num_given), **wanted).shape == shape


def test_clip_has_the_trained_aspect_ratio_nearest_to_the_picture(folder, model):
    """The pictures are 30 pixels wide and 20 high."""
    ingest = dataclasses.replace(model.params.ingest, aspect_ratios=("1:1", "2:1", "1:2"))
    model = ClipGenerator(folder, params=dataclasses.replace(model.params, ingest=ingest))
    assert model(pictures(1)).shape == (9, 8, 24, 3)
    assert model(pictures(1, 30, 20)).shape == (9, 24, 8, 3)
    assert model(pictures(1, 30, 30)).shape == (9, 16, 16, 3)


def test_progress_counts_frames_of_the_whole_clip(model):
    clips = model.partial_clips(pictures(13), GenerationRequest(num_frames=13))
    assert [(clip.num_frames, clip.total_frames) for clip in clips] == [(1, 13), (5, 13), (9, 13), (13, 13)]


def test_stream_yields_each_frame_of_the_clip_once(model):
    streamed = np.stack(list(model.stream(pictures(1), seed=3)))
    clip = model(pictures(1), seed=3)
    assert streamed.shape == clip.shape
    # A product of other sizes may round to the next grey.
    assert np.abs(streamed.astype(int) - clip).max() <= 1


def test_seed_decides_the_clip(model):
    first, again, other = (model(pictures(1), seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_picture_may_be_an_array_an_image_or_a_file(model, tmp_path):
    picture, file = pictures(1)[0], tmp_path / "picture ü.png"
    Image.fromarray(picture).save(file)
    expected = model(picture)
    for given in (
        picture[None],
        Image.fromarray(picture),
        tmp_path / "picture ü.png",
        str(tmp_path / "picture ü.png"),
    ):
        assert np.array_equal(model(given), expected)


@pytest.mark.parametrize(
    "given", [np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8), np.zeros((0, 8, 3), np.uint8)]
)
def test_what_is_no_picture_is_refused(model, given):
    with pytest.raises(DataError, match=r"picture: got .* of shape \(.*expected uint8 \(H, W, 3\)"):
        model(given)


def test_motion_asked_for_reaches_the_model(model):
    still, wild = (model(pictures(1), motion=motion) for motion in (0.5, 30.0))
    assert not np.array_equal(still, wild)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"size": (20, 16)}, "got 20x16 pixels, expected multiples of"),
        ({"frames": 10}, "frames: got 10, expected 1 and a multiple of 4"),
        ({"frame": 9}, "clip: got the option frame, expected frames, size, motion, seed"),
        ({"frames": 1}, "frames: got 1, .* more than the 1 given"),
    ],
)
def test_request_that_the_model_cannot_meet_is_refused_with_both_numbers(model, wanted, message):
    with pytest.raises(DataError, match=message):
        model(pictures(1), **wanted)


def test_motion_is_refused_by_a_model_that_was_not_trained_with_it(folder, model, tmp_path):
    shape = dataclasses.replace(
        model.loaded.shape, params=dataclasses.replace(model.loaded.params, conditions=())
    )
    weights = untrained(shape, 0).state_dict()
    saved = checkpoint.save(tmp_path, 0, shape, {"model": weights, "ema": weights}, {})
    deaf = ClipGenerator(checkpoint.open_model_folder(folder)._replace(checkpoint=saved))
    with pytest.raises(DataError, match="sample.motion: got 3.0, expected none"):
        deaf(pictures(1), motion=3.0)


def test_cover_fills_the_size_and_keeps_the_centre():
    picture = np.zeros((10, 40, 3), np.uint8)
    picture[:, 12:28] = 200
    assert cover(picture, (20, 20)).mean() == 200
    assert cover(picture, (80, 20)).shape == (20, 80, 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="stands for a GPU where there is none")
def test_model_goes_to_the_gpu_by_itself_and_its_clip_comes_back(folder):
    """Picture, prompt, window, decoding; of the waits none is of a pass."""
    with FakeCuda() as cuda:
        model = ClipGenerator(folder)
        assert model.device.type == "cuda"
        cuda.clear()
        clip = model(pictures(1), frames=21, motion=1.0)
        waits = dict(cuda.waits)
        assert len(list(model.stream(pictures(1), frames=9))) == 9
    assert (clip.shape, clip.dtype) == ((21, 16, 16, 3), np.uint8)
    # Picture, prompt and its mask; are they finite; seeds and the frames; the shapes of a step.
    assert waits.pop("equal") <= 2
    assert waits == {"copy from pageable memory": 3, "item": 1, "copy to the host": 2}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"frames": 10}, "frames: got 10, expected 1 and a multiple of 4 more, .*; ask for 9 or 13"),
        ({"frames": 1}, "frames: got 1, .* more than the 1 given; ask for 5"),
        ({"frames": -7}, "frames: got -7, .* ask for 5"),
        ({"size": (33, 16)}, "size: got 33x16 pixels, expected multiples of 8; ask for 32x16"),
        ({"size": (0, -8)}, "size: got 0x-8 pixels, expected multiples of 8; ask for 8x8"),
        ({"motion": float("nan")}, "motion: got nan, expected a number of at least 0"),
        ({"motion": float("inf")}, "motion: got inf"),
        ({"motion": -1.0}, "motion: got -1.0"),
    ],
)
def test_clip_that_cannot_be_is_refused_with_the_nearest_that_can(model, wanted, message):
    with pytest.raises(DataError, match=message):
        model(pictures(1), **wanted)


def test_strip_is_cut_before_it_is_scaled():
    """Scaled as a whole it would have a billion pixels."""
    strip = np.zeros((4_000_000, 1, 3), np.uint8)
    strip[2_000_000 - 8 : 2_000_000 + 8] = 255
    assert cover(strip, (16, 16)).min() == 255
    assert cover(strip.transpose(1, 0, 2), (16, 8)).min() == 255

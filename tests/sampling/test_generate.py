import dataclasses

import numpy as np
import pytest

from tests.support.tiny_model import write_tiny_model
from videomar.checkpoint import folder as checkpoint
from videomar.errors import DataError
from videomar.sampling.generate import Wish, animate, cover
from videomar.training.state import untrained


@pytest.fixture(scope="module")
def files(params, tmp_path_factory):
    return write_tiny_model(params, tmp_path_factory.mktemp("model"))


def pictures(count, height=20, width=30):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("given", "wish", "shape"),
    [
        (1, Wish(), (9, 16, 16, 3)),
        (1, Wish(num_frames=21), (21, 16, 16, 3)),
        (1, Wish(size=(32, 16)), (9, 16, 32, 3)),
        (1, Wish(size=(8, 24), num_frames=5), (5, 24, 8, 3)),
        (13, Wish(), (9, 16, 16, 3)),
    ],
)
def test_clip_has_the_length_and_size_asked_for(files, given, wish, shape):
    assert animate(files, pictures(given), wish).shape == shape


def test_clip_has_the_trained_aspect_ratio_nearest_to_the_picture(files):
    """The pictures are 30 pixels wide and 20 high."""
    ingest = dataclasses.replace(files.params.ingest, aspect_ratios=("1:1", "2:1", "1:2"))
    files = dataclasses.replace(files, params=dataclasses.replace(files.params, ingest=ingest))
    assert animate(files, pictures(1), Wish()).shape == (9, 8, 24, 3)
    assert animate(files, pictures(1, 30, 20), Wish()).shape == (9, 24, 8, 3)
    assert animate(files, pictures(1, 30, 30), Wish()).shape == (9, 16, 16, 3)


def test_progress_is_told_in_frames_of_the_whole_clip(files):
    told = []
    animate(files, pictures(13), Wish(num_frames=13), lambda done, total: told.append((done, total)))
    assert told == [(1, 13), (5, 13), (9, 13), (13, 13)]


def test_seed_decides_the_clip(files):
    first, again, other = (animate(files, pictures(1), Wish(seed=seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_motion_asked_for_reaches_the_model(files):
    still, wild = (animate(files, pictures(1), Wish(motion=motion)) for motion in (0.5, 30.0))
    assert not np.array_equal(still, wild)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (Wish(size=(20, 16)), "got 20x16 pixels, expected multiples of"),
        (Wish(num_frames=10), "got 10 frames, expected 1 \\+ a multiple of"),
        (Wish(num_frames=1), "got 1 latent frames, expected 1 to 0"),
    ],
)
def test_wish_that_cannot_be_fulfilled_is_refused_with_both_numbers(files, wish, message):
    with pytest.raises(DataError, match=message):
        animate(files, pictures(1), wish)


def test_motion_is_refused_by_a_model_that_was_not_trained_to_be_told(files, tmp_path):
    shape = dataclasses.replace(
        checkpoint.load(files.checkpoint).shape,
        params=dataclasses.replace(files.params.model, conditions=()),
    )
    weights = untrained(shape, 0).state_dict()
    saved = checkpoint.save(tmp_path, 0, shape, {"model": weights, "ema": weights}, {})
    deaf = dataclasses.replace(files, checkpoint=saved)
    with pytest.raises(DataError, match="sample.motion: got 3.0, expected none"):
        animate(deaf, pictures(1), Wish(motion=3.0))


def test_cover_fills_the_size_and_keeps_the_centre():
    picture = np.zeros((10, 40, 3), np.uint8)
    picture[:, 12:28] = 200
    assert cover(picture, (20, 20)).mean() == 200
    assert cover(picture, (80, 20)).shape == (20, 80, 3)

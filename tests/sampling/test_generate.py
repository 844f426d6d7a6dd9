import dataclasses

import numpy as np
import pytest

from tests.support.tiny_model import write_tiny_model
from videomar import checkpoint
from videomar.errors import DataError
from videomar.sampling.generate import GenerationRequest, cover, generate
from videomar.training.state import untrained


@pytest.fixture(scope="module")
def files(params, tmp_path_factory):
    return write_tiny_model(params, tmp_path_factory.mktemp("model"))


def pictures(count, height=20, width=30):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("num_given", "wanted", "shape"),
    [
        (1, GenerationRequest(), (9, 16, 16, 3)),
        (1, GenerationRequest(num_frames=21), (21, 16, 16, 3)),
        (1, GenerationRequest(size=(32, 16)), (9, 16, 32, 3)),
        (1, GenerationRequest(size=(8, 24), num_frames=5), (5, 24, 8, 3)),
        (13, GenerationRequest(), (9, 16, 16, 3)),
    ],
)
def test_clip_has_the_length_and_size_asked_for(files, num_given, wanted, shape):
    assert generate(files, pictures(num_given), wanted).shape == shape


def test_clip_has_the_trained_aspect_ratio_nearest_to_the_picture(files):
    """The pictures are 30 pixels wide and 20 high."""
    ingest = dataclasses.replace(files.params.ingest, aspect_ratios=("1:1", "2:1", "1:2"))
    files = dataclasses.replace(files, params=dataclasses.replace(files.params, ingest=ingest))
    assert generate(files, pictures(1), GenerationRequest()).shape == (9, 8, 24, 3)
    assert generate(files, pictures(1, 30, 20), GenerationRequest()).shape == (9, 24, 8, 3)
    assert generate(files, pictures(1, 30, 30), GenerationRequest()).shape == (9, 16, 16, 3)


def test_progress_counts_frames_of_the_whole_clip(files):
    progress = []
    generate(
        files,
        pictures(13),
        GenerationRequest(num_frames=13),
        lambda *counts: progress.append(counts),
    )
    assert progress == [(1, 13), (5, 13), (9, 13), (13, 13)]


def test_seed_decides_the_clip(files):
    first, again, other = (generate(files, pictures(1), GenerationRequest(seed=seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_motion_asked_for_reaches_the_model(files):
    still, wild = (generate(files, pictures(1), GenerationRequest(motion=motion)) for motion in (0.5, 30.0))
    assert not np.array_equal(still, wild)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (GenerationRequest(size=(20, 16)), "got 20x16 pixels, expected multiples of"),
        (GenerationRequest(num_frames=10), "got 10 frames, expected 1 \\+ a multiple of"),
        (GenerationRequest(num_frames=1), "got 1 latent frames, expected 1 to 0"),
    ],
)
def test_request_that_the_model_cannot_meet_is_refused_with_both_numbers(files, wanted, message):
    with pytest.raises(DataError, match=message):
        generate(files, pictures(1), wanted)


def test_motion_is_refused_by_a_model_that_was_not_trained_with_it(files, tmp_path):
    shape = dataclasses.replace(
        checkpoint.load(files.checkpoint).shape,
        params=dataclasses.replace(files.params.model, conditions=()),
    )
    weights = untrained(shape, 0).state_dict()
    saved = checkpoint.save(tmp_path, 0, shape, {"model": weights, "ema": weights}, {})
    deaf = dataclasses.replace(files, checkpoint=saved)
    with pytest.raises(DataError, match="sample.motion: got 3.0, expected none"):
        generate(deaf, pictures(1), GenerationRequest(motion=3.0))


def test_cover_fills_the_size_and_keeps_the_centre():
    picture = np.zeros((10, 40, 3), np.uint8)
    picture[:, 12:28] = 200
    assert cover(picture, (20, 20)).mean() == 200
    assert cover(picture, (80, 20)).shape == (20, 80, 3)

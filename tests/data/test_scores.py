"""Scores of clips whose scores are known."""

import numpy as np
import pytest

from videomar.data.scores import score


def noise(num_frames: int = 9) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_frames, 32, 32, 3)).astype(np.uint8)


def test_a_plain_still_clip_has_nothing_but_brightness() -> None:
    scores = score(np.full((9, 32, 32, 3), 77, np.uint8))
    assert scores == {"motion": 0, "brightness": 77, "contrast": 0, "sharpness": 0, "frozen_share": 1}


def test_motion_is_the_mean_difference_of_neighbours() -> None:
    clip = noise()
    expected = np.mean([np.abs(clip[i + 1].astype(float) - clip[i]).mean() for i in range(8)])
    assert score(clip)["motion"] == pytest.approx(expected)


def test_a_body_as_light_as_its_background_moves() -> None:
    clip = np.full((2, 32, 32, 3), (105, 105, 110), np.uint8)
    clip[0, :8], clip[1, 8:16] = (50, 150, 90), (50, 150, 90)
    assert score(clip)["motion"] > 5


def test_frozen_share_counts_repeats() -> None:
    clip = noise()
    clip[3:6] = clip[2]
    assert score(clip)["frozen_share"] == pytest.approx(3 / 8)


def test_a_fade_from_black_has_no_contrast() -> None:
    clip = noise()
    clip[0] = 0
    assert score(clip)["contrast"] == 0


def test_blur_lowers_sharpness() -> None:
    clip = noise()
    blurred = np.broadcast_to(clip.mean(axis=(1, 2), keepdims=True), clip.shape).astype(np.uint8)
    assert score(blurred)["sharpness"] < 1e-3 < score(clip)["sharpness"]

"""Scores of clips whose scores are known."""

import numpy as np
import pytest

from videomar.curation.scores import score


def noise(num_frames: int = 9) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_frames, 32, 32, 3)).astype(np.uint8)


def test_a_plain_still_clip_has_nothing_but_brightness() -> None:
    scores = score(np.full((9, 32, 32, 3), 77, np.uint8))
    assert scores.pop("brightness") == 77
    assert scores.pop("frozen_share") == 1
    assert set(scores.values()) == {0}


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


def test_a_jump_of_light_is_flicker_only_if_it_is_taken_back() -> None:
    clip = np.full((9, 32, 32, 3), 100, np.uint8)
    clip[4:] = 140
    assert score(clip)["flicker"] == 0
    clip[5:] = 110
    assert score(clip)["flicker"] == pytest.approx(30 / 7)
    clip[::2], clip[1::2] = 100, 120
    assert score(clip)["flicker"] == pytest.approx(20)


def test_black_bars_are_letterbox_and_a_dark_picture_is_not() -> None:
    clip = np.maximum(noise(), 10)
    assert score(clip)["letterbox_share"] == 0
    clip[:, :4], clip[:, 28:] = 2, 0
    assert score(clip)["letterbox_share"] == pytest.approx(8 / 32)
    clip[:, :, :8] = 1
    assert score(clip)["letterbox_share"] == pytest.approx(1 - 24 / 32 * 24 / 32)
    assert score(np.full((9, 32, 32, 3), 12, np.uint8))["letterbox_share"] == 0


def test_a_line_that_is_light_once_is_no_bar() -> None:
    clip = np.maximum(noise(), 10)
    clip[:, :4] = 0
    clip[3, 0, 5] = 200
    assert score(clip)["letterbox_share"] == 0

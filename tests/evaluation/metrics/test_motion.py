from itertools import pairwise

import numpy as np
import pytest

from tests.support.drawn_clips import blurred, moving_disc, noisy
from videomar.errors import DataError
from videomar.evaluation.metrics.motion import (
    dynamic_degree,
    flicker,
    motion_amount,
    motion_by_frame,
    motion_smoothness,
)

_NEW_EVERY_FRAME = 2 / np.sqrt(np.pi)
"""Mean absolute difference of two draws of noise, over its deviation."""


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("textured", [False, True])
@pytest.mark.parametrize("speed", [0.5, 1.0, 2.0])
def test_motion_is_the_speed_of_the_body_that_was_drawn(size: int, textured: bool, speed: float) -> None:
    clip = moving_disc(6, size, speed, textured=textured)
    assert motion_by_frame(clip) == pytest.approx(np.full(5, 100 * speed / size), rel=0.15)


def test_motion_of_a_static_clip_is_none_and_noise_is_no_motion() -> None:
    still = moving_disc(5, speed=0)
    assert motion_amount(still) == 0
    assert motion_amount(noisy(still, 4)) < 0.001
    assert motion_amount(noisy(moving_disc(5), 4)) == pytest.approx(100 / 32, rel=0.15)


def test_dynamic_degree_follows_the_benchmark_s_limit_at_any_size_and_rate() -> None:
    """6 px at 256 px and 8 frames/s is 0.75 px at 32 px."""
    assert dynamic_degree(moving_disc(9, 32, 0), fps=8) == 0
    assert dynamic_degree(moving_disc(9, 32, 0.6), fps=8) == 0
    assert dynamic_degree(moving_disc(9, 32, 0.9), fps=8) == 1
    assert dynamic_degree(moving_disc(9, 64, 1.2), fps=8) == 0
    assert dynamic_degree(moving_disc(9, 64, 1.8), fps=8) == 1
    # At 16 frames/s each second frame is looked at; at 4 the limit is doubled.
    assert dynamic_degree(moving_disc(9, 32, 0.5), fps=16) == 1
    assert dynamic_degree(moving_disc(9, 32, 0.9), fps=4) == 0


def test_smoothness_falls_with_jumps_and_with_noise() -> None:
    smooth = moving_disc(9, speed=1)
    jumping = smooth[[0, 2, 1, 3, 5, 4, 6, 8, 7]]
    values = [motion_smoothness(noisy(smooth, deviation)) for deviation in (2, 8, 16)]
    assert motion_smoothness(smooth) > 0.999
    assert motion_smoothness(jumping) < 0.99
    assert values == sorted(values, reverse=True)
    assert motion_smoothness(smooth[[0] * 5]) == 1


def test_smoothness_beats_the_plain_mean_of_the_neighbours() -> None:
    """Otherwise flow would be worth nothing."""
    clip = moving_disc(9, speed=2, textured=True)
    mean = (clip[0:-2:2].astype(float) + clip[2::2]) / 2
    plain = 1 - np.abs(mean - clip[1:-1:2]).mean() / 255
    assert 1 - motion_smoothness(clip) < 0.25 * (1 - plain)


@pytest.mark.parametrize("speed", [0, 1, 2])
@pytest.mark.parametrize("textured", [False, True])
@pytest.mark.parametrize("deviation", [2, 8])
def test_flicker_is_the_noise_that_was_put_in_whatever_moves(
    speed: float, textured: bool, deviation: float
) -> None:
    clip = moving_disc(7, 32, speed, textured=textured)
    assert flicker(clip) < 0.05
    assert flicker(noisy(clip, deviation)) == pytest.approx(_NEW_EVERY_FRAME * deviation, rel=0.06)


def test_flicker_of_light_is_seen_in_a_static_clip_as_the_benchmark_sees_it() -> None:
    clip = moving_disc(6, speed=0)
    clip[1::2] += 10
    benchmark = np.mean([np.abs(a.astype(float) - b).mean() for a, b in pairwise(clip)])
    assert flicker(clip) == pytest.approx(benchmark)
    assert flicker(blurred(clip, 1)) == pytest.approx(10, abs=0.1)


def test_flicker_is_not_a_number_where_everything_moves() -> None:
    rng = np.random.default_rng(0)
    wide = np.kron(rng.integers(0, 256, (16, 32)), np.ones((4, 4))).astype(np.uint8)[..., None].repeat(3, -1)
    pan = np.stack([wide[:, 4 * frame : 4 * frame + 64] for frame in range(5)])
    assert np.isnan(flicker(pan))


@pytest.mark.parametrize(("metric", "least"), [(motion_amount, 2), (flicker, 2), (motion_smoothness, 3)])
def test_motion_refuses_too_few_frames(metric, least: int) -> None:
    clip = moving_disc(least)
    metric(clip)
    with pytest.raises(DataError, match=f"{least} frames or more"):
        metric(clip[:-1])
    with pytest.raises(DataError, match="expected uint8"):
        metric(clip.astype(np.float32))

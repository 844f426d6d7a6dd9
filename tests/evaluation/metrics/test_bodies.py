"""The body of a simulated clip: truths lose none and do not jump, clips broken by hand do."""

import dataclasses

import numpy as np
import pytest

from videomar.errors import DataError
from videomar.evaluation.metrics.bodies import bodies_lost, jumps
from videomar.media.cover import cover
from videomar.sources.simulate import MOTIONS, draw_scene, render

FPS, FRAMES = 8.0, 65


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(5)
    return [draw_scene(rng) for _ in range(40)]


@pytest.fixture(scope="module")
def truths(scenes):
    """Scenes of all kinds at the default size, by their scene."""
    return [np.stack([cover(frame, (32, 32)) for frame in render(scene, 64, FRAMES)]) for scene in scenes]


def without_body(truth):
    return np.broadcast_to(np.median(truth[0], axis=1, keepdims=True), truth[0].shape).astype(np.uint8)


def test_truth_loses_no_body_and_does_not_jump(scenes, truths) -> None:
    assert {scene.motion for scene in scenes} == set(MOTIONS)
    for scene, truth in zip(scenes, truths, strict=True):
        for frames in (17, 33, FRAMES):
            part = truth[:frames]
            assert (bodies_lost(part, part, FPS), jumps(part, part, FPS)) == (0, 0), scene.caption


def test_blur_and_noise_lose_no_body(truths) -> None:
    import cv2

    for truth in truths[:5]:
        noise = np.random.default_rng(0).normal(0, 12, truth.shape)
        worse = np.stack([cv2.GaussianBlur(frame, (0, 0), 1.0) for frame in truth]) + noise
        clip = worse.clip(0, 255).astype(np.uint8)
        assert (bodies_lost(clip, truth, FPS), jumps(clip, truth, FPS)) == (0, 0)


@pytest.mark.parametrize("at", [20, 40, 60])
def test_body_that_vanishes_is_lost_and_one_that_comes_back_is_not(truths, at: int) -> None:
    for truth in truths:
        gone = truth.copy()
        gone[at:] = without_body(truth)
        assert bodies_lost(gone, truth, FPS) == 1
        assert jumps(gone, truth, FPS) == 0
        gone[at + 1 :] = truth[at + 1 :]
        assert bodies_lost(gone, truth, FPS) == 0
        assert jumps(gone, truth, FPS) == 0


def test_motion_that_starts_again_jumps_as_often_as_it_does(scenes, truths) -> None:
    """Also where the decoder blends the two places over the four frames of a latent one."""
    seen = {motion: 0 for motion in MOTIONS}
    for scene, truth in zip(scenes, truths, strict=True):
        again = np.concatenate([truth[:17], truth[1:17], truth[1:17], truth[1:17]])
        blended = again.copy()
        for start in (17, 33, 49):
            share = (np.arange(1, 5) / 5)[:, None, None, None]
            blended[start : start + 4] = (1 - share) * again[start - 1] + share * again[start : start + 4]
        for clip in (again, blended):
            assert jumps(clip, truth, FPS) in (0, 3)
            seen[scene.motion] += jumps(clip, truth, FPS) == 3
    number = {motion: 2 * sum(scene.motion == motion for scene in scenes) for motion in MOTIONS}
    assert seen["falls"] >= 0.8 * number["falls"]
    # What comes back from a wall is often near its start by then.
    assert seen["moves"] >= 0.5 * number["moves"]
    assert seen["bounces"] > 0


def test_picture_without_a_body_is_refused(truths) -> None:
    plain = np.stack([without_body(truths[0])] * 9)
    with pytest.raises(DataError, match="bodies: got 0 places of a body"):
        bodies_lost(plain, plain, FPS)


def test_body_that_turns_at_both_walls_does_not_jump(scenes) -> None:
    quick = next(scene for scene in scenes if scene.motion == "moves" and scene.speed == "quickly")
    truth = render(dataclasses.replace(quick, direction="right", start=(0.5, 0.5)), 64, 2 * FRAMES)
    assert jumps(truth, truth, FPS) == 0

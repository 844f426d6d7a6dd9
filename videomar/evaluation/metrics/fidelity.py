"""Clips against the truth, frame by frame.

Axes: F frames, H W rows and columns in pixels.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from videomar.errors import DataError
from videomar.evaluation.generated import check_frames

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


def check_alike(where: str, clip: NDArray[np.uint8], other: NDArray[np.uint8]) -> None:
    """Refuse two clips that cannot be compared frame by frame."""
    check_frames(where, clip)
    check_frames(where, other)
    if clip.shape != other.shape:
        raise DataError(f"{where}: got shapes {clip.shape} and {other.shape}, expected the same of both")

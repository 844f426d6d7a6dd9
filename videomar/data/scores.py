"""What a clip looks like in five numbers: pure functions of its pixels, no weights.

Axes: F frames, H W rows and columns in pixels.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

# Neighbouring frames that differ by less than this, of 255, are the same picture: an encoder repeats
# exactly, or with a trace of noise.
_SAME_PICTURE = 0.05


def score(clip: NDArray[np.uint8]) -> dict[str, float]:
    """The scores that `CurateParams` sets limits for.

    Args:
        clip: (F, H, W, 3), F at least 2.

    Returns:
        `motion`: mean absolute difference of neighbouring frames, of 255, mean over colours.
        `brightness`: mean luma, of 255.
        `contrast`: standard deviation within the plainest frame, mean over colours: a fade has a plain one.
        `sharpness`: variance of the Laplacian of luma, mean over frames.
        `frozen_share`: share of frames, without the first, that repeat the frame before.
    """
    luma = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]).astype(np.float32)
    # In colour, for a body may be as light as what is behind it.
    change = np.abs(np.diff(clip.astype(np.int16), axis=0)).mean(axis=(1, 2, 3))
    edges = [cv2.Laplacian(frame, cv2.CV_32F).var() for frame in luma]
    return {
        "motion": float(change.mean()),
        "brightness": float(luma.mean()),
        "contrast": float(clip.std(axis=(1, 2), dtype=np.float32).mean(axis=1).min()),
        "sharpness": float(np.mean(edges)),
        "frozen_share": float((change < _SAME_PICTURE).mean()),
    }

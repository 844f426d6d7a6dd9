"""Seven scores of a clip: pure functions of its pixels, without weights.

Axes: F frames, H W rows and columns in pixels.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

# Neighbouring frames that differ by less than this, of 255, are the same picture: an encoder repeats
# exactly, or with a trace of noise.
_SAME_PICTURE = 0.05
# A row or column of a black bar is at most this light, of 255, at any time: filmed or drawn black is lighter
# (8 to 14 in our simulated clips), and an encoder leaves a bar at 0 to 3.
_BAR_LUMA = 6


def score(clip: NDArray[np.uint8]) -> dict[str, float]:
    """Return the scores that `CurateParams` sets limits for.

    Args:
        clip: (F, H, W, 3). A still picture, F = 1, has no motion, frozen share or flicker: they are NaN,
            which no limit of `CurateParams` is compared with.

    Returns:
        `motion`: mean absolute difference of neighbouring frames, of 255, mean over colours.
        `brightness`: mean luma, of 255.
        `contrast`: standard deviation within the plainest frame, mean over colours: a fade has a plain one.
        `sharpness`: variance of the Laplacian of luma, mean over frames.
        `frozen_share`: share of frames, without the first, that repeat the frame before.
        `flicker`: jump of the mean luma that the next frame takes back, of 255, mean over frames.
        `letterbox_share`: share of the picture that is black bars at its edges.
    """
    luma = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]).astype(np.float32)
    change = _changes(clip)
    moves = len(clip) > 1
    edges = [cv2.Laplacian(frame, cv2.CV_32F).var() for frame in luma]
    return {
        "motion": float(change.mean()) if moves else math.nan,
        "brightness": float(luma.mean()),
        "contrast": float(clip.std(axis=(1, 2), dtype=np.float32).mean(axis=1).min()),
        "sharpness": float(np.mean(edges)),
        "frozen_share": float((change < _SAME_PICTURE).mean()) if moves else math.nan,
        "flicker": _flicker(luma.mean(axis=(1, 2))) if moves else math.nan,
        "letterbox_share": _letterbox_share(luma),
    }


def motion(clip: NDArray[np.uint8]) -> float:
    """Return the score `motion` of a clip (F, H, W, 3), NaN for F = 1."""
    return float(_changes(clip).mean()) if len(clip) > 1 else math.nan


def _changes(clip: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean absolute difference of each frame to the next, (F - 1,)."""
    # In colour, because a body may be as light as its background.
    return np.abs(np.diff(clip.astype(np.int16), axis=0)).mean(axis=(1, 2, 3))


def _flicker(means: NDArray[np.float32]) -> float:
    """Mean, over the mean luma of frames (F,), of the part of each jump that the next jump takes back."""
    jumps = np.diff(means)
    taken_back = np.where(jumps[1:] * jumps[:-1] < 0, np.minimum(np.abs(jumps[1:]), np.abs(jumps[:-1])), 0)
    return float(taken_back.mean()) if len(taken_back) else 0.0


def _letterbox_share(luma: NDArray[np.float32]) -> float:
    """Share of luma (F, H, W) outside of the rows and columns between black bars."""
    inner = 1.0
    for across in ((0, 2), (0, 1)):
        lightest = luma.max(axis=across)
        shown = np.flatnonzero(lightest > _BAR_LUMA)
        inner *= (shown[-1] - shown[0] + 1) / len(lightest) if len(shown) else 0.0
    return float(1 - inner)

"""The body of a simulated clip: whether it is still there, and whether it moves without jumps.

A simulated picture has one body of one colour on a ground whose colour depends on the row alone, so both are
read from the first picture of the truth: the ground of a row is the median of its columns, which a body never
covers by half, and the body is what differs. In other frames, a place belongs to the body as far as its
colour is on the way from the ground's to the body's.

Axes: F frames, H W rows and columns in pixels.
"""

import numpy as np
from numpy.typing import NDArray

from videomar.errors import DataError
from videomar.evaluation.metrics.fidelity import check_alike

_SEEN = 40.0
"""Distance of colours, grey levels, from which a place of the first picture is the body's."""
_LEAST_PLACES = 4
_LOST_SHARE = 0.5
_PLACED_SHARE = 0.25
"""Share of the body's first size from which it has a place."""
_END_S, _STEP_S = 0.5, 0.5
"""A tokenizer spreads what is sudden in a latent frame over all its frames: four, half a second."""
_FASTER, _MARGIN = 1.5, 0.08
"""A jump is longer than so many times the truth's longest step that way, and a share of the height more."""


def bodies_lost(clip: NDArray[np.uint8], truth: NDArray[np.uint8], fps: float) -> float:
    """1 if less than half of the body is left in the last half second, else 0; the mean is the share lost.

    Against the body's size in the same frames of the truth.
    """
    own, true = _sizes_and_places(clip, truth)[0], _sizes_and_places(truth, truth)[0]
    end = slice(-max(1, round(_END_S * fps)), None)
    return float(own[end].mean() < _LOST_SHARE * true[end].mean())


def jumps(clip: NDArray[np.uint8], truth: NDArray[np.uint8], fps: float) -> float:
    """How many times the body is suddenly elsewhere.

    A jump is a way within half a second, in all or up, down, left or right, that is longer than 1.5 times the
    longest such way in the truth and 0.08 of the picture's height more: a falling body never rises. Frames
    that see the same jump count once. A body that vanishes and comes back is compared with where it was last,
    and may have moved on meanwhile.
    """
    sizes, own = _sizes_and_places(clip, truth)
    true_sizes, true = _sizes_and_places(truth, truth)
    step = max(1, round(_STEP_S * fps))
    if len(truth) <= step:
        return 0.0
    longest = _ways(true[step:] - true[:-step]).max(axis=0)
    seen = np.flatnonzero(sizes >= _PLACED_SHARE * true_sizes[0])
    count, last = 0, -step
    for frame in seen:
        before = seen[seen <= frame - step]
        if not len(before) or frame - last < step:  # all frames of one step see its jump
            continue
        steps = (frame - before[-1]) / step
        way = _ways(own[frame] - own[before[-1]])
        if (way > _FASTER * longest * steps + _MARGIN).any():
            count, last = count + 1, int(frame)
    return float(count)


def _ways(moves: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far moves (..., 2) go in all, and right, down, left and up: (..., 5), each 0 or more."""
    length = np.linalg.norm(moves, axis=-1, keepdims=True)
    return np.maximum(np.concatenate([length, moves, -moves], axis=-1), 0)


def _sizes_and_places(
    clip: NDArray[np.uint8], truth: NDArray[np.uint8]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of each frame that the body of the truth's first picture covers (F,), and its centre (F, 2).

    The centre is in shares of the height, as column, row; NaN where no place is the body's.

    Raises:
        DataError: the first picture has no body.
    """
    check_alike("bodies", clip, truth)
    first = truth[0].astype(np.float64)
    ground = np.median(first, axis=1, keepdims=True)  # (H, 1, 3)
    body = np.linalg.norm(first - ground, axis=-1) > _SEEN
    if body.sum() < _LEAST_PLACES:
        raise DataError(f"bodies: got {body.sum()} places of a body, expected {_LEAST_PLACES} or more")
    way = np.median(first[body], axis=0) - ground  # (H, 1, 3), from the ground's colour to the body's
    shares = ((clip - ground) * way).sum(-1) / np.square(way).sum(-1).clip(1)  # (F, H, W)
    weights = np.where(shares > 0.5, 1.0, 0.0)
    total = weights.sum(axis=(1, 2))
    height, width = clip.shape[1:3]
    centres = [weights.sum(1) @ np.arange(width), weights.sum(2) @ np.arange(height)]
    with np.errstate(invalid="ignore"):
        return total / (height * width), np.stack([centre / total for centre in centres], axis=1) / height

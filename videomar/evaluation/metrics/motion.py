"""Motion of clips by optical flow without weights: how much, how smooth, and what flickers in place.

VBench measures the same with RAFT and AMT; these are stand-ins with OpenCV's DIS flow and have other names in
the report. Small frames are doubled first: otherwise half a pixel of motion is missed, while at four times
the size noise is taken for motion. Magnitudes are in pixels of the clip's own size.

Axes: F frames, H W rows and columns in pixels.
"""

from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from videomar.evaluation.generated import check_frames

_SMALL_PX = 128
_FASTEST_SHARE = 0.05
_VBENCH_FPS = 8.0
_VBENCH_SIDE_PX = 256.0
_MOVING_PX = 6.0
"""VBench: a pair of frames moves if its fastest 5 % do so by more than this, at 256 px and 8 frames/s."""
# Chosen on synthetic clips with known motion and noise, on plain and textured backgrounds.
_MOTION_RATIO = 0.7
_FLICKER_RATIO = 0.3
_SEEN = 5.0
"""Grey levels; a smaller change is not taken for motion."""
_WINDOW = 9
_STILL_PX = 0.5
_STILL_BLUR = 2.0
_MIN_STILL_SHARE = 0.05


def motion_by_frame(clip: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How far the fastest 5 % of each frame move to the next, (F - 1,), percent of the shorter side."""
    return 100 * _speeds(clip) / min(clip.shape[1:3])


def motion_amount(clip: NDArray[np.uint8]) -> float:
    """How far the fastest 5 % move from frame to frame, mean over a clip, percent of the shorter side."""
    return float(motion_by_frame(clip).mean())


def dynamic_degree(clip: NDArray[np.uint8], fps: float) -> float:
    """1 if the clip moves by VBench's rule, else 0; the mean over clips is the share that moves.

    Source: VBench, dynamic_degree.py: of about 8 frames/s a quarter must move by more than 6 px at 256 px, a
    limit that shrinks with the shorter side and grows for clips below 8 frames/s.
    Differs: DIS flow in place of RAFT, and at least one pair must move, whatever the clip's length.
    """
    sampled = clip[:: max(1, round(fps / _VBENCH_FPS))]
    limit = max(1.0, _VBENCH_FPS / fps) * _MOVING_PX * min(clip.shape[1:3]) / _VBENCH_SIDE_PX
    needed = max(1, round(len(sampled) / 4))
    return float((_speeds(sampled) > limit).sum() >= needed)


def median_flow(clip: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How far the median place moves from frame to frame, across and down, over a clip: (2,), pixels."""
    check_frames("motion", clip, least=2)
    greys = enlarged_greys(clip)
    flows = np.concatenate([_flow(*pair).reshape(-1, 2) for pair in pairwise(greys)])
    return np.median(flows, axis=0) * (clip.shape[1] / len(greys[0]))


def motion_smoothness(clip: NDArray[np.uint8]) -> float:
    """How well every second frame follows from its two neighbours, 0 to 1; 1 = exactly, or nothing moves.

    Source: VBench, motion_smoothness.py: each second frame is left out, interpolated, and compared with the
    real one: (255 - mean absolute difference) / 255. Differs: the two neighbours are moved half-way along DIS
    flow and averaged, in place of the AMT network.
    """
    check_frames("motion", clip, least=3)
    greys = enlarged_greys(clip)
    differences = []
    for middle in range(1, len(clip) - 1, 2):
        before, after = greys[middle - 1], greys[middle + 1]
        halves = [
            _half_way(clip[middle - 1], _flow(before, after)),
            _half_way(clip[middle + 1], _flow(after, before)),
        ]
        guess = (halves[0] + halves[1]) / 2
        differences.append(float(np.abs(guess - clip[middle].astype(np.float32)).mean()))
    return 1 - float(np.mean(differences)) / 255


def flicker(clip: NDArray[np.uint8]) -> float:
    """Mean absolute difference of neighbouring frames where nothing moves, in grey levels of 255; 0 = none.

    NaN if less than 5 % of a clip stands still, because then flicker cannot be separated from motion. Noise
    of standard deviation d, independent in every frame, gives 1.13 d.

    Source: VBench, temporal_flickering.py, whose score is 1 - ours / 255, on clips that its filter found
    static. Ours uses the places that stand still, so that it applies to any clip.
    """
    check_frames("motion", clip, least=2)
    blurred = [
        np.asarray(cv2.GaussianBlur(grey, (0, 0), _STILL_BLUR), np.uint8) for grey in enlarged_greys(clip)
    ]
    limit = _STILL_PX * min(blurred[0].shape) / _VBENCH_SIDE_PX
    total, places, size = 0.0, 0, 0
    for index, (before, after) in enumerate(pairwise(blurred)):
        sides = [_explained(*pair, _FLICKER_RATIO) for pair in ((before, after), (after, before))]
        moving = np.any([explained & (speed > limit) for speed, explained in sides], axis=0).astype(np.uint8)
        # Nor is it flicker where a moving edge uncovers the background.
        near = cv2.dilate(moving, np.ones((_WINDOW, _WINDOW), np.uint8))
        still = cv2.resize(near * 255, clip.shape[2:0:-1], interpolation=cv2.INTER_AREA) == 0
        change = np.abs(clip[index + 1].astype(np.float32) - clip[index]).mean(axis=-1)
        total, places, size = total + float(change[still].sum()), places + int(still.sum()), size + still.size
    return total / places if places >= _MIN_STILL_SHARE * size else float("nan")


def _explained(
    before: NDArray[np.uint8], after: NDArray[np.uint8], ratio: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Speed (H, W) of each place, pixels, and whether flow explains its change.

    It does where `after`, sampled along the flow, differs from `before` by less than `ratio` of their
    difference in place. Flow alone is not enough: noise has a flow of its own, and on plain ground flow is
    extrapolated from the surroundings, but neither makes the two frames much more similar.
    """
    in_place = cv2.blur(np.abs(after.astype(np.float32) - before), (_WINDOW, _WINDOW))
    if in_place.max() <= _SEEN:  # flow, which is most of the cost, is not needed
        return np.zeros_like(in_place), np.zeros(in_place.shape, np.bool_)
    flow = _flow(before, after)
    rows, columns = _places(*before.shape)
    back = _sampled_at(after, columns + flow[..., 0], rows + flow[..., 1])
    along = cv2.blur(np.abs(back - before), (_WINDOW, _WINDOW))
    return np.hypot(flow[..., 0], flow[..., 1]), np.asarray((in_place > _SEEN) & (along < ratio * in_place))


def enlarged_greys(clip: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Luma of each frame, twice as large where the shorter side is below 128 px."""
    greys = [np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8) for frame in clip]
    if min(clip.shape[1:3]) >= _SMALL_PX:
        return greys
    size = (2 * clip.shape[2], 2 * clip.shape[1])
    return [np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_LINEAR), np.uint8) for grey in greys]


def _speeds(clip: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean explained flow of the fastest 5 % of each pair of neighbours, (F - 1,), pixels of the clip."""
    check_frames("motion", clip, least=2)
    return np.array(_speeds_of(clip.tobytes(), clip.shape))


@lru_cache(maxsize=8)  # several metrics use a clip's motion, and flow is most of their cost
def _speeds_of(content: bytes, shape: tuple[int, ...]) -> tuple[float, ...]:
    greys, speeds = enlarged_greys(np.frombuffer(content, np.uint8).reshape(shape)), []
    scale = shape[1] / greys[0].shape[0]
    for before, after in pairwise(greys):
        speed, explained = _explained(before, after, _MOTION_RATIO)
        count = max(1, int(speed.size * _FASTEST_SHARE))
        fastest = np.partition(np.where(explained, speed, 0), -count, axis=None)[-count:]
        speeds.append(float(fastest.mean()) * scale)
    return tuple(speeds)


def _flow(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Displacement of each pixel from `before` to `after`: (H, W, 2), across and down, pixels."""
    if np.array_equal(before, after):
        return np.zeros((*before.shape, 2), np.float32)
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return np.asarray(flow.calc(before, after, None), np.float32)  # type: ignore[call-overload]


def _half_way(frame: NDArray[np.uint8], flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W, 3) moved half-way along a flow, which may be of an enlarged frame."""
    height, width = frame.shape[:2]
    half = cv2.resize(flow, (width, height), interpolation=cv2.INTER_AREA) * (height / flow.shape[0] / 2)
    rows, columns = _places(height, width)
    return _sampled_at(frame, columns - half[..., 0], rows - half[..., 1])


@lru_cache(maxsize=4)
def _places(height: int, width: int) -> NDArray[np.float32]:
    """Row and column of each pixel, (2, H, W)."""
    return np.mgrid[:height, :width].astype(np.float32)


def _sampled_at(
    frame: NDArray[np.uint8], columns: NDArray[np.float32], rows: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The frame's values between its pixels; outside, those of the nearest edge."""
    values = frame.astype(np.float32)
    found = cv2.remap(values, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found, np.float32)

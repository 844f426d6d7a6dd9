"""Baselines and ceilings that need no model: what a clip is compared with besides the truth.

The bar that counts is repeating the last given picture. A model in latents loses something before it starts,
because it sees and makes only what the tokenizer keeps; so the same picture through the tokenizer stands
beside it, and as the ceiling the truth through the tokenizer.

Axes: F frames, H W rows and columns in pixels.
"""

import dataclasses
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from videomar.evaluation.generated import Clip, ClipKinds, repeat_last
from videomar.evaluation.metrics.motion import enlarged_greys, median_flow

_TASKS = ("continuation", "image")
_LEAST_FLOW_PX = 6  # OpenCV refuses to look for flow in smaller pictures


def with_baselines(kinds: ClipKinds) -> ClipKinds:
    """All kinds of a clip, and for each task the kinds named after it that follow from truth and tokenizer.

    `_repeat` repeats the last given picture, `_decoded_repeat` the same picture through the tokenizer,
    `_flow` moves it on (continuations only: one picture has no motion), `image_tokenizer` is the ceiling of
    clips from one picture, of which more frames count. Kinds that the clip has are left as they are.
    """
    derived = {clip.kind: clip for task in _TASKS if task in kinds for clip in _derived(kinds, task)}
    return {**derived, **kinds}


def continue_motion(given: NDArray[np.uint8], num_frames: int) -> NDArray[np.uint8]:
    """The last given picture (H, W, 3), moved on as a whole at constant velocity: (num_frames, H, W, 3).

    The velocity is the median of dense optical flow over all pairs of given neighbours, which finds what a
    camera does, or the shift that phase correlation finds between the first and the last of them, which
    finds a body on plain ground: the one by which the first given picture comes nearer to the last. What
    moves in from outside is the nearest edge. Chosen among thirty ways on 159 real and 64 simulated clips.

    Source: Kroeger et al. 2016 (DIS flow); Kuglin and Hines 1975 (phase correlation), both of OpenCV.

    Args:
        given: (F, H, W, 3), two pictures or more.
        num_frames: How many pictures follow.
    """
    steps = len(given) - 1
    candidates = [_correlated_shift(given) / steps]
    if max(given.shape[1:3]) >= _LEAST_FLOW_PX:
        candidates.append(median_flow(given))
    missed = [
        np.square(_moved(given[0], steps * velocity).astype(np.float32) - given[-1]).mean()
        for velocity in candidates
    ]
    velocity = candidates[int(np.argmin(missed))]
    moved = [_moved(given[-1], step * velocity) for step in range(1, num_frames + 1)]
    return np.stack(moved)


def _correlated_shift(given: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Shift across and down from the first to the last picture, pixels.

    Without a Hann window, which phase correlation usually gets and which fades out bodies near the edge.
    """
    first, last = (grey.astype(np.float32) for grey in enlarged_greys(given[[0, -1]]))
    return np.array(cv2.phaseCorrelate(first, last)[0]) * (given.shape[1] / len(first))


def _moved(picture: NDArray[np.uint8], shift: NDArray[np.float64]) -> NDArray[np.uint8]:
    matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    size = (picture.shape[1], picture.shape[0])
    return np.asarray(cv2.warpAffine(picture, matrix, size, borderMode=cv2.BORDER_REPLICATE), np.uint8)


def _derived(kinds: ClipKinds, task: str) -> Iterator[Clip]:
    made, truth = kinds[task], kinds["truth"].frames
    start = made.context_frames
    yield _named(made, f"{task}_repeat", repeat_last(truth, start))
    if "tokenizer" in kinds:
        decoded = kinds["tokenizer"].frames
        yield _named(made, f"{task}_decoded_repeat", repeat_last(decoded, start))
        if task == "image":
            yield _named(made, "image_tokenizer", decoded)
    if start > 1:
        moved = continue_motion(truth[:start], len(truth) - start)
        yield _named(made, f"{task}_flow", np.concatenate([truth[:start], moved]))


def _named(made: Clip, kind: str, frames: NDArray[np.uint8]) -> Clip:
    return dataclasses.replace(made, kind=kind, frames=frames)

"""Metrics of behaviour beyond similarity: does the model move, does it vary, does it follow the prompt?

Pure functions of clips. Axes: N clips, F frames, H W rows and columns in pixels.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from videomar.errors import DataError
from videomar.evaluation.metrics.backbone import Backbone
from videomar.evaluation.metrics.fidelity import check_alike
from videomar.evaluation.metrics.imaging import exposure_shift_by_frame, sharpness_kept_by_frame
from videomar.evaluation.metrics.motion import motion_by_frame

_LEAST_MOTION = 0.1
"""Percent of the shorter side a frame: 0.03 px at 32 px, below which flow finds nothing."""

_MOST_DETAIL, _MOST_SHIFT = 4.0, 50.0


def motion_retained_by_frame(clip: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Motion of the clip over that of the truth, by frame, (F - 1,); 1 = as much, 0 = frozen.

    NaN at steps where the truth stands still or moves at most a quarter of its mean, because such a ratio
    would outweigh all other clips. NaN for the whole clip if flow finds no motion at most steps of the truth,
    as with a body as bright as its background.
    """
    check_alike("motion retained", clip, truth)
    own, true = motion_by_frame(clip), motion_by_frame(truth)
    moves = true >= max(_LEAST_MOTION, float(true.mean()) / 4)
    seen = float((true >= _LEAST_MOTION).mean()) >= 0.5
    return np.divide(own, true, out=np.full_like(own, np.nan), where=moves & seen)


def holds_together(clip: NDArray[np.uint8], picture: NDArray[np.uint8]) -> float:
    """1 if a clip has not degenerated at its end, else 0; the mean is the share of clips that hold together.

    The rule is ours: in its last quarter a clip has between a quarter and four times the fine detail of the
    given picture, and is not lighter or darker by more than 50 of 255. It needs no truth, so it also applies
    to clips longer or larger than trained.
    """
    end = clip[-max(1, len(clip) // 4) :]
    detail = float(sharpness_kept_by_frame(end, picture).mean())
    shift = float(np.abs(exposure_shift_by_frame(end, picture)).mean())
    return float(1 / _MOST_DETAIL <= detail <= _MOST_DETAIL and shift <= _MOST_SHIFT)


def diversity(clips_of_seeds: Sequence[NDArray[np.uint8]], backbone: Backbone, first_frame: int) -> float:
    """Mean distance between pairs of clips of one picture and prompt with different seeds; 0 = the same.

    The distance is that of features by frame, averaged over the generated frames.
    """
    if len(clips_of_seeds) < 2:
        raise DataError(f"diversity: got {len(clips_of_seeds)} clips, expected two seeds or more")
    return _mean_of_pairs(_distances(clips_of_seeds, backbone, first_frame))


def text_effect(
    of_prompt: Sequence[NDArray[np.uint8]],
    of_other_prompt: Sequence[NDArray[np.uint8]],
    backbone: Backbone,
    first_frame: int,
) -> float:
    """How much more another prompt changes a clip than another seed does; 0 or less = the text has no effect.

    Mean distance between clips of two prompts with one picture, minus the mean distance between seeds of one
    prompt (`diversity`). Prompts are compared across seeds, so that a shared seed does not make them similar.

    Args:
        of_prompt: Clips of one prompt, in the order of their seeds; at least two.
        of_other_prompt: Clips of another prompt with the same picture and the same seeds.
        backbone: Extracts the features.
        first_frame: The first generated frame.
    """
    if len(of_prompt) != len(of_other_prompt) or len(of_prompt) < 2:
        raise DataError(
            f"text effect: got {len(of_prompt)} and {len(of_other_prompt)} clips, "
            "expected the same two seeds or more of both prompts"
        )
    seeds = len(of_prompt)
    distances = _distances([*of_prompt, *of_other_prompt], backbone, first_frame)
    across = distances[:seeds, seeds:][~np.eye(seeds, dtype=np.bool_)].mean()
    within = [_mean_of_pairs(own) for own in (distances[:seeds, :seeds], distances[seeds:, seeds:])]
    return float(across - np.mean(within))


def unit_features(clip: NDArray[np.uint8], backbone: Backbone) -> Tensor:
    """Features of each frame, (F, D), whose squared distance is that of the two frames: 0 = equal, at most 4.

    Source: Zhang et al. (arXiv 1801.03924) equation 1 with all weights one, and the mean over five levels of
    EfficientNet-Lite0: no LPIPS. For two clips of one model alone: it takes the blur of a tokenizer for a
    larger change than a body that stopped, so `vgg_distance` is what compares a clip with the truth.
    """
    maps = backbone.features(clip).maps
    scales = [(len(maps) * level[0, 0].numel()) ** -0.5 for level in maps]
    units = [functional.normalize(level, dim=1) * scale for level, scale in zip(maps, scales, strict=True)]
    return torch.cat([level.flatten(1) for level in units], dim=1)


def _distances(
    clips: Sequence[NDArray[np.uint8]], backbone: Backbone, first_frame: int
) -> NDArray[np.float64]:
    """Feature distances between all clips, averaged over the generated frames: (N, N)."""
    for clip in clips:
        check_alike("clips", clip, clips[0])
    if not 0 <= first_frame < len(clips[0]):
        raise DataError(
            f"clips: got first frame {first_frame} of {len(clips[0])}, expected a generated frame"
        )
    features = torch.stack([unit_features(clip, backbone)[first_frame:] for clip in clips], dim=1)
    # By matrix products: thirty times as fast as by differences, at the price of some rounding.
    distances = torch.cdist(features, features, compute_mode="use_mm_for_euclid_dist")
    return distances.double().square().mean(0).numpy()


def _mean_of_pairs(distances: NDArray[np.float64]) -> float:
    return float(distances[np.triu_indices(len(distances), 1)].mean())

"""Clips against the truth frame by frame, and a score by frame over many clips.

Axes: N clips, F frames, H W rows and columns in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from videomar.errors import DataError
from videomar.evaluation.metrics.backbone import Backbone

_MIN_SSIM_PX = 11
_RESAMPLES = 1999


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


@dataclass(frozen=True, slots=True)
class DriftCurve:
    """A score by frame: mean over clips and the bootstrap band around it."""

    frames: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n: int
    """Clips in the mean."""
    confidence: float

    @property
    def slope(self) -> float:
        """Change of the mean per frame, by least squares: the loss over the clip."""
        return float(np.polyfit(self.frames, self.mean, 1)[0]) if len(self.frames) > 1 else 0.0


def drift_curve(
    scores: Sequence[NDArray[np.float64]], first_frame: int, seed: int, confidence: float = 0.95
) -> DriftCurve:
    """The mean of a score by generated frame, with a percentile bootstrap over clips.

    Whole clips are drawn, so that the frames of one clip stay together: the band is around the mean at each
    frame, and neighbouring frames move up and down together. One clip has no band: low and high are NaN.

    Args:
        scores: Per clip a score by frame, (F,), all of one length.
        first_frame: The first generated frame; those before it were given.
        seed: Seed of the resampling.
        confidence: Share of the resampled means between low and high.
    """
    if not scores or len({len(score) for score in scores}) > 1 or not 0 <= first_frame < len(scores[0]):
        lengths = sorted({len(score) for score in scores})
        raise DataError(
            f"drift curve: got {len(scores)} clips of {lengths} frames from frame {first_frame} on, "
            "expected clips of one length with a generated frame; compare clips of one kind"
        )
    table = np.stack(scores)[:, first_frame:].astype(np.float64)
    draws = np.random.default_rng(seed).integers(0, len(table), (_RESAMPLES, len(table)))
    # How often each clip was drawn, as weights: means of all resamples in one product.
    cells = (draws + len(table) * np.arange(_RESAMPLES)[:, None]).ravel()
    weights = np.bincount(cells, minlength=draws.size).reshape(draws.shape) / len(table)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(weights @ table, tails, axis=0)
    if len(table) == 1:
        low, high = np.full((2, table.shape[1]), np.nan)
    frames = tuple(range(first_frame, first_frame + table.shape[1]))
    mean = table.mean(axis=0)
    return DriftCurve(
        frames, tuple(mean.tolist()), tuple(low.tolist()), tuple(high.tolist()), len(table), confidence
    )


def check_alike(where: str, clip: NDArray[np.uint8], other: NDArray[np.uint8]) -> None:
    """Refuse two clips that cannot be compared frame by frame."""
    for frames in (clip, other):
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
            raise DataError(
                f"{where}: got {frames.dtype} {frames.shape}, expected uint8 (F, H, W, 3) with frames"
            )
    if clip.shape != other.shape:
        raise DataError(f"{where}: got shapes {clip.shape} and {other.shape}, expected the same of both")

"""Fréchet distance between two sets of features, with the counts and interval needed to judge it.

Axes: N M clips of the two sets, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from videomar.errors import DataError

_RESAMPLES = 199
_LEAST_CLIPS = 100
_CLIPS_PER_FEATURE = 2


@dataclass(frozen=True, slots=True)
class FrechetScore:
    """A Fréchet distance with its counts and its uncertainty."""

    extractor: str
    """Name of the extractor; distances of different extractors are not comparable."""
    value: float
    low: float
    """Interval of the distance for infinitely many clips, which may be below `value`."""
    high: float
    n_real: int
    n_generated: int
    num_features: int
    shots: int | None = None
    """Shots that the clips are from; None if each clip counts as one."""

    @property
    def clips_needed(self) -> int:
        """Clips needed in each set before distances may be ranked."""
        return max(_LEAST_CLIPS, _CLIPS_PER_FEATURE * self.num_features)

    @property
    def too_few_to_rank(self) -> bool:
        """Whether there are too few clips to estimate a covariance of that many features."""
        return min(self.n_real, self.n_generated) < self.clips_needed

    def __str__(self) -> str:
        counts = f"{self.n_real} real and {self.n_generated} generated clips"
        counts += "" if self.shots is None else f" of {self.shots} shots"
        text = f"{self.value:.4g} (interval {self.low:.4g} to {self.high:.4g}, {counts}, {self.extractor})"
        if not self.too_few_to_rank:
            return text
        rule = f"{self.num_features} features ask for {self.clips_needed} clips of each"
        return f"{text}: too few to rank, {rule}"


def frechet_distance(real: NDArray[np.float64], generated: NDArray[np.float64]) -> float:
    """Squared Fréchet distance of the Gaussians with the moments of (N, D) and (M, D), float64.

    |m - m'|^2 + tr S + tr S' - 2 tr (S S')^(1/2). The last trace is the sum of the singular values of X Y^T
    where X^T X = S and Y^T Y = S': exact for singular covariances too, where a matrix root is not, and for
    few clips of many features no D x D matrix is made.

    Source: Dowson and Landau 1982; as FVD in Unterthiner et al. (arXiv 1812.01717).
    """
    _check(real, generated)
    sides = []
    for features in (real, generated):
        values = np.asarray(features, np.float64)
        mean = values.mean(axis=0)
        root = (values - mean) / np.sqrt(len(values) - 1)
        trace = float(np.square(root).sum())
        if len(root) > root.shape[1]:
            # R^T R = X^T X, and the singular values of R R'^T are those of X X'^T.
            root = np.asarray(np.linalg.qr(root, mode="r"))
        sides.append((mean, root, trace))
    (mean, root, trace), (other_mean, other_root, other_trace) = sides
    shared = float(np.linalg.svd(root @ other_root.T, compute_uv=False).sum())
    distance = float(np.square(mean - other_mean).sum()) + trace + other_trace - 2 * shared
    return max(0.0, distance)


def frechet_score(
    real: NDArray[np.float64],
    generated: NDArray[np.float64],
    extractor: str,
    seed: int,
    paired: bool,
    shots: Sequence[object] | None = None,
) -> FrechetScore:
    """The distance, its 95 % bootstrap interval over clips or shots, and its counts.

    The distance of few clips is too large, and that of resampled clips is larger again by about as much. So
    the interval is the basic one (2 x value - quantile), which subtracts that bias, not below 0.

    Args:
        real: Features of real clips, (N, D).
        generated: Features of generated clips, (M, D).
        extractor: Its name.
        seed: Seed of the resampling.
        paired: Whether row i of both is the same clip, real and generated; then both are drawn together.
        shots: Of pairs, the shot of each: shots are drawn with all their clips. None = each clip is one.
    """
    value = frechet_distance(real, generated)
    if paired and len(real) != len(generated):
        raise DataError(
            f"frechet distance: got {len(real)} real and {len(generated)} generated clips, expected pairs"
        )

    # What is drawn: each the numbers of its clips.
    units = [list(np.arange(len(side))[:, None]) for side in (real, generated)]
    if shots is not None and paired:
        labels = np.unique(np.asarray(shots, str), return_inverse=True)[1]
        units = [[np.flatnonzero(labels == label) for label in range(labels.max() + 1)]] * 2
        if len(units[0]) < 2:  # one shot has no spread
            return FrechetScore(
                extractor, value, value, value, len(real), len(generated), real.shape[1], len(units[0])
            )

    def of_rows(drawn: NDArray[np.int64], others: NDArray[np.int64]) -> float:
        rows, of_others = (
            np.concatenate([side[int(number)] for number in numbers])
            for side, numbers in zip(units, (drawn, others), strict=True)
        )
        return frechet_distance(real[rows], generated[of_others])

    result = bootstrap(
        (np.arange(len(units[0])), np.arange(len(units[1]))),
        of_rows,
        n_resamples=_RESAMPLES,
        vectorized=False,
        paired=paired,
        method="basic",
        rng=np.random.default_rng(seed),
    )
    low, high = (max(0.0, float(end)) for end in result.confidence_interval)
    count = None if shots is None else len(units[0])
    return FrechetScore(extractor, value, low, high, len(real), len(generated), real.shape[1], count)


def _check(real: NDArray[np.float64], generated: NDArray[np.float64]) -> None:
    shapes: Sequence[tuple[int, ...]] = (real.shape, generated.shape)
    if any(len(shape) != 2 or shape[0] < 2 for shape in shapes) or real.shape[1] != generated.shape[1]:
        raise DataError(
            f"frechet distance: got features {shapes[0]} and {shapes[1]}, "
            "expected (clips, features) of two clips or more and of one extractor"
        )
    if not (np.isfinite(real).all() and np.isfinite(generated).all()):
        raise DataError("frechet distance: got features that are not finite; check the clips they came from")

"""VBench-I2V's own scores from its nine dimensions: normalisation, weights, quality, I2V and total.

Only the benchmark's own dimensions may be used, measured with its own networks. The ranges below are for
those; our stand-ins (EffNet-Lite0, optical flow) would produce a number that looks comparable and is not.

Source: VBench, scripts/constant.py (TASK_INFO_I2V, NORMALIZE_DIC_I2V, DIM_WEIGHT_I2V) and
scripts/cal_i2v_final_score.py. Differs: that script silently counts a missing dimension as 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from videomar.errors import DataError


@dataclass(frozen=True, slots=True)
class Dimension:
    """One dimension: its place in the benchmark's result files, its range and its weight."""

    key: str
    part: Literal["quality", "i2v"]
    weight: float
    lowest: float
    """The value that becomes 0."""
    highest: float
    """The value that becomes 1; larger ones exceed 1, as in the benchmark."""

    def normalised(self, value: float) -> float:
        """The value on the scale of the weights."""
        return (value - self.lowest) / (self.highest - self.lowest)


DIMENSIONS = (
    Dimension("camera_motion", "i2v", 0.1, 0.0, 1.0),
    Dimension("i2v_subject", "i2v", 1.0, 0.1462, 1.0),
    Dimension("i2v_background", "i2v", 1.0, 0.2615, 1.0),
    Dimension("subject_consistency", "quality", 1.0, 0.1462, 1.0),
    Dimension("background_consistency", "quality", 1.0, 0.2615, 1.0),
    Dimension("motion_smoothness", "quality", 1.0, 0.706, 0.9975),
    Dimension("dynamic_degree", "quality", 0.5, 0.0, 1.0),
    Dimension("aesthetic_quality", "quality", 1.0, 0.0, 1.0),
    Dimension("imaging_quality", "quality", 1.0, 0.0, 1.0),
)


@dataclass(frozen=True, slots=True)
class PartScore:
    """A weighted mean, and its range if the missing dimensions were at their worst and at their best."""

    value: float | None
    """Over the present dimensions, None if there are none; a partial value must not be used for ranking."""
    low: float
    """With missing dimensions at the bottom of their ranges."""
    high: float
    """With missing dimensions at 1, their maximum."""
    missing: tuple[str, ...]

    @property
    def partial(self) -> bool:
        """Whether a dimension is missing."""
        return bool(self.missing)

    def __str__(self) -> str:
        if not self.missing:
            return f"{100 * self.low:.1f}"
        between = f"between {100 * self.low:.1f} and {100 * self.high:.1f}"
        return f"partial, {between} (missing: {', '.join(self.missing)})"


@dataclass(frozen=True, slots=True)
class VBenchScores:
    """The three scores of a leaderboard's row, 0 to 1."""

    quality: PartScore
    i2v: PartScore
    total: PartScore


def aggregate(values: Mapping[str, float]) -> VBenchScores:
    """The benchmark's scores from its dimensions, each 0 to 1; absent ones and NaN make a score partial.

    Raises:
        DataError: a name that is not the benchmark's, or a value outside 0 to 1.
    """
    known = {dimension.key for dimension in DIMENSIONS}
    for key, value in values.items():
        if key not in known:
            raise DataError(
                f"vbench: got {key!r}, expected one of {sorted(known)}; stand-ins do not aggregate"
            )
        if not (math.isnan(value) or 0 <= value <= 1):
            raise DataError(f"vbench: {key}: got {value}, expected 0 to 1; divide percents by 100")
    there = {key: value for key, value in values.items() if not math.isnan(value)}
    quality = _part([dimension for dimension in DIMENSIONS if dimension.part == "quality"], there)
    i2v = _part([dimension for dimension in DIMENSIONS if dimension.part == "i2v"], there)
    total = PartScore(
        None if quality.value is None or i2v.value is None else (quality.value + i2v.value) / 2,
        (quality.low + i2v.low) / 2,
        (quality.high + i2v.high) / 2,
        quality.missing + i2v.missing,
    )
    return VBenchScores(quality, i2v, total)


def _part(dimensions: Sequence[Dimension], values: Mapping[str, float]) -> PartScore:
    there = [dimension for dimension in dimensions if dimension.key in values]
    missing = [dimension for dimension in dimensions if dimension.key not in values]
    weight = sum(dimension.weight for dimension in dimensions)
    known = sum(dimension.weight * dimension.normalised(values[dimension.key]) for dimension in there)
    best = sum(dimension.weight * dimension.normalised(1.0) for dimension in missing)
    return PartScore(
        known / sum(dimension.weight for dimension in there) if there else None,
        known / weight,
        (known + best) / weight,
        tuple(dimension.key for dimension in missing),
    )

"""Paired scores of two models, and the bootstrap interval of their difference.

Axes: n clips, s seeds.
"""

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from videomar.config import GateParams
from videomar.evaluation.metrics.catalogue import METRICS

_RESAMPLES = 4999
SAME_TRUTH_DB = 1e-6
"""How far the repeat-last PSNR of a clip may differ between two evaluations of the same truth."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over clips with its bootstrap interval."""

    name: str
    value: float
    low: float
    high: float
    n: int
    """Clips in the mean."""
    unit: str = "dB"
    """Empty for metrics without one."""
    limit: float = 0.0
    """The interval's lower end must be above this."""

    def __str__(self) -> str:
        """The figure in words; metrics without a unit get one more digit."""
        value, low, high = (f"{x:+.{2 if self.unit else 3}f}" for x in (self.value, self.low, self.high))
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.name} {value}{unit} (interval {low} to {high}, {self.n} clips)"


def interval(name: str, values: NDArray[np.float64], params: GateParams) -> Figure:
    """Mean over clips and seeds (n, s) and its percentile bootstrap interval; one clip has no spread.

    Clips are drawn with all their seeds and seeds with all their clips, each with replacement, because both
    are samples. With one seed this is the bootstrap over clips. The percentile interval of -x is the
    mirror image of that of x, so swapping the two sides of a comparison swaps its outcome exactly.

    Source: Owen 2007, "The pigeonhole bootstrap", for two crossed factors.
    """
    if not values.size:
        return Figure(name, 0.0, 0.0, 0.0, 0)
    n, seeds = values.shape
    mean = float(values.mean())
    if n == 1:
        return Figure(name, mean, mean, mean, 1)
    rng = np.random.default_rng(params.seed)
    # How often each was drawn, as weights: the means of all resamples take two products.
    of_clips = rng.multinomial(n, np.full(n, 1 / n), _RESAMPLES) / n
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), _RESAMPLES) / seeds
    means = ((of_clips @ values) * of_seeds).sum(axis=1)
    tails = [(1 - params.confidence) / 2, (1 + params.confidence) / 2]
    low, high = np.quantile(means, tails)
    return Figure(name, mean, float(low), float(high), n)


def by_clip_and_seed(rows: pd.DataFrame, group: str, kind: str, column: str) -> pd.DataFrame:
    """A column of one group and kind as a table: rows by clip_id, sorted, and columns by seed, from 0."""
    if column not in rows:
        return pd.DataFrame(columns=pd.Index([0]), dtype=np.float64)
    number = rows["kind"].map(lambda name: _seed_of(name, kind))
    chosen = rows.assign(seed=number)[(rows["group"] == group) & number.notna()]
    return chosen.pivot(index="clip_id", columns="seed", values=column).astype(np.float64)


def _seed_of(name: str, kind: str) -> int | None:
    """Number of the seed in the name of a kind; None if it is another kind."""
    if name == kind:
        return 0
    found = re.fullmatch(rf"{re.escape(kind)}_seed(\d+)", name)
    return int(found[1]) if found else None


def paired(
    candidate: pd.DataFrame, champion: pd.DataFrame, where: tuple[str, str], column: str
) -> NDArray[np.float64]:
    """How much better the candidate is, (n, s), on common seeds and common clips of the same truth."""
    sides = (candidate, champion)
    repeats = [
        by_clip_and_seed(rows, *where, "repeat_psnr_db")[[0]]
        for rows in sides
        if len(by_clip_and_seed(rows, *where, "gain_db"))
    ]
    if len(repeats) < 2:
        return np.empty((0, 1))
    truths = repeats[0].join(repeats[1], how="inner", lsuffix="l", rsuffix="r")
    same = truths.index[(truths.iloc[:, 0] - truths.iloc[:, 1]).abs() <= SAME_TRUTH_DB]
    own, other = (_goodness(by_clip_and_seed(rows, *where, column), column) for rows in sides)
    seeds = own.columns.intersection(other.columns)
    clips = same.intersection(own.index).intersection(other.index)
    beyond = own.loc[clips, seeds] - other.loc[clips, seeds]
    # Metrics are computed for the first seed only, and not for all clips.
    beyond = beyond.dropna(axis="columns", how="all").dropna()
    return beyond.to_numpy() if beyond.size else np.empty((0, 1))


def _goodness(values: pd.DataFrame, column: str) -> pd.DataFrame:
    """Values turned so that more is better, as gains in decibels, which no catalogue lists, are already."""
    metrics = {metric.key: metric for metric in METRICS}
    return metrics[column].goodness(values) if column in metrics else values

"""Bootstrap intervals of means over clips, and paired scores of two models.

Shots are drawn again, each with all of its clips: clips of one shot overlap and are no independent draws.
The spread between few shots is underestimated; so intervals are wider than the percentiles of the resamples,
by the ratio of Student's to the normal distribution.

Axes: n clips, k columns (seeds, frames or one), m shots, r resamples.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

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
    shots: int | None = None
    """Shots that these are from; None if that is not recorded, and clips count as independent."""
    unit: str = "dB"
    """Empty for metrics without one."""
    limit: float = 0.0
    """The interval's lower end must be above this."""

    def __str__(self) -> str:
        """The figure in words; metrics without a unit get one more digit."""
        value, low, high = (f"{x:+.{2 if self.unit else 3}f}" for x in (self.value, self.low, self.high))
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.name} {value}{unit} (interval {low} to {high}, {self.count})"

    @property
    def count(self) -> str:
        """Clips and shots in words."""
        return f"{self.n} clips" if self.shots is None else f"{self.n} clips of {self.shots} shots"

    @property
    def common(self) -> str:
        """The same where they are those of two models."""
        return self.count.replace("clips", "common clips")


class PairedScores(NamedTuple):
    """How much better one model is than another, (n, k), and the shot of each clip, (n,)."""

    values: NDArray[np.float64]
    shots: NDArray[np.object_] | None
    """None if shots are not recorded."""


NO_PAIRS = PairedScores(np.empty((0, 1)), None)


def interval(
    name: str, values: NDArray[np.float64], params: GateParams, shots: NDArray[np.object_] | None = None
) -> Figure:
    """Mean over clips and seeds (n, s) and its bootstrap interval; clips of one shot have no spread.

    Shots are drawn with all their clips and seeds, and seeds with all clips, each with replacement, because
    both are samples. The interval of -x is the mirror image of that of x, so swapping the two sides of a
    comparison swaps its outcome exactly.

    Args:
        name: Of the figure.
        values: A row for each clip, a column for each seed.
        params: `confidence` and `seed`.
        shots: The shot of each clip (n,); None = each clip is one.

    Source: Owen 2007, "The pigeonhole bootstrap", for two crossed factors; Davison and Hinkley 1997, section
    3.8, for drawing whole groups.
    """
    if not values.size:
        return Figure(name, 0.0, 0.0, 0.0, 0)
    n, seeds = values.shape
    mean = float(values.mean())
    rng = np.random.default_rng(params.seed)
    means, num_shots = means_of_draws(values, shots, _RESAMPLES, rng)
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), _RESAMPLES) / seeds
    low, high = ends_of((means * of_seeds).sum(axis=1), mean, num_shots, params.confidence)
    return Figure(name, mean, float(low), float(high), n, None if shots is None else num_shots)


def means_of_draws(
    values: NDArray[np.float64],
    shots: NDArray[np.object_] | None,
    resamples: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], int]:
    """Means over the clips of each resample, (n, k) -> (r, k), and the number of shots.

    Shots are drawn with replacement, each with all of its clips; None = each clip is one.
    """
    numbers = np.arange(len(values)) if shots is None else pd.factorize(shots)[0]
    num_shots = int(numbers.max()) + 1
    counts, sums = np.bincount(numbers), np.zeros((num_shots, values.shape[1]))
    np.add.at(sums, numbers, values)
    # How often each was drawn, as weights: the means of all resamples take two products.
    drawn = rng.multinomial(num_shots, np.full(num_shots, 1 / num_shots), resamples)
    return (drawn @ sums) / (drawn @ counts)[:, None], num_shots


def ends_of(
    means: NDArray[np.float64],
    mean: NDArray[np.float64] | float,
    num_shots: int,
    confidence: float,
) -> NDArray[np.float64]:
    """Ends (2, ...) of the interval around a mean, from the means of all resamples (r, ...).

    Distances of the percentiles from the mean are those of the normal distribution with the spread of m shots
    around their own mean. Times the ratio of Student's quantile with m - 1 degrees, and sqrt(m / (m - 1)).
    One shot has no spread: both ends are the mean.

    Source: Hesterberg 2015, "What Teachers Should Know about the Bootstrap", section 5.3: narrowness bias.
    """
    tail = (1 - confidence) / 2
    ends = np.quantile(means, [tail, 1 - tail], axis=0)
    if num_shots < 2:
        return ends
    wider = stdtrit(num_shots - 1, 1 - tail) / ndtri(1 - tail) * np.sqrt(num_shots / (num_shots - 1))
    return np.asarray(mean + (ends - mean) * wider)


def shots_of(rows: pd.DataFrame) -> pd.Series | None:
    """The shot of each clip, by clip_id; None for scores from before it was recorded."""
    if "shot" not in rows or rows["shot"].isna().any():
        return None
    return rows.drop_duplicates("clip_id").set_index("clip_id")["shot"]


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
) -> PairedScores:
    """How much better the candidate is, (n, s), on common seeds and common clips of the same truth.

    Clips are of the shots that the candidate's scores name, or the champion's if those name none.
    """
    sides = (candidate, champion)
    repeats = [
        by_clip_and_seed(rows, *where, "repeat_psnr_db")[[0]]
        for rows in sides
        if len(by_clip_and_seed(rows, *where, "gain_db"))
    ]
    if len(repeats) < 2:
        return NO_PAIRS
    truths = repeats[0].join(repeats[1], how="inner", lsuffix="l", rsuffix="r")
    same = truths.index[(truths.iloc[:, 0] - truths.iloc[:, 1]).abs() <= SAME_TRUTH_DB]
    own, other = (_goodness(by_clip_and_seed(rows, *where, column), column) for rows in sides)
    seeds = own.columns.intersection(other.columns)
    clips = same.intersection(own.index).intersection(other.index)
    beyond = own.loc[clips, seeds] - other.loc[clips, seeds]
    # Metrics are computed for the first seed only, and not for all clips.
    return with_shots(beyond.dropna(axis="columns", how="all"), *sides)


def with_shots(table: pd.DataFrame, *named_by: pd.DataFrame) -> PairedScores:
    """A table of clips (n, s) without gaps, and the shots that the first of these scores with shots names."""
    whole = table.dropna()
    if not whole.size:
        return NO_PAIRS
    shots = next((found for rows in named_by if (found := shots_of(rows)) is not None), None)
    return PairedScores(whole.to_numpy(), None if shots is None else shots[whole.index].to_numpy(object))


def _goodness(values: pd.DataFrame, column: str) -> pd.DataFrame:
    """Values turned so that more is better, as gains in decibels, which no catalogue lists, are already."""
    metrics = {metric.key: metric for metric in METRICS}
    return metrics[column].goodness(values) if column in metrics else values

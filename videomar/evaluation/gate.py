"""The gate: whether a candidate becomes champion, from numbers alone.

Clips are what is drawn at random, so intervals come from a bootstrap over clips. A challenger meets the
champion clip by clip, which removes the spread between easy and hard clips from the comparison.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import bootstrap

from videomar.config import GateParams

_RESAMPLES = 4999
_SAME_TRUTH_DB = 1e-6
"""How far the repeat-last PSNR of a clip may differ between two evaluations of the same truth."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over clips with its bootstrap interval, decibels."""

    name: str
    value: float
    low: float
    high: float
    n: int
    """Clips in the mean."""

    def __str__(self) -> str:
        return (
            f"{self.name} {self.value:+.2f} dB (interval {self.low:+.2f} to {self.high:+.2f}, {self.n} clips)"
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate decided and why."""

    promote: bool
    reasons: tuple[str, ...]
    """Sentences with numbers; of a refusal, only what stands against the candidate."""
    figures: tuple[Figure, ...]

    def to_dict(self) -> dict[str, Any]:
        """The decision as plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Check:
    """One condition: holds or not, and the sentence that says so."""

    holds: bool
    sentence: str
    figure: Figure | None = None


def decide_promotion(candidate: pd.DataFrame, champion: pd.DataFrame | None, params: GateParams) -> Decision:
    """Judge a candidate against the baselines and, where there is one, against the champion.

    The primary figure is the gain of the continuation over repeating the last frame, on simulated clips where
    there are any, else on real ones. It must be above 0 and above the untrained model's; against a champion
    the paired difference must be above 0, and the secondary figures (gain from one picture, and the other
    group's continuation) must not be worse by more than `margin_db`. "Above" means the interval's lower end.

    Args:
        candidate: Rows of evaluation.parquet: clip_id, group, kind, psnr_db, repeat_psnr_db, gain_db.
        champion: The same of the champion; None if there is no champion yet.
        params: Section `gate`.
    """
    group, other = _groups(candidate)
    checks = _check_baselines(candidate, group, params)
    if champion is not None:
        checks += [_check_better(candidate, champion, group, params)]
        secondary = [(group, "image"), (other, "continuation")]
        checks += [_check_not_worse(candidate, champion, where, params) for where in secondary]
    against = tuple(check.sentence for check in checks if not check.holds)
    reasons = against or tuple(check.sentence for check in checks)
    return Decision(not against, reasons, tuple(check.figure for check in checks if check.figure is not None))


def _check_baselines(rows: pd.DataFrame, group: str, params: GateParams) -> list[_Check]:
    gain = _gains(rows, group, "continuation")
    untrained = _gains(rows, group, "continuation_untrained")
    over_repeat = interval(f"{group} continuation over repeat-last", gain["gain_db"].to_numpy(), params)
    over_untrained = interval(
        f"{group} continuation over the untrained model", _paired(gain, untrained), params
    )
    return [_check_above(over_repeat, params), _check_above(over_untrained, params)]


def _check_better(candidate: pd.DataFrame, champion: pd.DataFrame, group: str, params: GateParams) -> _Check:
    paired = _paired(_gains(candidate, group, "continuation"), _gains(champion, group, "continuation"))
    figure = interval(f"{group} continuation over the champion", paired, params)
    if len(paired) >= params.min_clips and not np.any(paired):
        return _Check(False, f"No better: equal to the champion on all {len(paired)} common clips.", figure)
    return _check_above(figure, params)


def _check_above(figure: Figure, params: GateParams) -> _Check:
    if figure.n < params.min_clips:
        return _too_few(figure, params)
    if figure.low > 0:
        return _Check(True, f"Better: {figure}.", figure)
    return _Check(False, f"Not shown to be better: {figure}; the lower end must be above 0.", figure)


def _check_not_worse(
    candidate: pd.DataFrame, champion: pd.DataFrame, where: tuple[str, str], params: GateParams
) -> _Check:
    """Non-inferiority on a secondary figure; where too few clips are common it has no say."""
    group, kind = where
    paired = _paired(_gains(candidate, group, kind), _gains(champion, group, kind))
    name = "image-to-video" if kind == "image" else kind
    figure = interval(f"{group} {name} over the champion", paired, params)
    if figure.n < params.min_clips:
        return _Check(True, f"Not compared: {figure.name} ({figure.n} common clips).")
    if figure.low > -params.margin_db:
        return _Check(True, f"Not worse: {figure}; margin {params.margin_db:.2f} dB.", figure)
    return _Check(
        False, f"May be worse: {figure}; the lower end must be above {-params.margin_db:.2f} dB.", figure
    )


def _too_few(figure: Figure, params: GateParams) -> _Check:
    sentence = (
        f"Too few to rank: {figure.name} has {figure.n} common clips, expected at least {params.min_clips}."
    )
    return _Check(False, sentence, figure if figure.n else None)


def interval(name: str, values: NDArray[np.float64], params: GateParams) -> Figure:
    """Mean of one value per clip and its percentile bootstrap interval; fewer than two values have no spread.

    The percentile interval of -x is the mirror image of that of x, so swapping the two sides of a comparison
    swaps its outcome exactly; and it stays defined when all values are equal, where BCa does not.
    """
    if len(values) == 0:
        return Figure(name, 0.0, 0.0, 0.0, 0)
    mean = float(np.mean(values))
    if len(values) == 1:
        return Figure(name, mean, mean, mean, 1)
    result = bootstrap(
        (values,),
        np.mean,
        n_resamples=_RESAMPLES,
        confidence_level=params.confidence,
        method="percentile",
        rng=np.random.default_rng(params.seed),
    )
    low, high = result.confidence_interval
    return Figure(name, mean, float(low), float(high), len(values))


def _groups(rows: pd.DataFrame) -> tuple[str, str]:
    """The group whose continuation decides, and the other one."""
    simulated = len(_gains(rows, "simulated", "continuation")) > 0
    return ("simulated", "real") if simulated else ("real", "simulated")


def _gains(rows: pd.DataFrame, group: str, kind: str) -> pd.DataFrame:
    """gain_db and repeat_psnr_db by clip_id of one group and kind, in the order of clip_id."""
    of_kind = rows[(rows["group"] == group) & (rows["kind"] == kind)]
    return of_kind.set_index("clip_id")[["gain_db", "repeat_psnr_db"]].sort_index()


def _paired(left: pd.DataFrame, right: pd.DataFrame) -> NDArray[np.float64]:
    """Differences of the gain, left - right, over clips that both judged against the same truth."""
    both = left.join(right, how="inner", lsuffix="_left", rsuffix="_right")
    same_truth = (both["repeat_psnr_db_left"] - both["repeat_psnr_db_right"]).abs() <= _SAME_TRUTH_DB
    both = both[same_truth]
    return (both["gain_db_left"] - both["gain_db_right"]).to_numpy(dtype=np.float64)

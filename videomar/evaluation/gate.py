"""The gate: whether a candidate becomes champion, from numbers alone.

Clips are what is drawn at random, and so is the noise that each is made from: intervals come from a
bootstrap that draws clips and, by themselves, seeds. A challenger meets the champion clip by clip and seed by
seed, which removes the spread between easy and hard clips from the comparison; one that is better by the luck
of one seed is not better in the draws that miss it.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from videomar.config import GateParams
from videomar.errors import DataError
from videomar.evaluation.fingerprint import Fingerprint, compare
from videomar.evaluation.pairing import Figure, interval, paired, table_of

_BASELINES = {"continuation_untrained": "the untrained model", "continuation_linear": "a straight line"}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the gate knows of a model."""

    rows: pd.DataFrame
    """evaluation.parquet: clip_id, group, kind, psnr_db, repeat_psnr_db, gain_db, and metrics by key."""
    fingerprint: Fingerprint | None = None
    """What its scores depend on; None of models that were judged before it was recorded."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate decided and why."""

    promote: bool
    reasons: tuple[str, ...]
    """Sentences with numbers; of a refusal, what stands against the candidate, and what was not recorded."""
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


def decide_promotion(candidate: Evidence, champion: Evidence | None, params: GateParams) -> Decision:
    """Judge a candidate against the baselines and, where there is one, against the champion.

    The primary figure is the gain of the continuation over repeating the last frame, on simulated clips where
    there are any, else on real ones. It must be above 0 and above that of the untrained model and of latents
    that go on in a straight line; against a champion the paired difference must be above 0, and the secondary
    figures (gain from one picture, the other group's continuation, and metrics of `gate.margins`) must not be
    worse by more than their margins. "Above" means the interval's lower end.

    Two models are compared only if their scores' fingerprints allow it. A champion from before there were
    fingerprints is compared on the clips whose truth is the same, and the reasons say so.

    Args:
        candidate: The one that wants to become champion.
        champion: The present one; None if there is none yet.
        params: Section `gate`.
    """
    group, other = _groups(candidate.rows)
    checks = _check_baselines(candidate, group, params)
    notes: list[str] = []
    if champion is not None:
        unlike = _unlike(candidate, champion)
        if unlike:
            checks.append(_Check(False, unlike))
        else:
            checks += _check_champion(candidate.rows, champion.rows, (group, other), params)
            notes = _notes(candidate, champion)
    against = tuple(check.sentence for check in checks if not check.holds)
    reasons = against or tuple(check.sentence for check in checks)
    figures = tuple(check.figure for check in checks if check.figure is not None)
    return Decision(not against, (*reasons, *notes), figures)


def _unlike(candidate: Evidence, champion: Evidence) -> str:
    """Why the two may not be compared; empty if they may."""
    if candidate.fingerprint is None or champion.fingerprint is None:
        return ""
    try:
        compare(candidate.fingerprint, champion.fingerprint)
    except DataError as error:
        return f"Not comparable with the champion: {error}."
    return ""


def _notes(candidate: Evidence, champion: Evidence) -> list[str]:
    both = {"candidate": candidate, "champion": champion}
    bare = [name for name, evidence in both.items() if evidence.fingerprint is None]
    if not bare:
        return []
    return [f"Fingerprint of the {' and the '.join(bare)} not recorded: compared on clips of the same truth."]


def _check_baselines(candidate: Evidence, group: str, params: GateParams) -> list[_Check]:
    rows = candidate.rows
    gain = table_of(rows, group, "continuation", "gain_db")
    own = f"{group} continuation over"
    checks = [_check_above(f"{own} repeat-last", gain.dropna().to_numpy(), params)]
    for kind, name in _BASELINES.items():
        baseline = table_of(rows, group, kind, "gain_db")
        if baseline.empty and kind == "continuation_linear" and candidate.fingerprint is None:
            checks.append(_Check(True, f"Not recorded: {own} {name}, a baseline of later evaluations."))
            continue
        single = baseline[0] if 0 in baseline else pd.Series(dtype=np.float64)
        clips = gain.index.intersection(single.index)
        beyond = gain.loc[clips].sub(single[clips], axis=0).dropna()
        checks.append(_check_above(f"{own} {name}", beyond.to_numpy(), params))
    return checks


def _check_champion(
    candidate: pd.DataFrame, champion: pd.DataFrame, groups: tuple[str, str], params: GateParams
) -> list[_Check]:
    group, other = groups
    values = paired(candidate, champion, (group, "continuation"), "gain_db")
    checks = [_check_better(f"{group} continuation over the champion", values, params)]
    for where in ((group, "image"), (other, "continuation")):
        name = f"{where[0]} {'image-to-video' if where[1] == 'image' else where[1]} over the champion"
        values = paired(candidate, champion, where, "gain_db")
        checks.append(_check_not_worse(name, values, params.margin_db, params))
    for metric, margin in params.margins.items():
        values = paired(candidate, champion, (group, "continuation"), metric)
        name = f"{group} {metric} over the champion"
        checks.append(_check_not_worse(name, values, margin, params, unit=""))
    return checks


def _check_better(name: str, values: NDArray[np.float64], params: GateParams) -> _Check:
    if len(values) >= params.min_clips and not np.any(values):
        figure = interval(name, values, params)
        return _Check(False, f"No better: equal to the champion on all {len(values)} common clips.", figure)
    return _check_above(name, values, params)


def _check_above(name: str, values: NDArray[np.float64], params: GateParams) -> _Check:
    figure, seeds = interval(name, values, params), _seeds(values)
    if figure.n < params.min_clips:
        sentence = (
            f"Too few to rank: {name} has {figure.n} common clips, expected at least {params.min_clips}."
        )
        return _Check(False, sentence, figure if figure.n else None)
    if figure.low > 0:
        return _Check(True, f"Better: {figure}{seeds}.", figure)
    means = values.mean(axis=0)
    luck = "; not better from every seed" if means.min() <= 0 < means.max() else ""
    sentence = f"Not shown to be better: {figure}{seeds}; the lower end must be above 0{luck}."
    return _Check(False, sentence, figure)


def _check_not_worse(
    name: str, values: NDArray[np.float64], margin: float, params: GateParams, unit: str = "dB"
) -> _Check:
    """Non-inferiority on a secondary figure; where too few clips are common it has no say."""
    figure = replace(interval(name, values, params), unit=unit, limit=-margin)
    if figure.n < params.min_clips:
        return _Check(True, f"Not compared: {name} ({figure.n} common clips).")
    told, limit = f"{figure}{_seeds(values)}", f"{margin:.2f} {unit}".strip()
    if figure.low > figure.limit:
        return _Check(True, f"Not worse: {told}; margin {limit}.", figure)
    return _Check(False, f"May be worse: {told}; the lower end must be above -{limit}.", figure)


def _seeds(values: NDArray[np.float64]) -> str:
    count = values.shape[1]
    return f", {count} seeds each" if count > 1 else ""


def _groups(rows: pd.DataFrame) -> tuple[str, str]:
    """The group whose continuation decides, and the other one."""
    simulated = len(table_of(rows, "simulated", "continuation", "gain_db")) > 0
    return ("simulated", "real") if simulated else ("real", "simulated")

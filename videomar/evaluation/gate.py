"""The gate: decides from numbers alone whether a candidate becomes champion.

Both the clips and the noise that they are generated from are random. So intervals come from a bootstrap that
resamples shots, with all their clips, and, independently, seeds. A challenger is compared with the champion
clip by clip and seed by seed, which removes the spread between easy and hard clips. A challenger that is
better only by one lucky seed is not better in the resamples without that seed.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from videomar.config import GateParams
from videomar.evaluation.bootstrap import (
    Figure,
    PairedScores,
    by_clip_and_seed,
    interval,
    paired,
    shots_of,
    with_shots,
)
from videomar.evaluation.fingerprint import INFORMATIVE, Fingerprint, differences, incomparable_keys

_LEAST_SHOTS = 3
"""The gate does not rank models on fewer, unless `min_clips` is less: no interval of two says anything."""
_BASELINES = {"continuation_untrained": "the untrained model", "continuation_linear": "a straight line"}


@dataclass(frozen=True, slots=True)
class Evidence:
    """The scores of a model and their origin."""

    rows: pd.DataFrame
    """evaluation.parquet: clip_id, group, kind, shot, psnr_db, repeat_psnr_db, gain_db; metrics by key."""
    fingerprint: Fingerprint | None = None
    """What its scores depend on; None for models that were judged before it was recorded."""
    unreadable: str = ""
    """Why a recorded fingerprint could not be read; such scores are compared with no others."""
    folder: str = ""
    """Folder of artifacts of its run that rows and fingerprint are from."""
    again: str = ""
    """When and by which code it was judged again; empty for the scores of its registration."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The gate's decision and its reasons."""

    promote: bool
    reasons: tuple[str, ...]
    """Sentences with numbers; for a refusal, those against the candidate. Notes follow."""
    figures: tuple[Figure, ...]
    candidate_evidence: str
    """Folder of artifacts of the candidate's run that its scores are from."""
    champion_evidence: str | None
    """The same for the champion; None if there was none."""

    def to_dict(self) -> dict[str, Any]:
        """The decision as plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Check:
    """One condition: whether it holds, and a sentence about it."""

    holds: bool
    sentence: str
    figure: Figure | None = None


def decide_promotion(
    candidate: Evidence, champion: Evidence | None, params: GateParams, not_again: str = ""
) -> Decision:
    """Judge a candidate against the baselines and, if there is one, against the champion.

    The primary figure is the gain of the continuation over repeating the last frame, on simulated clips if
    there are any, else on real ones. It must be above 0 and above that of the untrained model and of latents
    continued in a straight line. Against a champion the paired difference must be above 0, and the secondary
    figures (gain from one picture, the other group's continuation, and metrics of `gate.margins`) must not be
    worse by more than their margins. "Above" refers to the lower end of the interval.

    A baseline that the champion is not shown to beat on these clips either, as when it was trained on other
    ones, is no reason to keep it: then the better of the two is promoted, and the reasons say so.

    Two models are compared only if their scores' fingerprints allow it. A champion from before fingerprints
    were recorded is compared on the clips with the same truth, and the reasons mention it.

    Args:
        candidate: The model to promote or refuse.
        champion: The current champion; None if there is none yet.
        params: Section `gate`.
        not_again: A sentence for a refusal: why no comparable scores could be made.
    """
    group, other = _groups(candidate.rows)
    checks = _check_baselines(candidate, group, params)
    notes: list[str] = []
    if champion is not None:
        obstacles = comparison_obstacles(candidate, champion)
        if obstacles:
            sentence = f"Not comparable with the champion: {'; '.join(obstacles)}."
            checks.append(_Check(False, f"{sentence} {not_again}".strip()))
        else:
            checks = _excuse(checks, _check_baselines(champion, group, params), params)
            checks += _check_champion(candidate.rows, champion.rows, (group, other), params)
            notes = _notes(candidate, champion)
    failed = tuple(check.sentence for check in checks if not check.holds)
    reasons = failed or tuple(check.sentence for check in checks)
    if shots_of(candidate.rows) is None and (champion is None or shots_of(champion.rows) is None):
        notes.append("Shots are not recorded: clips count as independent, and intervals are too narrow.")
    figures = tuple(check.figure for check in checks if check.figure is not None)
    champion_evidence = champion.folder if champion is not None else None
    return Decision(not failed, (*reasons, *notes), figures, candidate.folder, champion_evidence)


def comparison_obstacles(candidate: Evidence, champion: Evidence) -> list[str]:
    """Why the two may not be compared, key by key; empty if they may."""
    unreadable = [evidence.unreadable for evidence in (candidate, champion) if evidence.unreadable]
    if unreadable or candidate.fingerprint is None or champion.fingerprint is None:
        return unreadable
    return incomparable_keys(candidate.fingerprint, champion.fingerprint)


def _notes(candidate: Evidence, champion: Evidence) -> list[str]:
    """Sentences on the evidence for the reader of a comparison."""
    both = {"candidate": candidate, "champion": champion}
    notes = [
        f"The {name} was judged again ({evidence.again})."
        for name, evidence in both.items()
        if evidence.again
    ]
    bare = [name for name, evidence in both.items() if evidence.fingerprint is None]
    if bare:
        missing = f"Fingerprint of the {' and the '.join(bare)} not recorded"
        return [*notes, f"{missing}: compared on clips of the same truth."]
    assert candidate.fingerprint is not None
    assert champion.fingerprint is not None
    return [*notes, *_rounding(candidate.fingerprint, champion.fingerprint)]


def _rounding(candidate: Fingerprint, champion: Fingerprint) -> list[str]:
    """A sentence on differences that change scores only by rounding, if there are any."""
    unlike = differences(candidate, champion)
    names = {"processor": "kind of processor", "threads": "number of threads"}
    parts = [f"{names[key]} ({unlike[key][0]}, not {unlike[key][1]})" for key in INFORMATIVE if key in unlike]
    return [f"Judged on another {' and '.join(parts)}: differences of rounding size."] if parts else []


def _check_baselines(candidate: Evidence, group: str, params: GateParams) -> list[_Check]:
    rows = candidate.rows
    gain = by_clip_and_seed(rows, group, "continuation", "gain_db")
    own = f"{group} continuation over"
    checks = [_check_above(f"{own} repeat-last", with_shots(gain, rows), params)]
    for kind, name in _BASELINES.items():
        baseline = by_clip_and_seed(rows, group, kind, "gain_db")
        if baseline.empty and kind == "continuation_linear" and candidate.fingerprint is None:
            checks.append(_Check(True, f"Not recorded: {own} {name}, a baseline of later evaluations."))
            continue
        single = baseline[0] if 0 in baseline else pd.Series(dtype=np.float64)
        clips = gain.index.intersection(single.index)
        beyond = with_shots(gain.loc[clips].sub(single[clips], axis=0), rows)
        checks.append(_check_above(f"{own} {name}", beyond, params))
    return checks


def _excuse(checks: list[_Check], of_champion: list[_Check], params: GateParams) -> list[_Check]:
    """Let baselines count no longer that neither of the two is shown to beat, on enough clips to tell."""
    excused = []
    for check, other in zip(checks, of_champion, strict=True):
        figures = check.figure, other.figure
        if not (check.holds or other.holds) and all(each and each.n >= params.min_clips for each in figures):
            sentence = f"Neither is shown to be better: {figures[0]}; the champion: {figures[1]}."
            check = replace(check, holds=True, sentence=sentence)
        excused.append(check)
    return excused


def _check_champion(
    candidate: pd.DataFrame, champion: pd.DataFrame, groups: tuple[str, str], params: GateParams
) -> list[_Check]:
    group, other = groups
    scores = paired(candidate, champion, (group, "continuation"), "gain_db")
    checks = [_check_better(f"{group} continuation over the champion", scores, params)]
    for where in ((group, "image"), (other, "continuation")):
        name = f"{where[0]} {'image-to-video' if where[1] == 'image' else where[1]} over the champion"
        scores = paired(candidate, champion, where, "gain_db")
        checks.append(_check_not_worse(name, scores, params.margin_db, params))
    for metric, margin in params.margins.items():
        scores = paired(candidate, champion, (group, "continuation"), metric)
        name = f"{group} {metric} over the champion"
        checks.append(_check_not_worse(name, scores, margin, params, unit=""))
    return checks


def _check_better(name: str, scores: PairedScores, params: GateParams) -> _Check:
    values = scores.values
    if len(values) >= params.min_clips and not np.any(values):
        figure = interval(name, values, params, scores.shots)
        return _Check(False, f"No better: equal to the champion on all {len(values)} common clips.", figure)
    return _check_above(name, scores, params)


def _check_above(name: str, scores: PairedScores, params: GateParams) -> _Check:
    values = scores.values
    figure, seeds = interval(name, values, params, scores.shots), _seeds(values)
    least_shots = min(_LEAST_SHOTS, params.min_clips)
    if figure.n < params.min_clips or _shots(figure) < least_shots:
        rule = f"at least {params.min_clips}" + ("" if figure.shots is None else f" of {least_shots}")
        sentence = f"Too few to rank: {name} has {figure.common}, expected {rule}."
        return _Check(False, sentence, figure if figure.n else None)
    if figure.low > 0:
        return _Check(True, f"Better: {figure}{seeds}.", figure)
    means = values.mean(axis=0)
    luck = "; not better from every seed" if means.min() <= 0 < means.max() else ""
    sentence = f"Not shown to be better: {figure}{seeds}; the lower end must be above 0{luck}."
    return _Check(False, sentence, figure)


def _check_not_worse(
    name: str, scores: PairedScores, margin: float, params: GateParams, unit: str = "dB"
) -> _Check:
    """Non-inferiority on a secondary figure, which does not count if too few clips or shots are common.

    Of few shots, not even a model that is no worse could be shown to be so.
    """
    figure = interval(name, scores.values, params, scores.shots)
    figure = replace(figure, unit=unit, limit=-margin)
    if min(figure.n, _shots(figure)) < params.min_clips:
        return _Check(True, f"Not compared: {name} ({figure.common}).")
    result, limit = f"{figure}{_seeds(scores.values)}", f"{margin:.2f} {unit}".strip()
    if figure.low > figure.limit:
        return _Check(True, f"Not worse: {result}; margin {limit}.", figure)
    return _Check(False, f"May be worse: {result}; the lower end must be above -{limit}.", figure)


def _shots(figure: Figure) -> int:
    """Shots of a figure; where they are not recorded, its clips."""
    return figure.n if figure.shots is None else figure.shots


def _seeds(values: NDArray[np.float64]) -> str:
    count = values.shape[1]
    return f", {count} seeds each" if count > 1 else ""


def _groups(rows: pd.DataFrame) -> tuple[str, str]:
    """The group whose continuation decides, and the other one."""
    simulated = len(by_clip_and_seed(rows, "simulated", "continuation", "gain_db")) > 0
    return ("simulated", "real") if simulated else ("real", "simulated")

"""A registered version before the gate: numbers from the registry, the decision back into it."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tqdm import tqdm

from videomar.config import load_own_params
from videomar.errors import DataError, VideomarError
from videomar.registry.champion import carry_out
from videomar.registry.describe import write_card
from videomar.registry.judging import FACTS, RunStage, judge_again, keep_scores, key_of, run_here
from videomar.registry.trace import SEEN_SPLIT, Places, trace
from videomar.registry.versions import (
    Version,
    challenger,
    champion,
    evaluation_of,
    evidence_folder,
    facts_of,
    record_decision,
    require_run,
    version_of,
)

if TYPE_CHECKING:
    from videomar.evaluation.fingerprint import Fingerprint
    from videomar.evaluation.gate import Decision, Evidence


class _Sides(NamedTuple):
    """What the gate is to compare."""

    candidate: "Evidence"
    champion: "Evidence"
    not_again: str = ""
    """Why there are no scores that may be compared."""


def judge(version: Version, params: Path, run: RunStage = run_here) -> "Decision":
    """The gate's decision about a version, against the present champion if there is one.

    Args:
        version: The candidate.
        params: params.yaml, for section `gate`.
        run: What runs a stage, where a version has to be judged again.
    """
    from videomar.evaluation.gate import decide_promotion  # here: an idle release needs no pandas

    best, gate = champion(), load_own_params(params).gate
    if best is None:
        return decide_promotion(evidence_of(version), None, gate)
    sides = _find_sides(version, best, run)
    left_out = ""
    if sides.candidate.again or sides.champion.again:
        sides, left_out = _leave_out_trained(sides, (version, best))
    decision = decide_promotion(sides.candidate, sides.champion, gate, sides.not_again)
    return replace(decision, reasons=(*decision.reasons, left_out)) if left_out else decision


def evidence_of(version: Version, key: str = "") -> "Evidence":
    """What the gate saw of a version: rows, and the fingerprint where one was recorded.

    Args:
        version: Whose.
        key: Of scores that it got when it was judged again; empty: those of its registration.
    """
    from videomar.evaluation.gate import Evidence

    folder = evidence_folder(key)
    fingerprint, unreadable = _fingerprint_in(version, folder)
    again = _when(version.judged_again[key]) if key else ""
    return Evidence(evaluation_of(version, folder), fingerprint, unreadable, folder, again)


def _find_sides(candidate: Version, best: Version, run: RunStage) -> _Sides:
    """Scores of both that may be compared; where there are none, those of their registrations, and why.

    Where these may not be compared, and no others are kept that may, the champion is judged again. So is the
    candidate where its scores are not such as the pipeline makes here and now.
    """
    from videomar.evaluation.gate import comparison_obstacles

    sides = _Sides(evidence_of(candidate), evidence_of(best))
    against = comparison_obstacles(sides.candidate, sides.champion)
    if not against:
        return sides
    left = [best, candidate] if _is_present(sides.candidate) else [candidate, best]
    while (found := _in_common(candidate.number, best.number)) is None and left:
        version = left.pop(0)
        told = f"{candidate} and {best} cannot be compared yet ({'; '.join(against)})"
        tqdm.write(f"gate: {told}: {version} is judged again", file=sys.stderr)
        try:
            keep_scores(version, judge_again(version, run))
        except VideomarError as error:
            name = "It" if version is best else "The candidate"
            why = " ".join(str(error).split())
            return sides._replace(not_again=f"{name} could not be judged again: {why}.")
    return found or sides


def _leave_out_trained(sides: _Sides, versions: Sequence[Version]) -> tuple[_Sides, str]:
    """The sides without the clips that one of them was trained on, and a sentence if there are any.

    Which videos are held out changes as videos come and go: those of today are not all those of that day.
    """
    known = [clips for version in versions if (clips := trace(version, Places()).clips) is not None]
    trained = {clip for clips in known for clip in clips.loc[clips["split"] == SEEN_SPLIT, "clip_id"]}
    judged = set(sides.candidate.rows["clip_id"])
    if not judged & trained:
        return sides, ""
    candidate, best = (
        replace(side, rows=side.rows[~side.rows["clip_id"].isin(trained)]) for side in sides[:2]
    )
    told = f"Left out: {len(judged & trained)} of {len(judged)} clips, on which one of the two was trained."
    return _Sides(candidate, best, sides.not_again), told


def _in_common(candidate: str, best: str) -> _Sides | None:
    """Kept scores of two versions, by number, with equal fingerprints; None where there are none."""
    ours, theirs = version_of(candidate), version_of(best)
    mine, known = _keys(ours), _keys(theirs)
    common = next((scores for scores in mine if scores in known), None)
    if common is None:
        return None
    return _Sides(evidence_of(ours, mine[common]), evidence_of(theirs, known[common]))


def _keys(version: Version) -> dict[str, str]:
    """What `evidence_of` takes, by the key of the scores' fingerprint: the registration's first."""
    registered, _ = _fingerprint_in(version, evidence_folder())
    keys = {} if registered is None else {key_of(registered): ""}
    return {**keys, **{key: key for key in version.judged_again if key not in keys}}


def _fingerprint_in(version: Version, folder: str) -> "tuple[Fingerprint | None, str]":
    """The fingerprint that was recorded there, if one was, and why it cannot be read, if it cannot."""
    from videomar.evaluation.fingerprint import recorded_fingerprint

    try:
        return recorded_fingerprint(facts_of(version, folder)), ""
    except DataError as error:
        return None, str(error)


def _is_present(evidence: "Evidence") -> bool:
    """Whether the scores are such as the pipeline made here last."""
    from videomar.evaluation.fingerprint import read_details, recorded_fingerprint

    try:
        here = recorded_fingerprint(read_details(FACTS))
    except DataError:
        return False
    given = evidence.fingerprint
    return given is not None and here is not None and key_of(given) == key_of(here)


def _when(about: Mapping[str, str]) -> str:
    """The time and the code of a judgement, in words."""
    changes = " with changes" if about.get("git_dirty") == "true" else ""
    return f"{about['at']}, commit {about.get('git_commit', 'none')[:12]}{changes}"


def judge_once(version: Version, params: Path, run: RunStage = run_here) -> Version:
    """The version with the gate's decision on it, see `judge`; one that is recorded already stays."""
    if version.decision is not None:
        return version
    return record_decision(version, judge(version, params, run).to_dict())


def promote_version(number: str, force_reason: str, params: Path) -> list[str]:
    """Let the gate decide about a version, and move the alias if it allows or a reason overrules it.

    Args:
        number: A version's number; the newest candidate if empty.
        force_reason: Why the gate's refusal does not count; empty if it does.
        params: params.yaml, for section `gate`.

    Returns:
        Lines that say what happened.

    Raises:
        VideomarError: there is no such version, it is the champion already, or the gate refuses it.
    """
    version = require_run(version_of(number)) if number else challenger()
    if version is None:
        raise VideomarError("version: got none, expected a registered one; run `make run`")
    best = champion()
    if best is not None and best.number == version.number:
        raise VideomarError(f"{version}: is the champion already, expected another version")
    decision = judge(version, params)
    forced_because = "" if decision.promote else force_reason
    if forced_because:
        forced = f"Forced although the gate refused: {forced_because}"
        decision = replace(decision, promote=True, reasons=(forced, *decision.reasons))
    version = record_decision(version, decision.to_dict())
    write_card(version)
    carry_out(version, forced_because)
    if not decision.promote:
        raise VideomarError(f"{version}: refused by the gate: {' '.join(decision.reasons)}")
    return [*decision.reasons, describe_champion(version)]


def describe_champion(version: Version) -> str:
    """The champion in words; if there is none, why this version did not become it."""
    best = champion()
    if best is not None:
        return str(best)
    reasons = version.decision["reasons"] if version.decision is not None else ["not judged yet"]
    return f"none (the gate refused: {' '.join(reasons)})"

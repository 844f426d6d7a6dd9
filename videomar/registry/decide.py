"""The gate's decision about a registered version: which scores of it and of the champion are compared.

Scores are comparable if they have equal fingerprints: same clips, same metrics, same code. After an upgrade
those of the champion are out of date. So before the gate decides:

    scores of both registrations comparable?          -> compare them
    else scores of later evaluations, equal keys?     -> compare those
    else evaluate the champion again (and the candidate, if it is not of today), store the scores, look again

So a candidate that was trained on other clips, as the user's own after the samples, meets the champion on
clips that are held out for both, and the better one for these clips is promoted.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas
from tqdm import tqdm

from videomar.config import load_own_params
from videomar.config.layout import Layout
from videomar.errors import DataError, VideomarError
from videomar.registry.ancestors import TRAIN_SPLIT, trained_clips, videos_of
from videomar.registry.evaluate_again import RunStage, evaluate_again, key_of, run_here, save_scores
from videomar.registry.trace import Trace, trace
from videomar.registry.versions import (
    ORIGIN_TAG,
    Version,
    evaluation_details_of,
    evaluation_of,
    evidence_folder,
    opponent_of,
    version_of,
)

if TYPE_CHECKING:
    from videomar.evaluation.fingerprint import Fingerprint
    from videomar.evaluation.gate import Decision, Evidence


class _Sides(NamedTuple):
    """Scores for the gate to compare."""

    candidate: "Evidence"
    champion: "Evidence"
    not_again: str = ""
    """Why there are no comparable scores."""


def decide(version: Version, params: Path, run: RunStage = run_here) -> "Decision":
    """Let the gate decide about a version, against the champion if there is one (`opponent_of`).

    Args:
        version: The candidate.
        params: params.yaml, for section `gate`.
        run: Runs a stage, if a version has to be evaluated again.
    """
    from videomar.evaluation.gate import comparison_obstacles, decide_promotion  # idle: no pandas

    best, gate = opponent_of(version), load_own_params(params).gate
    if best is None:
        decision = decide_promotion(_first_evidence(version, run), None, gate)
        about = (*_seen_notes(version), *_unknown_notes((version,)))
        return replace(decision, reasons=(*decision.reasons, *about))
    sides = _find_sides(version, best, run)
    not_again, notes = sides.not_again, list[str]()
    if comparison_obstacles(sides.candidate, sides.champion):
        anyway = f'`videomar promote {version.number} --force --reason "..."` promotes the candidate anyway.'
        not_again = f"{not_again} {anyway}".lstrip()
    traces = [trace(each) for each in (version, best)]
    inherited = any("parent_weights_sha256" in each.tags for each in (version, best))
    if inherited or sides.candidate.again or sides.champion.again:
        sides, notes = _leave_out_trained(sides, traces)
    decision = decide_promotion(sides.candidate, sides.champion, gate, not_again)
    about = (*_other_data_notes(*traces), *_seen_notes(version), *notes, *_unknown_notes((version, best)))
    return replace(decision, reasons=(*decision.reasons, *about))


def evidence_of(version: Version, key: str = "") -> "Evidence":
    """Read the scores of a version, with their fingerprint if one was recorded.

    Args:
        version: The version.
        key: Of the scores of a later evaluation; empty for those of the registration.
    """
    from videomar.evaluation.gate import Evidence

    folder = evidence_folder(key)
    fingerprint, unreadable = _fingerprint_in(version, folder)
    again = _when(version.judged_again[key]) if key else ""
    return Evidence(evaluation_of(version, folder), fingerprint, unreadable, folder, again)


def _first_evidence(version: Version, run: RunStage) -> "Evidence":
    """Read the scores of a version's registration; of one registered from a folder, its latest ones.

    Raises:
        VideomarError: it has none and cannot be evaluated here.
    """
    if ORIGIN_TAG not in version.tags:
        return evidence_of(version)
    if not version.judged_again:
        tqdm.write(f"gate: {version} has no scores yet: it is judged now", file=sys.stderr)
        save_scores(version, evaluate_again(version, run))
        version = version_of(version.number)
    return evidence_of(version, version.last_judged_again or "")


def _find_sides(candidate: Version, best: Version, run: RunStage) -> _Sides:
    """Find comparable scores of both; if there are none, return the first of each, and why."""
    from videomar.evaluation.gate import comparison_obstacles

    sides = _Sides(_first_evidence(candidate, run), _first_evidence(best, run))
    against = comparison_obstacles(sides.candidate, sides.champion)
    if not against:
        return sides
    left = [best, candidate] if _is_present(sides.candidate) else [candidate, best]
    while (found := _comparable(candidate.number, best.number)) is None and left:
        version = left.pop(0)
        reason = f"{candidate} and {best} cannot be compared yet ({'; '.join(against)})"
        tqdm.write(f"gate: {reason}: {version} is judged again", file=sys.stderr)
        try:
            save_scores(version, evaluate_again(version, run))
        except VideomarError as error:
            name = "It" if version is best else "The candidate"
            why = " ".join(str(error).split())
            return sides._replace(not_again=f"{name} could not be judged again: {why}.")
    return found or sides


def _leave_out_trained(sides: _Sides, traces: Sequence[Trace]) -> tuple[_Sides, list[str]]:
    """Leave out the clips that one of the two, or a model that it started from, was trained on.

    The held-out videos of today were not all held out when an earlier version was trained. A clip of a video
    that the candidate holds out as a whole is left out if the champion was trained on any part of the video;
    a clip of a video that the candidate holds out in part, if it overlaps with a part that was trained on.
    Sentences say how many clips are left out, and which models' clips are not known.
    """
    known = [traced.clips for traced in traces if traced.clips is not None]
    ancestors = [ancestor for traced in traces for ancestor in traced.ancestors]
    inherited = [ancestor.clips for ancestor in ancestors if ancestor.clips is not None]
    unknown = sorted({ancestor.name for ancestor in ancestors if ancestor.clips is None})
    notes = [f"What {name} was trained on is not known: judged clips may be among it." for name in unknown]
    judged = set(sides.candidate.rows["clip_id"])
    of_train = [clips[clips["split"] == TRAIN_SPLIT] for clips in (*known, *inherited)]
    trained = {clip for clips in of_train for clip in clips["clip_id"]}
    if known:
        spans = pandas.concat(known).drop_duplicates("clip_id")
        own = traces[0].clips
        in_part = [] if own is None else own.loc[own["split"] == TRAIN_SPLIT, "video_sha256"]
        trained |= trained_clips(spans[spans["clip_id"].isin(judged)], of_train, set(in_part))
    if not judged & trained:
        return sides, notes
    candidate, best = (
        replace(side, rows=side.rows[~side.rows["clip_id"].isin(trained)]) for side in sides[:2]
    )
    which = "one of the two, or a model that it started from," if ancestors else "one of the two"
    left = f"Left out: {len(judged & trained)} of {len(judged)} clips, on which {which} was trained."
    return _Sides(candidate, best, sides.not_again), [left, *notes]


def _other_data_notes(candidate: Trace, best: Trace) -> list[str]:
    """A sentence if the champion was trained on mostly other videos than the candidate."""
    if candidate.clips is None or best.clips is None:
        return []
    own, other = (
        {*videos_of(traced.clips[traced.clips["split"] == TRAIN_SPLIT]).values()}
        for traced in (candidate, best)
        if traced.clips is not None
    )
    common = len(own & other)
    if not own or not other or 2 * common >= len(own):
        return []
    known = f"{common} of the candidate's {len(own)}" if common else "none of the candidate's"
    return [f"The champion was trained on other videos ({known}): this compares the two on clips of today."]


def _seen_notes(version: Version) -> list[str]:
    """A sentence on the clips that were not generated because a model that it started from had seen them."""
    count = version.tags.get("clips_left_out_as_seen")
    if count is None:
        return []
    return [f"Not judged: {count} clips of videos that a model which it started from was trained on."]


def _unknown_notes(versions: Sequence[Version]) -> list[str]:
    """A sentence for each version whose training clips are not recorded."""
    return [
        f"What {version} was trained on is not recorded: it may have seen the judged clips."
        for version in versions
        if ORIGIN_TAG in version.tags
    ]


def _comparable(candidate: str, best: str) -> _Sides | None:
    """Stored scores of two versions, by number, with equal keys; None if there are none."""
    ours, theirs = version_of(candidate), version_of(best)
    mine, known = _keys(ours), _keys(theirs)
    common = next((scores for scores in mine if scores in known), None)
    if common is None:
        return None
    return _Sides(evidence_of(ours, mine[common]), evidence_of(theirs, known[common]))


def _keys(version: Version) -> dict[str, str]:
    """Argument `key` of `evidence_of` by the key of the scores, those of the registration first."""
    registered, _ = _fingerprint_in(version, evidence_folder())
    keys = {} if registered is None else {key_of(registered): ""}
    return {**keys, **{key: key for key in version.judged_again if key not in keys}}


def _fingerprint_in(version: Version, folder: str) -> "tuple[Fingerprint | None, str]":
    """The fingerprint recorded in a folder of the evidence, or why it cannot be read."""
    from videomar.evaluation.fingerprint import recorded_fingerprint

    try:
        return recorded_fingerprint(evaluation_details_of(version, folder)), ""
    except DataError as error:
        return None, str(error)


def _is_present(evidence: "Evidence") -> bool:
    """Whether the scores are comparable with those that the pipeline made here last."""
    from videomar.evaluation.fingerprint import read_details, recorded_fingerprint

    try:
        here = recorded_fingerprint(read_details(Layout().evaluation_details))
    except DataError:
        return False
    own = evidence.fingerprint
    return own is not None and here is not None and key_of(own) == key_of(here)


def _when(about: Mapping[str, str]) -> str:
    """Time and code of a later evaluation, in words."""
    changes = " with changes" if about.get("git_dirty") == "true" else ""
    return f"{about['at']}, commit {about.get('git_commit', 'none')[:12]}{changes}"

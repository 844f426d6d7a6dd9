"""The steps of a release: register the candidate, decide, move the alias, write the report.

Each may be repeated after an interruption. `promote_version` takes the middle two for a version of the user's
choice, `judge_found_champion` for one that somebody made champion with other tools.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from videomar.config.layout import Layout
from videomar.errors import VideomarError
from videomar.evaluation.fingerprint import read_details, why_incomparable
from videomar.registry.ancestors import TRAIN_SPLIT, trained_clips
from videomar.registry.candidate import credits_file, register_candidate
from videomar.registry.champion import alias_history, apply_decision, roll_back, was_applied
from videomar.registry.decide import decide as ask_gate
from videomar.registry.evaluate_again import RunStage, run_here
from videomar.registry.evidence import text_of
from videomar.registry.model_card import write_card
from videomar.registry.trace import trace
from videomar.registry.versions import (
    MODEL,
    Version,
    all_versions,
    challenger,
    champion,
    download_evidence,
    evaluation_of,
    evidence_folder,
    mark_released,
    record_decision,
    require_run,
    version_of,
)

if TYPE_CHECKING:
    from videomar.report.family import Relative
    from videomar.report.galleries import Opponent
    from videomar.report.new_clips import ClipsSince

_HERE = Layout()
_SHOWN_TAGS = (
    "git_commit",
    "git_dirty",
    "lock_sha256",
    "checkpoint_sha256",
    "training_run",
    "parent",
    "parent_weights_sha256",
    "decided_at",
    "previous_champion",
)
"""Tags of a version that the report shows."""


def register() -> str:
    """Register the newest checkpoint, or find its version; return the version's number."""
    return register_candidate().number


def decide(number: str, run: RunStage = run_here) -> str:
    """Let the gate decide about a version, unless it has; return the decision in words.

    Args:
        number: The version's.
        run: Runs a stage, if the champion has to be evaluated again.
    """
    judge_found_champion(_HERE.params, run)
    version = version_of(number)
    if version.decision is None:
        version = record_decision(version, ask_gate(version, _HERE.params, run).to_dict())
    write_card(version)
    decision = version.decision or {}
    return f"gate: {'promoted' if decision['promote'] else 'refused'}. {' '.join(decision['reasons'])}"


def move_alias(number: str) -> None:
    """Move the alias `champion` to a version if the gate's decision allows it."""
    apply_decision(version_of(number))


def promote_version(number: str, force_reason: str, params: Path) -> list[str]:
    """Let the gate decide about a version, and move the alias if it allows or a reason overrules it.

    Args:
        number: A version's number; the newest candidate if empty.
        force_reason: Why the gate's refusal does not count; empty if it does.
        params: params.yaml, for section `gate`.

    Returns:
        Lines for the user.

    Raises:
        VideomarError: there is no such version, it is the champion already, or the gate refuses it.
    """
    version = require_run(version_of(number)) if number else challenger()
    if version is None:
        raise VideomarError("version: got none, expected a registered one; run `make run`")
    found = alias_history().unjudged
    if found is not None and found.after == version.number:
        lines = judge_found_champion(params, run_here, force_reason)
        if alias_history().expected != version.number:
            raise VideomarError(lines[0])
        return lines
    judge_found_champion(params)
    best = champion()
    if best is not None and best.number == version.number:
        raise VideomarError(f"{version}: is the champion already, expected another version")
    version, forced_because = _judge(version, params, run_here, force_reason)
    apply_decision(version, forced_because)
    decision = version.decision or {}
    if not decision["promote"]:
        raise VideomarError(f"{version}: refused by the gate: {' '.join(decision['reasons'])}")
    return [*decision["reasons"], describe_champion(version)]


def judge_found_champion(params: Path, run: RunStage = run_here, force_reason: str = "") -> list[str]:
    """Let the gate judge a champion that was made one with other tools, as on MLflow's page.

    What it allows is recorded as a promotion; what it refuses, or cannot judge, is undone.

    Args:
        params: params.yaml, for section `gate`.
        run: Runs a stage, if a version has to be evaluated again.
        force_reason: Why a refusal does not count; empty if it does.

    Returns:
        Lines for the user; none if there was nothing to judge.
    """
    history = alias_history()
    found = history.unjudged
    if found is None or found.after is None:
        return []
    name, forced_because = f"{MODEL} version {found.after}, made champion without videomar", ""
    try:
        version = require_run(version_of(found.after))
        allowed = (version.decision or {}).get("promote") and not was_applied(version, history)
        if not allowed or version.tags.get("previous_champion") != (found.before or "none"):
            version, forced_because = _judge(version, params, run, force_reason)
        decision = version.decision or {}
        refusal = "" if decision["promote"] else f"refused by the gate: {' '.join(decision['reasons'])}"
    except VideomarError as error:
        refusal = f"cannot be judged: {error}"
    if alias_history().keys != history.keys:  # moved again while it was judged
        return judge_found_champion(params, run, force_reason)
    if refusal:
        return [f"{name}: {refusal}", *roll_back(f"undone: {name}, {refusal}", undo=True)]
    apply_decision(version, forced_because)
    return [f"{name}: allowed by the gate: {' '.join(decision['reasons'])}", describe_champion(version)]


def _judge(version: Version, params: Path, run: RunStage, force_reason: str) -> tuple[Version, str]:
    """Let the gate decide and record it; return also the reason, if it overruled a refusal."""
    decision = ask_gate(version, params, run)
    forced_because = "" if decision.promote else force_reason
    if forced_because:
        forced = f"Forced although the gate refused: {forced_because}"
        decision = replace(decision, promote=True, reasons=(forced, *decision.reasons))
    version = record_decision(version, decision.to_dict())
    write_card(version)
    return version, forced_because


def describe_champion(version: Version) -> str:
    """Name the champion; if there is none, say why this version did not become it, and what stands in."""
    best = champion()
    if best is not None:
        return str(best)
    if version.decision is None:
        return "none (not judged yet)"
    newest = f"Until there is one, `champion` stands for the newest candidate, version {version.number}."
    return f"none (the gate refused: {version.decision['reasons'][0]} {newest})"


def summarise(version: Version) -> list[str]:
    """Say what came out of a release, where to look, and what to try next."""
    from videomar.report.closing_words import Outcome, closing_words

    best = champion()
    decision = version.decision or {"promote": False, "reasons": ["Not judged yet."], "figures": []}
    number = None if best is None else best.number
    changed = changed_by_new_clips(version)
    outcome = Outcome(number=version.number, decision=decision, champion=number, changed=changed)
    return closing_words(_HERE, outcome)


def changed_by_new_clips(version: Version) -> list[str]:
    """Say what new clips changed since the champion that a version met; empty without one or new videos."""
    from videomar.report.page import changed_since_champion

    with tempfile.TemporaryDirectory() as folder:
        found = changed_since_champion(_HERE, _opponent(version, Path(folder)))
    return [] if found is None else found.lines


def report(number: str) -> Path:
    """Write the report about a version; return its path."""
    from videomar.report.page import Release, write_report

    version = version_of(number)
    lineage = {name: version.tags[name] for name in _SHOWN_TAGS if name in version.tags}
    with tempfile.TemporaryDirectory() as folder:
        about = Release(
            candidate=str(version),
            champion=describe_champion(version),
            decision=version.decision,
            lineage=lineage,
            opponent=_opponent(version, Path(folder)),
            relatives=_relatives(version),
        )
        write_report(_HERE.report, _HERE, credits_file(), about)
    mark_released(version)
    return _HERE.report


def report_is_about(version: Version) -> bool:
    """Whether the report on disk is about this version."""
    title = f"<title>VideoMAR: {version}<"
    return _HERE.report.is_file() and title in _HERE.report.read_text(encoding="utf-8")[:2000]


def _relatives(version: Version) -> "list[Relative]":
    """Ancestors of a version; and the newest version of the other kind, fine-tuned or not, if any."""
    from videomar.report.family import Relative

    ours = read_details(_HERE.evaluation_details)
    ancestors = trace(version).ancestors
    found = [
        Relative(
            name=ancestor.name,
            role="before the parent" if number else "parent",
            metrics=ancestor.metrics,
            differing=why_incomparable(ours, ancestor.details) if ancestor.details else (),
        )
        for number, ancestor in enumerate(ancestors)
    ]
    tuned, shown = "parent" in version.tags, {ancestor.version for ancestor in ancestors}
    for other in reversed(all_versions()):
        if other.number in (version.number, *shown) or ("parent" in other.tags) == tuned:
            continue
        with tempfile.TemporaryDirectory() as folder:
            evidence = download_evidence(other, Path(folder))
            metrics = json.loads(text_of(evidence / "metrics/evaluate.json") or "{}")
            details = read_details(evidence / _HERE.evaluation_details.name)
        role = "trained from random weights" if tuned else f"started from {other.tags['parent']}"
        differing = why_incomparable(ours, details)
        return [*found, Relative(name=str(other), role=role, metrics=metrics, differing=differing)]
    return found


def _opponent(version: Version, folder: Path) -> "Opponent | None":
    """The champion that the gate compared the version with, and its scores; None if there was none."""
    from videomar.report.galleries import Opponent
    from videomar.report.kept_clips import KEPT_CLIPS

    number = version.tags.get("previous_champion", "none")
    if number == "none":
        return None
    before, decision = version_of(number), version.decision or {}
    compared = decision.get("champion_evidence") or evidence_folder()
    evidence = download_evidence(before, folder, compared)
    if not (evidence / _HERE.evaluation.name).is_file():
        return None
    details, rows = evidence / _HERE.evaluation_details.name, evaluation_of(before, compared)
    return Opponent(str(before), rows, evidence / KEPT_CLIPS, details, _clips_since(version, before))


def _clips_since(version: Version, before: Version) -> "ClipsSince | None":
    """The clips of a version and of the champion before it; None if those of either are not known."""
    import pandas

    from videomar.report.new_clips import ClipsSince

    own, theirs = trace(version).clips, trace(before)
    if own is None or theirs.clips is None:
        return None
    known = [theirs.clips, *(each.clips for each in theirs.ancestors if each.clips is not None)]
    in_train = [clips[clips["split"] == TRAIN_SPLIT] for clips in (own, *known)]
    seen = trained_clips(own[own["split"] != TRAIN_SPLIT], in_train[1:], set(in_train[0]["video_sha256"]))
    return ClipsSince(own, pandas.concat(known), seen)

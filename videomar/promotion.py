"""A registered version before the gate: numbers from the registry, the decision back into it."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from videomar.config import load_own_params
from videomar.describe import write_card
from videomar.errors import VideomarError
from videomar.tracking.alias import carry_out
from videomar.tracking.registry import (
    Version,
    challenger,
    champion,
    download_evidence,
    evaluation_of,
    record_decision,
    require_run,
    version_of,
)

if TYPE_CHECKING:
    from videomar.evaluation.gate import Decision, Evidence


def judge(version: Version, params: Path) -> "Decision":
    """The gate's decision about a version, against the present champion if there is one."""
    from videomar.evaluation.gate import decide_promotion  # here: an idle release needs no pandas

    best = champion()
    known = evidence_of(best) if best is not None else None
    return decide_promotion(evidence_of(version), known, load_own_params(params).gate)


def evidence_of(version: Version) -> "Evidence":
    """What the gate saw of a version: rows, and the fingerprint where one was recorded."""
    from videomar.evaluation.fingerprint import from_json
    from videomar.evaluation.gate import Evidence

    with tempfile.TemporaryDirectory() as folder:
        path = download_evidence(version, Path(folder)) / "evaluation.json"
        details = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    stated = details.get("fingerprint")
    return Evidence(evaluation_of(version), None if stated is None else from_json(json.dumps(stated)))


def judge_once(version: Version, params: Path) -> Version:
    """The version with the gate's decision on it; one that is recorded already stays."""
    if version.decision is not None:
        return version
    return record_decision(version, judge(version, params).to_dict())


def promote_version(number: str, force_reason: str, params: Path) -> list[str]:
    """Judge a version again and move the alias if the gate allows, or if a reason to overrule it is given.

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

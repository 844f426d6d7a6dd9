"""The steps of a release, each of which may be repeated after an interruption.

Register the candidate, let the gate decide, move the alias, write the report.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from videomar.config import load_own_params
from videomar.registry.candidate import Candidate, register_candidate
from videomar.registry.champion import carry_out
from videomar.registry.describe import write_card
from videomar.registry.judging import EVALUATION, FACTS, GENERATED, RunStage, run_here
from videomar.registry.promotion import describe_champion, judge_once
from videomar.registry.versions import (
    Version,
    download_evidence,
    evaluation_of,
    evidence_folder,
    mark_released,
    version_of,
)

if TYPE_CHECKING:
    from videomar.report.galleries import Opponent

REPORT = Path("reports/index.html")
PARAMS = Path("params.yaml")
LOCK = Path("dvc.lock")
LINEAGE = (
    "git_commit",
    "git_dirty",
    "lock_sha256",
    "checkpoint_sha256",
    "training_run",
    "decided_at",
    "previous_champion",
)
"""Tags of a version that the report shows."""


def register() -> str:
    """Register the newest checkpoint, or find it again; gives the version's number."""
    candidate = Candidate(
        checkpoints=Path("checkpoints/videomar"),
        tokenizer=Path("checkpoints/tokenizer"),
        evaluation=EVALUATION,
        metrics=Path("metrics"),
        params=PARAMS,
        lock=LOCK,
        raw=Path("data/raw"),
        ledger=Path("data/ledger.parquet"),
        latents=Path("data/latents"),
        inputs=(Path("takedowns.csv"), _credits()),
        facts=FACTS,
        keep_shown=_keep_clips,
    )
    return register_candidate(candidate).number


def decide(number: str, run: RunStage = run_here) -> str:
    """Let the gate decide about a version, unless it has; gives the decision in words.

    Args:
        number: The version's.
        run: What runs a stage, where the champion has to be judged again.
    """
    version = judge_once(version_of(number), PARAMS, run)
    write_card(version)
    decision = version.decision or {}
    return f"gate: {'promoted' if decision['promote'] else 'refused'}. {' '.join(decision['reasons'])}"


def move_alias(number: str) -> None:
    """Carry out the decision about a version: the alias `champion` moves to it, or stays."""
    carry_out(version_of(number))


def report(number: str) -> Path:
    """Write the report about a version; gives its path."""
    from videomar.report.page import Release, ReportSources, write_report

    version = version_of(number)
    sources = ReportSources(
        ledger=Path("data/ledger.parquet"),
        generated=GENERATED,
        evaluation=EVALUATION,
        details=FACTS,
        metrics=Path("metrics"),
        plots=Path("plots"),
        credits=_credits(),
    )
    lineage = {name: version.tags[name] for name in LINEAGE if name in version.tags}
    with tempfile.TemporaryDirectory() as folder:
        about = Release(
            candidate=str(version),
            champion=describe_champion(version),
            decision=version.decision,
            lineage=lineage,
            opponent=_opponent(version, Path(folder)),
        )
        write_report(REPORT, sources, about)
    mark_released(version)
    return REPORT


def report_is_about(version: Version) -> bool:
    """Whether the report on disk is there and is that of this version."""
    return REPORT.is_file() and f"<title>VideoMAR: {version}<" in REPORT.read_text(encoding="utf-8")[:2000]


def _opponent(version: Version, folder: Path) -> "Opponent | None":
    """The champion that the version met at the gate, with what was compared; None where it met none."""
    from videomar.report.galleries import Opponent
    from videomar.report.kept_clips import KEPT_CLIPS

    number = version.tags.get("previous_champion", "none")
    if number == "none":
        return None
    before, decision = version_of(number), version.decision or {}
    compared = decision.get("champion_evidence") or evidence_folder()
    evidence = download_evidence(before, folder, compared)
    if not (evidence / EVALUATION.name).is_file():
        return None
    return Opponent(
        str(before), evaluation_of(before, compared), evidence / KEPT_CLIPS, evidence / FACTS.name
    )


def _keep_clips(folder: Path) -> None:
    """Keep a few of the candidate's clips, for the report of a later challenger."""
    from videomar.report.kept_clips import KEPT_CLIPS, write_kept_clips

    write_kept_clips(GENERATED, folder / KEPT_CLIPS)


def _credits() -> Path:
    """Whose the clips are, where their folder says so."""
    return Path(load_own_params(PARAMS).samples.source) / "CREDITS.txt"

"""Release: register the candidate, let the gate decide, move the alias, write the report.

`python -m flows.release`. The steps are plain functions; flows/release_flow.py makes a Prefect flow of them.
That there is nothing to release is found out before Prefect is imported. Each step may be repeated after an
interruption.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomar.errors import DataError, VideomarError
from videomar.promotion import describe_champion, judge_once
from videomar.tracking.candidate import Candidate, register_candidate
from videomar.tracking.lineage import sha256_of
from videomar.tracking.registry import (
    Version,
    carry_out,
    find_released,
    mark_released,
    version_of,
)

if TYPE_CHECKING:
    from prefect import State


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
        evaluation=Path("data/evaluation.parquet"),
        metrics=Path("metrics"),
        params=PARAMS,
        lock=LOCK,
    )
    return register_candidate(candidate).number


def decide(number: str) -> str:
    """Let the gate decide about a version, unless it has; gives the decision in words."""
    decision = judge_once(version_of(number), PARAMS).decision or {}
    return f"gate: {'promoted' if decision['promote'] else 'refused'}. {' '.join(decision['reasons'])}"


def move_alias(number: str) -> None:
    """Carry out the decision about a version: the alias `champion` moves to it, or stays."""
    carry_out(version_of(number))


def report(number: str) -> Path:
    """Write the report about a version; gives its path."""
    from videomar.evaluation.report import Release, ReportSources, write_report

    version = version_of(number)
    sources = ReportSources(
        ledger=Path("data/ledger.parquet"),
        generated=Path("data/generated.parquet"),
        metrics=Path("metrics"),
        plots=Path("plots"),
        credits=Path("samples/CREDITS.txt"),
    )
    lineage = {name: version.tags[name] for name in LINEAGE if name in version.tags}
    about = Release(
        candidate=str(version),
        champion=describe_champion(version),
        decision=version.decision,
        lineage=lineage,
    )
    write_report(REPORT, sources, about)
    mark_released(version)
    return REPORT


def report_is_about(version: Version) -> bool:
    """Whether the report on disk is there and is that of this version."""
    return REPORT.is_file() and f"<title>VideoMAR: {version}<" in REPORT.read_text(encoding="utf-8")[:2000]


def may_retry(_task: object, _run: object, state: "State[Any]") -> bool:
    """Whether another try can help: not where the user has to mend something."""
    return not isinstance(state.result(raise_on_failure=False), VideomarError)


def main() -> None:
    """Release what the pipeline made; the last two lines printed are the report's path and the champion."""
    try:
        if not LOCK.is_file():
            raise DataError(f"{LOCK}: no such file, expected the pipeline's record; run `dvc repro`")
        released = find_released(sha256_of(LOCK))
        if released is None:
            from flows.release_flow import release

            released = version_of(release())
        elif not report_is_about(released):
            report(released.number)
        print(f"report: {REPORT}")
        print(f"champion: {describe_champion(released)}")
    except VideomarError as error:
        sys.exit(f"release: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()

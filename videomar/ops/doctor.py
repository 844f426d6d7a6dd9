"""All checks of `videomar doctor`. Each runs by itself, so that one that fails hides no other.

dvc.lock -- files on disk        check_pipeline
|
MLflow: run, version, alias      check_registry
|
services, packages, disk         check_machine
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from videomar.config.layout import Layout
from videomar.errors import Finding, VideomarError
from videomar.ops.check_machine import (
    disk_findings,
    environment_findings,
    leftover_findings,
    outbox_findings,
    package_findings,
    reading_findings,
    service_findings,
    worktree_findings,
)
from videomar.ops.check_pipeline import params_findings, pipeline_findings
from videomar.ops.check_registry import (
    alias_findings,
    registration_findings,
    release_findings,
    store_findings,
    version_findings,
)
from videomar.provenance.checkout import run_git, uncommitted_changes
from videomar.registry.champion_history import read_history
from videomar.registry.versions import challenger, version_of
from videomar.tracking.mlflow_store import open_client, store_problem

_CODE = ("videomar", "stages", "flows", "dvc.yaml")
# A store that does not answer is a finding: MLflow would wait for minutes.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


@dataclass(frozen=True, slots=True)
class Health:
    """Mismatches, and notes on what is no mismatch but good to know."""

    findings: Sequence[Finding]
    notes: Sequence[str]


def examine(layout: Layout) -> Health:
    """Run all checks. Nothing is changed."""
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    checks: dict[str, Callable[[], list[Finding]]] = {
        "environment": lambda: environment_findings(Path(".venv")),
        "params.yaml": lambda: params_findings(layout.params),
        "dvc.lock": lambda: pipeline_findings(layout.lock, layout.cache),
        "services": service_findings,
        "requirements.lock": lambda: package_findings(layout.pins) if layout.pins.is_file() else [],
        "ledger": lambda: reading_findings(layout),
        "leftovers": leftover_findings,
        "sweeps": lambda: worktree_findings(layout.local / "sweeps"),
        "disk": lambda: disk_findings(Path()),
        "outboxes": lambda: outbox_findings(layout.checkpoints),
        "MLflow": store_findings,
    }
    found = {name: _run(name, check) for name, check in checks.items()}
    notes = []
    if not found["MLflow"]:
        checks = {
            "alias": alias_findings,
            "registrations": registration_findings,
            "versions": lambda: version_findings(layout.lock),
            "release": lambda: release_findings(layout.lock, layout.training_run),
        }
        found |= {name: _run(name, check) for name, check in checks.items()}
        with contextlib.suppress(Exception):  # what keeps the notes from being read is found above
            notes = _notes(layout)
    return Health([finding for findings in found.values() for finding in findings], notes)


def _run(name: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return check()
    except Exception as error:  # MLflow, its database and DVC raise more than they document
        message = store_problem(error) or " ".join(str(error).split())[:300] or type(error).__name__
        return [Finding(name, f"could not be examined ({message})", "fix that, then run `videomar doctor`")]


def _notes(layout: Layout) -> list[str]:
    """The champion, and how the present code differs from its commit."""
    alias = read_history(open_client()).alias
    if alias is None:
        newest = challenger()
        stands_in = f"; `champion` stands for the newest candidate, {newest}" if newest is not None else ""
        return [f"no champion yet{stands_in}"]
    version = version_of(alias)
    notes = [f"champion: {version}"]
    commit = version.tags.get("git_commit", "none")
    with contextlib.suppress(VideomarError, OSError):  # no git here, or not that commit
        if since := run_git(Path(), "diff", "--name-only", commit, "--", *_CODE):
            files = len(since.splitlines())
            notes.append(f"code: {files} files differ from commit {commit[:12]} of the champion")
    lock = layout.lock
    changes = uncommitted_changes(Path(), [layout.params.name], lock) if lock.is_file() else None
    if changes:
        notes.append(f"git: {len(changes)} files are not committed ({', '.join(changes[:3])}, ...)")
    return notes

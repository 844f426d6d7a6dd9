"""Checks of MLflow: its store, the alias against its history, versions against dvc.lock and their tags."""

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from videomar.config.layout import WEIGHTS, Layout
from videomar.environment import answers
from videomar.errors import BIN, Finding
from videomar.files import sha256_of
from videomar.registry.champion_history import read_history
from videomar.registry.evidence import checkpoint_checksums, find_changes, recorded_checksums
from videomar.registry.release import report_is_about
from videomar.registry.versions import (
    LINEAGE_TAGS,
    MODEL,
    Version,
    all_versions,
    challenger,
    download_evidence,
    find_version,
    stored_folders,
)
from videomar.tracking.mlflow_store import open_client, tracking_uri
from videomar.tracking.run_log import SENT, read_json
from videomar.tracking.runs import OUTBOX, RUN_FILE, read_run_id

if TYPE_CHECKING:
    from mlflow import MlflowClient

_RELEASE = f"{BIN}python -m flows.release"
_RESTORE = f"{BIN}videomar restore BACKUP.tar --force"
_ROLLBACK = f"{BIN}videomar rollback"


def store_findings() -> list[Finding]:
    """Check that MLflow's store exists, answers and is not damaged."""
    uri = tracking_uri()
    if uri.startswith("http"):
        silent = not answers(f"{uri.rstrip('/')}/health")
        return [Finding("MLFLOW_TRACKING_URI", "does not answer, expected MLflow's", "make up")] * silent
    if not uri.startswith("sqlite:///"):
        return _database_findings(uri)
    path = Path(uri.removeprefix("sqlite:///"))
    if not path.is_file():
        return [Finding(str(path), "no such file, expected MLflow's store", "make run")]
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as store:
            result = str(store.execute("PRAGMA quick_check").fetchone()[0])
    except sqlite3.DatabaseError as error:
        result = str(error)
    return [] if result == "ok" else [Finding(str(path), f"is damaged: {' '.join(result.split())}", _RESTORE)]


def _database_findings(uri: str) -> list[Finding]:
    """Check that a database answers, with one attempt: MLflow would try for minutes."""
    import sqlalchemy

    try:
        with sqlalchemy.create_engine(uri).connect():
            return []
    except (sqlalchemy.exc.SQLAlchemyError, ImportError):
        # Without the message of the error, which may contain the password.
        what = "names a database that does not answer, expected MLflow's"
        return [Finding("MLFLOW_TRACKING_URI", what, "unset MLFLOW_TRACKING_URI")]


def alias_findings() -> list[Finding]:
    """Compare the alias `champion` with its history. An interrupted move is reported, not completed."""
    history = read_history(open_client())
    where, settle = f"alias champion of {MODEL}", f"{BIN}videomar history"
    if not history.is_settled:
        what = f"is {history.alias or 'nowhere'}, but a move to {history.expected or 'none'} was interrupted"
        return [Finding(where, what, settle)]  # any use of the registry completes it
    if history.alias == history.expected:
        return []
    if history.alias is None:
        what = f"is gone, expected version {history.expected}: it or the alias was deleted"
        return [Finding(where, what, _ROLLBACK)]
    what = f"is version {history.alias}, but the history ends with {history.expected or 'none'}"
    return [Finding(where, what, settle)]  # records the move


def version_findings(lock: Path) -> list[Finding]:
    """Check runs, tags and bytes of the champion, the challenger and the version of the present dvc.lock."""
    client = open_client()
    history, newest = read_history(client), challenger()
    present = find_version(client, lock) if lock.is_file() else None
    wanted = {history.alias, newest and newest.number, present and present.number}
    return [
        finding
        for version in all_versions()
        if version.number in wanted
        for finding in _examine(client, version, version.number == history.alias)
    ]


def release_findings(lock: Path, checkpoints: Path) -> list[Finding]:
    """Check that the pipeline's results are registered and released, and that MLflow has the training run."""
    client = open_client()
    if not lock.is_file() or not any(checkpoints.glob("step_*")):
        return []
    findings = []
    if training := read_run_id(checkpoints / RUN_FILE):
        stage = _stage_of(client, training)
        fix = _restore_run(training) if stage == "deleted" else _send_again(checkpoints)
        if stage != "active":
            what = f"names training run {training}, which is {stage} in MLflow, expected an active one"
            findings.append(Finding(str(checkpoints / RUN_FILE), what, fix))
    present = find_version(client, lock)
    if present is None:
        what = "its newest checkpoint is of no registered version, expected one made from this dvc.lock"
        findings.append(Finding(str(checkpoints), what, "make run"))
    elif "released_at" not in present.tags:
        findings.append(Finding(str(present), "is registered, but its release was interrupted", _RELEASE))
    elif not report_is_about(present):
        what = f"is missing or about another version, expected {present}"
        findings.append(Finding(str(Layout().report), what, _RELEASE))
    return findings


def _examine(client: "MlflowClient", version: Version, is_champion: bool) -> Iterator[Finding]:
    leave = _ROLLBACK if is_champion else _RESTORE
    if (stage := _stage_of(client, version.run_id)) != "active":
        fix = _restore_run(version.run_id) if stage == "deleted" else leave
        yield Finding(str(version), f"its run {version.run_id} is {stage}, expected an active one", fix)
        return
    with tempfile.TemporaryDirectory() as folder:
        evidence = download_evidence(version, Path(folder))
        damages = _damages(version, evidence)
        for damage in damages:
            yield Finding(str(version), damage, leave)
        computed = {}
        if (evidence / "dvc.lock").is_file():
            computed["lock_sha256"] = sha256_of(evidence / "dvc.lock")
        if not damages:
            weights = stored_folders(version)["checkpoint"]
            files = [weights / name for name in WEIGHTS if (weights / name).is_file()]
            computed["checkpoint_sha256"] = sha256_of(*files)
    run_tags = client.get_run(version.run_id).data.tags
    for name in LINEAGE_TAGS:
        truth, run = computed.get(name, run_tags.get(name)), quote(version.run_id)
        if truth is None:
            continue
        if version.tags.get(name) != truth:
            call = f"set_model_version_tag('{MODEL}', '{version.number}', '{name}', '{truth}')"
            yield _false_tag(str(version), name, version.tags.get(name), truth, call)
        if run_tags.get(name) != truth:
            call = f"set_tag('{run}', '{name}', '{truth}')"
            yield _false_tag(f"run {run}", name, run_tags.get(name), truth, call)


def _damages(version: Version, evidence: Path) -> list[str]:
    """Differences between the stored files of a version and their recorded checksums."""
    if version.origin is None and not (evidence / "dvc.lock").is_file():
        return ["its evidence has no dvc.lock, expected that of its registration"]
    try:
        folders = stored_folders(version)
        # A version older than the tables has the checksums of its checkpoint only.
        recorded = recorded_checksums(evidence) or checkpoint_checksums(folders["checkpoint"])
    except Exception as error:  # MLflow raises what its store does: of S3, of HTTP, of the disk
        return [f"its artifacts cannot be read ({' '.join(str(error).split())[:200]})"]
    changes = find_changes(recorded, folders)
    return [f"{change['file']} {change['problem']}, expected as registered" for change in changes]


def _false_tag(where: str, name: str, got: str | None, truth: str, call: str) -> Finding:
    code = f"from videomar.tracking.mlflow_store import open_client; open_client().{call}"
    return Finding(where, f"tag {name} is {got}, expected {truth}, as registered", f'{BIN}python -c "{code}"')


def _stage_of(client: "MlflowClient", run_id: str) -> str:
    """`active`, `deleted`, or `gone` if it cannot be restored."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_run(run_id).info.lifecycle_stage)
    except MlflowException:
        return "gone"


def _send_again(checkpoints: Path) -> str:
    """Command that sends a run to MLflow again, from its outbox; without one only a backup helps."""
    sent = checkpoints / OUTBOX / str(read_json(checkpoints / RUN_FILE).get("name")) / SENT
    return f"rm {sent} && {BIN}videomar upload {checkpoints}" if sent.is_file() else _RESTORE


def _restore_run(run_id: str) -> str:
    # MLflow's command line has another default store. An address that may contain a password is not shown.
    uri = tracking_uri()
    where = f"MLFLOW_TRACKING_URI={quote(uri)} " if uri.startswith("sqlite:///") else ""
    return f"{where}{BIN}mlflow runs restore --run-id {quote(run_id)}"

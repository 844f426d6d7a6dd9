"""Checks of MLflow: its store, the alias against its history, versions against dvc.lock and their tags."""

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from videomar.config.layout import WEIGHTS, Layout
from videomar.environment import answers
from videomar.errors import BIN, Finding, VideomarError
from videomar.files import sha256_of
from videomar.ops.gc import DEFAULT_DAYS, REPLACED
from videomar.ops.store_repair import roots_outside
from videomar.ops.unused_runs import find_registrations
from videomar.registry.champion_history import champions, read_history
from videomar.registry.evidence import checkpoint_checksums, find_changes, recorded_checksums
from videomar.registry.release import report_is_about
from videomar.registry.versions import (
    CHAMPION,
    LINEAGE_TAGS,
    MODEL,
    Version,
    all_versions,
    challenger,
    download_evidence,
    find_version,
    is_released,
    stored_folders,
)
from videomar.tracking.artifact_roots import artifacts_of, foreign_folders, local_path, read_store
from videomar.tracking.mlflow_store import open_client, other_tables, store_problem, tracking_uri
from videomar.tracking.run_log import SENT, read_json
from videomar.tracking.runs import OUTBOX, RUN_FILE, read_run_id

if TYPE_CHECKING:
    from mlflow import MlflowClient

_AGAIN = f"{BIN}videomar doctor"
"""For faults that pass: whatever it is, nothing is changed because of it."""
_FIX = f"{BIN}videomar doctor --fix"
_RELEASE = f"{BIN}videomar release"
_RESTORE = f"{BIN}videomar restore BACKUP.tar --force"
_ROLLBACK = f"{BIN}videomar rollback"
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
"""SQLite's names of errors that do not pass."""
_GONE = ("No such file", "No such artifact", "NoSuchKey", "(404)", "does not exist")
"""What stores say of files that they do not have; anything else may be a fault that passes."""
_UNJUDGED = "made champion without videomar: the gate has not judged it"
_PATIENCE_S = 5.0


def store_findings() -> list[Finding]:
    """Check that MLflow's store exists, answers, is not damaged, and names artifacts of this checkout."""
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
        with read_store(path, _PATIENCE_S) as store:
            result = str(store.execute("PRAGMA quick_check").fetchone()[0])
        if result == "ok":
            other = other_tables(path)
            return _location_findings(path) if other is None else [_other_tables_finding(path, other)]
    except sqlite3.Error as error:
        result = " ".join(str(error).split())
        if not getattr(error, "sqlite_errorname", "").startswith(_DAMAGE):
            return [Finding(str(path), str(store_problem(error)), _AGAIN)]
    what = (
        f'is damaged: {result}, expected SQLite\'s "ok"; the restore keeps it in {Layout().local}/{REPLACED}*'
    )
    return [Finding(str(path), what, _RESTORE)]


def _other_tables_finding(path: Path, what: str) -> Finding:
    return Finding(str(path), what, _FIX if "--fix" in what else "make setup")


def _location_findings(store: Path) -> list[Finding]:
    """Find artifacts that the store names outside of the checkout, as after `mv` or `cp -a`, or nowhere."""
    here, roots = artifacts_of(store), roots_outside(store)
    findings = []
    if roots:
        rows, where = sum(root.rows for root in roots), " and ".join(str(root.folder) for root in roots)
        what = f"has {rows} paths to artifacts in {where}, outside of this checkout, expected {here}"
        findings.append(Finding(str(store), what, _FIX))
    for owner, location in foreign_folders(store).items():
        if not any(location.startswith(f"{root.prefix}/") for root in roots):
            what = f"names {location} as its folder, expected one below {here}; gc and --fix leave it alone"
            call = f"get_logged_model({owner!r})" if owner.startswith("m-") else f"get_run({owner!r})"
            findings.append(Finding(f"MLflow's {owner}", what, _python(f"print(open_client().{call})")))
    query = (
        "SELECT COUNT(*) FROM model_versions JOIN runs ON run_uuid = run_id WHERE artifact_uri LIKE ? || '%'"
    )
    with read_store(store) as database:
        (count,) = database.execute(query, [here.as_uri()]).fetchone()
    if count and not here.is_dir():
        what = f"no such folder, expected the files of {count} registered versions; is its disk mounted?"
        findings.append(Finding(str(here), what, _AGAIN))
    return findings


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
    judge = f"{BIN}videomar promote {history.alias}"  # records the move, and judges or undoes it
    if not history.is_settled:
        what = f"is {history.alias or 'nowhere'}, but a move to {history.expected or 'none'} was interrupted"
        return [Finding(where, what, settle)]  # any use of the registry completes it
    if history.alias == history.expected:
        if history.unjudged is None:
            return []
        return [Finding(where, f"is version {history.alias}, {_UNJUDGED}", judge)]
    if history.alias is None and history.expected in [version.number for version in all_versions()]:
        what = f"is gone, expected version {history.expected}, which is still registered"
        call = f"set_registered_model_alias({MODEL!r}, {CHAMPION!r}, {history.expected!r})"
        return [Finding(where, what, _python(f"open_client().{call}"))]
    if history.alias is None:
        what = f"is gone, expected version {history.expected}, which was deleted"
        return [Finding(where, what, _ROLLBACK)]
    what = f"is version {history.alias}, but the history ends with {history.expected or 'none'}"
    if history.alias in champions(history.moves):
        return [Finding(where, what, settle)]  # records a rollback, which needs no gate
    return [Finding(where, f"{what}; it was {_UNJUDGED}", judge)]


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


def registration_findings() -> list[Finding]:
    """Find models of registrations that were killed: no version names them."""
    what = "is of a registration that was interrupted, or of a deleted version, expected nothing"
    return [
        Finding(item.what, what, f"{BIN}videomar gc --yes")
        for item in find_registrations(DEFAULT_DAYS, all_versions())[0]
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
    elif not is_released(present):
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
        try:
            _require_access(client.get_run(version.run_id).info.artifact_uri)
            evidence = download_evidence(version, Path(folder))
            damages = _damages(version, evidence)
        except (VideomarError, OSError) as error:
            problem = " ".join(str(error).split())[:200]
            yield Finding(
                str(version), f"its artifacts cannot be read now ({problem}), expected them", _AGAIN
            )
            return
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
        truth, run = computed.get(name, run_tags.get(name)), version.run_id
        if truth is None:
            continue
        if version.tags.get(name) != truth:
            call = f"set_model_version_tag({MODEL!r}, {version.number!r}, {name!r}, {truth!r})"
            yield _false_tag(str(version), name, version.tags.get(name), truth, call)
        if run_tags.get(name) != truth:
            call = f"set_tag({run!r}, {name!r}, {truth!r})"
            yield _false_tag(f"run {run}", name, run_tags.get(name), truth, call)


def _damages(version: Version, evidence: Path) -> list[str]:
    """Differences between the stored files of a version and their recorded checksums."""
    if version.origin is None and not (evidence / "dvc.lock").is_file():
        return ["its evidence has no dvc.lock, expected that of its registration"]
    try:
        folders = stored_folders(version)
        recorded = recorded_checksums(evidence)
        if not any(row.kind == "checkpoint" for row in recorded):  # older than the table
            recorded += checkpoint_checksums(folders["checkpoint"])
    except Exception as error:  # MLflow raises what its store does: of S3, of HTTP, of the disk
        if not any(words in str(error) for words in _GONE):
            raise VideomarError(str(error)) from error
        return [f"its artifacts are gone ({' '.join(str(error).split())[:200]})"]
    changes = find_changes(recorded, folders)
    return [f"{change['file']} {change['problem']}, expected as registered" for change in changes]


def _require_access(location: str) -> None:
    """Raise the system's error about a folder that is there but cannot be listed: MLflow takes it for empty.

    Raises:
        OSError: as the system says.
    """
    if (folder := local_path(location)) is None:
        return
    with contextlib.suppress(FileNotFoundError), os.scandir(folder.parent) as entries:
        next(entries, None)


def _false_tag(where: str, name: str, got: str | None, truth: str, call: str) -> Finding:
    return Finding(
        where, f"tag {name} is {got}, expected {truth}, as registered", _python(f"open_client().{call}")
    )


def _python(code: str) -> str:
    """Command that runs a line of code: quoted, because values in it come from the store."""
    return f"{BIN}python -c {quote(f'from videomar.tracking.mlflow_store import open_client; {code}')}"


def _stage_of(client: "MlflowClient", run_id: str) -> str:
    """`active`, `deleted`, or `gone` if it cannot be restored."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_run(run_id).info.lifecycle_stage)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise  # a store that does not answer says nothing of the run
        return "gone"


def _send_again(checkpoints: Path) -> str:
    """Command that sends a run to MLflow again, from its outbox; without one only a backup helps."""
    sent = checkpoints / OUTBOX / str(read_json(checkpoints / RUN_FILE).get("name")) / SENT
    return f"rm {quote(str(sent))} && {BIN}videomar upload {checkpoints}" if sent.is_file() else _RESTORE


def _restore_run(run_id: str) -> str:
    # MLflow's command line has another default store. An address that may contain a password is not shown.
    uri = tracking_uri()
    where = f"MLFLOW_TRACKING_URI={quote(uri)} " if uri.startswith("sqlite:///") else ""
    return f"{where}{BIN}mlflow runs restore --run-id {quote(run_id)}"

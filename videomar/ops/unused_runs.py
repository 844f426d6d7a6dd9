"""Runs of MLflow's local store that nothing needs: deleted ones, and those of interrupted registrations.

What the store says is data: only folders that MLflow itself makes for a run or a model are removed.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from videomar.errors import VideomarError
from videomar.ops.gc import DRAFT_S, Garbage, bytes_of
from videomar.registry.versions import MODEL, Version
from videomar.tracking.artifact_roots import is_own, local_path, read_store
from videomar.tracking.mlflow_store import open_client, tracking_uri
from videomar.tracking.staging import staged_folders

_DAY_MS = 86_400_000


def find_runs(days: float, versions: Sequence[Version]) -> tuple[list[Garbage], list[str]]:
    """Find runs deleted in MLflow so many days ago that no version needs, and notes on the others."""
    uri = tracking_uri()
    if not uri.startswith("sqlite:///"):
        return [], [
            "MLflow: its store is not the SQLite file, `mlflow gc` on its server removes deleted runs"
        ]
    store = Path(uri.removeprefix("sqlite:///"))
    found = _deleted_runs(store, days)
    needed = _needed_runs(versions, store)
    notes = [f"MLflow run {run}: kept, a registered version is from it" for run in found if run in needed]
    chosen = {run: where for run, where in found.items() if run not in needed}
    for run, where in list(chosen.items()):
        if not is_own(where, run, store):
            notes.append(f"MLflow run {run}: kept, {where} is not a folder that MLflow makes for it here")
            del chosen[run]
    if chosen and (because := _why_unsafe(versions, store)):
        return [], [*notes, f"MLflow: {len(chosen)} deleted runs kept, {because}"]
    return [_run(run, where, days) for run, where in chosen.items()], notes


def find_registrations(days: float, versions: Sequence[Version]) -> tuple[list[Garbage], list[str]]:
    """Find runs of registrations that a kill interrupted, and of versions deleted so many days ago.

    Each holds a whole model, which no version names. Beside them come notes on what is kept.
    """
    uri = tracking_uri()
    if not uri.startswith("sqlite:///"):
        return [], []
    store, now_ms = Path(uri.removeprefix("sqlite:///")), time.time() * 1000
    query = (
        "SELECT runs.run_uuid, artifact_uri, status, MAX(start_time, COALESCE(end_time, 0)) FROM runs "
        "JOIN tags ON tags.run_uuid = runs.run_uuid AND key = 'weights_sha256' "
        "WHERE lifecycle_stage = 'active'"
    )
    models = "SELECT model_id, artifact_location FROM logged_models WHERE source_run_id = ?"
    with read_store(store) as database:
        runs = database.execute(query).fetchall()
        logged = {run: dict(database.execute(models, [run]).fetchall()) for run, *_ in runs}
    staged = {each.run_id: each.ended for each in staged_folders()}
    needed = _needed_runs(versions, store) | {run for run, ended in staged.items() if not ended}
    found = []
    for run, where, status, last_ms in runs:
        long_ms = days * _DAY_MS if status == "FINISHED" else DRAFT_S * 1000
        folders = {run: where, **logged[run]}
        own = all(is_own(place, owner, store) for owner, place in folders.items())
        if run not in needed and own and (run in staged or now_ms - last_ms > long_ms):
            found.append(_registration(run, folders))
    if found and (because := _why_unsafe(versions, store)):
        return [], [f"MLflow: runs of {len(found)} interrupted registrations kept, {because}"]
    return found, []


def _deleted_runs(store: Path, days: float) -> dict[str, str]:
    """Location of the artifacts of each run deleted so long ago, as `mlflow gc --older-than` counts."""
    query = (
        "SELECT run_uuid, artifact_uri FROM runs WHERE lifecycle_stage = 'deleted' "
        "AND deleted_time < CAST(strftime('%s', 'now') AS INTEGER) * 1000 - ?"
    )
    with read_store(store) as database:
        return dict(database.execute(query, [days * _DAY_MS]).fetchall())


def _needed_runs(versions: Sequence[Version], store: Path) -> set[str | None]:
    """Runs that versions need: their own, of their training, of their parents, and of other models."""
    needed = {run for version in versions for run in (version.run_id, version.tags.get("training_run"))}
    needed |= {version.tags.get("parent_run") for version in versions}
    query = (
        "SELECT run_id FROM model_versions UNION SELECT source_run_id FROM logged_models, model_versions "
        "WHERE source = 'models:/' || model_id OR source LIKE 'models:/' || model_id || '/%'"
    )
    with read_store(store) as database:
        return needed | {run for (run,) in database.execute(query)}


def _why_unsafe(versions: Sequence[Version], store: Path) -> str:
    """Why `mlflow gc` may not be used here: it also removes deleted experiments and models, needed or not."""
    from mlflow.entities import ViewType
    from mlflow.exceptions import MlflowException

    client = open_client()
    if client.search_experiments(view_type=ViewType.DELETED_ONLY):
        return "`mlflow gc` would remove the deleted experiment too; `mlflow experiments restore` it first"
    for version in versions:
        model_id = client.get_model_version(MODEL, version.number).model_id
        try:
            if model_id:
                client.get_logged_model(model_id)
        except MlflowException:
            return f"`mlflow gc` would remove the deleted logged model of {version} too"
    query = "SELECT model_id, artifact_location FROM logged_models WHERE lifecycle_stage = 'deleted'"
    with read_store(store) as database:
        for model_id, where in database.execute(query):
            if not is_own(where, model_id, store):
                return f"`mlflow gc` would remove {where}, which the deleted model {model_id} names"
    return ""


def _run(run_id: str, artifacts: str, days: float) -> Garbage:
    def remove() -> None:
        _mlflow_gc("--older-than", f"{days:g}d", "--run-ids", run_id)

    return Garbage(f"MLflow run {run_id}", _size([artifacts]), f"deleted over {days:g} days ago", remove)


def _registration(run_id: str, folders: Mapping[str, str]) -> Garbage:
    """A run that no version names, and the models that it logged: folders by their ids."""
    from mlflow.exceptions import MlflowException

    models = [owner for owner in folders if owner != run_id]

    def remove() -> None:
        client = open_client()
        # The run last: while it is active, an interrupted removal is found again.
        for model_id in models:
            with contextlib.suppress(MlflowException):  # deleted before
                client.delete_logged_model(model_id)
        client.delete_run(run_id)
        options = ["--logged-model-ids", ",".join(models)] if models else []
        _mlflow_gc("--older-than", "0d", "--run-ids", run_id, *options)

    why = "a registration that was interrupted, or whose version was deleted"
    return Garbage(f"MLflow run {run_id} with {len(models)} models", _size(folders.values()), why, remove)


def _mlflow_gc(*options: str) -> None:
    uri = tracking_uri()
    stores = ("--backend-store-uri", uri, "--tracking-uri", uri)
    command = [sys.executable, "-m", "mlflow", "gc", *stores, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise VideomarError(f"mlflow gc: {' '.join(done.stderr.split())[-300:]}, expected success; try again")


def _size(locations: Iterable[str]) -> int:
    """Bytes below locations on this machine."""
    folders = [local_path(location) for location in locations]
    return sum(bytes_of(folder.parent) for folder in folders if folder is not None and folder.is_dir())

"""What nothing needs any more in MLflow's store and in the cache of the data version control."""

import json
import logging
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from videomar.errors import VideomarError
from videomar.ops.gc import Garbage, bytes_of
from videomar.provenance.checkout import outputs_of
from videomar.registry.evidence import text_of
from videomar.registry.versions import MODEL, Version, download_evidence
from videomar.tracking.mlflow_store import open_client, tracking_uri

if TYPE_CHECKING:
    from dvc.repo import Repo

_OBJECT = re.compile(r"[0-9a-f]{32}(\.dir)?")
_DAY_MS = 86_400_000


def find_runs(days: float, versions: Sequence[Version]) -> tuple[list[Garbage], list[str]]:
    """Runs that were deleted in MLflow so many days ago and that no version is from, and why some stay."""
    uri = tracking_uri()
    if not uri.startswith("sqlite:///"):
        return [], [
            "MLflow: its store is not the SQLite file, `mlflow gc` on its server removes deleted runs"
        ]
    found = _deleted_runs(Path(uri.removeprefix("sqlite:///")), days)
    needed = {run for version in versions for run in (version.run_id, version.tags.get("training_run"))}
    notes = [f"MLflow run {run}: kept, a registered version is from it" for run in found if run in needed]
    chosen = {run: where for run, where in found.items() if run not in needed}
    if chosen and (because := _unsafe(versions)):
        return [], [*notes, f"MLflow: {len(chosen)} deleted runs kept, {because}"]
    return [_run(run, where, days) for run, where in chosen.items()], notes


def find_objects(versions: Sequence[Version]) -> tuple[list[Garbage], list[str]]:
    """Objects of DVC's cache that no tree, branch, tag, experiment or registered version names."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)  # it warns of outputs that were not made yet
    needed: set[str] = set()
    for version in versions:
        with tempfile.TemporaryDirectory() as folder:
            outputs = outputs_of(text_of(download_evidence(version, Path(folder)) / "dvc.lock"))
        if not outputs:
            return [], [f"DVC's cache: left alone, {version} has no dvc.lock that says what it needs"]
        needed |= set(outputs.values())
    try:
        with Repo() as repo, repo.lock:
            cache = Path(repo.cache.local.path)
            if not cache.resolve().is_relative_to(Path(repo.root_dir).resolve()):
                return [], [f"{cache}: left alone, other checkouts may use it"]
            unused = _unused(repo, needed)
    except DvcException as error:
        return [], [f"DVC's cache: left alone ({' '.join(str(error).split())[:200]})"]
    if not unused:
        return [], []

    def remove() -> None:
        with Repo() as repo, repo.lock:  # asked again: a run may have put one of them to use meanwhile
            for path in _unused(repo, needed):
                path.unlink(missing_ok=True)

    why = "no tree, branch, tag or registered version names them"
    return [Garbage(f"DVC's cache: {len(unused)} objects", sum(map(bytes_of, unused)), why, remove)], []


def _unused(repo: "Repo", needed: set[str]) -> list[Path]:
    """Objects that neither the repository nor one of these outputs names; to be called under its lock."""
    from dvc.scm import NoSCM

    cache, everywhere = Path(repo.cache.local.path), not isinstance(repo.scm, NoSCM)
    named = repo.used_objs(all_branches=everywhere, all_tags=everywhere, all_experiments=everywhere)
    used = {str(known.value) for objects in named.values() for known in objects}
    used |= {name for md5 in needed for name in _with_contents(cache, md5)}
    return [path for path in sorted(cache.glob("??/*")) if _is_unused(path, used)]


def _deleted_runs(store: Path, days: float) -> dict[str, str]:
    """Place of the artifacts of each run deleted so long ago, as `mlflow gc --older-than` counts."""
    query = (
        "SELECT run_uuid, artifact_uri FROM runs WHERE lifecycle_stage = 'deleted' "
        "AND deleted_time < CAST(strftime('%s', 'now') AS INTEGER) * 1000 - ?"
    )
    with closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True)) as database:
        return dict(database.execute(query, [days * _DAY_MS]).fetchall())


def _unsafe(versions: Sequence[Version]) -> str:
    """Why `mlflow gc` may not be used: it also removes what was deleted otherwise, needed or not."""
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
    return ""


def _run(run_id: str, artifacts: str, days: float) -> Garbage:
    local = Path(unquote(urlsplit(artifacts).path)).parent

    def remove() -> None:
        uri = tracking_uri()
        options = ["--backend-store-uri", uri, "--tracking-uri", uri, "--older-than", f"{days:g}d"]
        command = [sys.executable, "-m", "mlflow", "gc", *options, "--run-ids", run_id]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise VideomarError(
                f"mlflow gc: {' '.join(done.stderr.split())[-300:]}, expected run {run_id} gone"
            )

    size = bytes_of(local) if artifacts.startswith(("file:", "/")) and local.is_dir() else 0
    return Garbage(f"MLflow run {run_id}", size, f"deleted over {days:g} days ago", remove)


def _is_unused(path: Path, used: set[str]) -> bool:
    name = path.parent.name + path.name
    return path.is_file() and _OBJECT.fullmatch(name) is not None and name not in used


def _with_contents(cache: Path, md5: str) -> Iterator[str]:
    """The name of an object, and of all that it lists if it is a folder."""
    yield md5
    listing = cache / md5[:2] / md5[2:]
    if md5.endswith(".dir") and listing.is_file():
        yield from (str(entry["md5"]) for entry in json.loads(listing.read_text("utf-8")))

"""MLflow's store: its address, a client, and the experiment that holds all runs."""

import contextlib
import functools
import getpass
import logging
import os
import re
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from videomar.environment import apply_settings, checkout
from videomar.errors import VideomarError
from videomar.files import atomic_write
from videomar.tracking.artifact_roots import artifacts_of, read_store, settle

if TYPE_CHECKING:
    from mlflow import MlflowClient

apply_settings()  # before the first import of MLflow, which reads them

EXPERIMENT = "videomar"
_ABOUT = {
    # MLflow 3 opens an experiment without this tag as one of agents, and its navigation then has no models.
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": "Image-to-video with continuous tokens (VideoMAR). A run of training has curves, "
    "previews and parameters; its child, the candidate, what was registered as a version of the model "
    "`videomar` and what the gate saw. The alias `champion` names the best version.",
}
"""Tags of the experiment, under MLflow's names: its kind and its description."""
_LOCAL = Path(".local")
_SQLITE = b"SQLite format 3\0"
"""How every such file begins."""
_OF_STORES = ("mlflow", "sqlalchemy", "alembic", "sqlite3")
_PASSING = {
    "locked": "got a database in use by another program, expected an answer; wait for it, and run this again",
    "readonly database": "got a file or disk that cannot be written, expected one that can; mount or free it",
    "unable to open": "got a file that cannot be opened, expected one that can; `ls -l .local` shows why",
}
"""What SQLite's messages about faults that pass mean."""
_log = logging.getLogger(__name__)


def tracking_uri() -> str:
    """Return the address of the MLflow store: MLFLOW_TRACKING_URI, else a SQLite file in the checkout."""
    file = (checkout() / _LOCAL / "mlflow.db").resolve()
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{file}"


def store_exists() -> bool:
    """Whether there is a store to look into: one was named, or the checkout has one; creates none."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) or (checkout() / _LOCAL / "mlflow.db").is_file()


def open_client() -> "MlflowClient":
    """Return a client of the store, which MLflow's other calls then use; creates the store (seconds)."""
    import mlflow

    # MLflow prints a line for each table that it creates; errors arrive as exceptions.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    uri = tracking_uri()
    if uri.startswith("sqlite:///"):
        make_database(Path(uri.removeprefix("sqlite:///")))
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return mlflow.MlflowClient()


def make_database(path: Path) -> None:
    """Create MLflow's tables if the file is missing, all or none: MLflow cannot complete a part of them.

    A store that came here with its checkout, by `mv` or `cp`, then names the artifacts that came with it.

    Raises:
        VideomarError: the file is another program's, damaged, in use, or has tables of another MLflow.
    """
    if path.is_file():
        _check_kind(path)
        _check_content(path)
        return
    import mlflow
    from filelock import FileLock  # here: a bare GPU machine, which has no store, lacks it

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.is_file():
            with atomic_write(path) as draft:
                mlflow.MlflowClient(f"sqlite:///{draft}")


def _check_kind(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(len(_SQLITE))
    if start not in (b"", _SQLITE):
        rule = "MLflow's SQLite database; `videomar restore --force` brings one back from a backup"
        raise VideomarError(f"{path}: got a file of another kind, expected {rule}")


def user_name() -> str:
    """Name of the user who runs this process; `unknown` for a container that runs under a bare number."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def _check_content(path: Path) -> None:
    """Refuse tables of another MLflow, which it would change without a copy, and settle a moved store."""
    try:
        if (other := other_tables(path)) is not None:
            raise VideomarError(f"{path}: {other}")
        for root in settle(path):
            _log.warning("%s: came here from %s; its artifacts are now those here", path, root.folder)
    except sqlite3.Error as error:
        raise VideomarError(f"{path}: {store_problem(error)}") from None


def other_tables(path: Path) -> str | None:
    """Why the tables of a SQLite store are not those of the MLflow installed here; None if they are.

    Raises:
        sqlite3.Error: the file cannot be read.
    """
    with read_store(path) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "alembic_version" not in tables:  # an empty file, which MLflow fills
            return None
        found = database.execute("SELECT version_num FROM alembic_version").fetchone()
    revision, (newest, known) = found[0] if found else "none", _revisions()
    if revision == newest:
        return None
    if revision in known:
        do = "`videomar doctor --fix` keeps a copy and upgrades them"
        return f"got tables of an older MLflow ({revision}), expected {newest}; {do}"
    do = "`make setup` installs the pinned MLflow"
    return f"got tables of a newer MLflow ({revision}), expected {newest}; {do}"


@functools.cache
def _revisions() -> tuple[str | None, frozenset[str]]:
    """Versions of the tables that the installed MLflow knows: the newest, and all."""
    import mlflow
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(Path(mlflow.__file__).parent / "store/db_migrations"))
    return scripts.get_current_head(), frozenset(script.revision for script in scripts.walk_revisions())


def store_problem(error: BaseException) -> str | None:
    """One line about an error of MLflow or of its database; None for any other error."""
    if type(error).__module__.partition(".")[0] not in _OF_STORES:
        return None
    # Without the statement, and without the password in an address.
    text = re.sub(r"://[^@/\s]*@", "://", " ".join(str(error).partition("\n[SQL")[0].split()))
    for words, meaning in _PASSING.items():
        if words in text:
            return meaning
    return (
        f"got {text[:300] or type(error).__name__}, expected an answer; `videomar doctor` looks for the cause"
    )


def experiment_id(client: "MlflowClient") -> str:
    """Return the id of the experiment `videomar`; creates it, with its artifacts beside a local store."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is not None:
        # One of before lacks these; what a person has set on MLflow's page stays.
        for key in _ABOUT.keys() - experiment.tags.keys():
            with contextlib.suppress(Exception):  # a user who may only read needs the id, too
                client.set_experiment_tag(experiment.experiment_id, key, _ABOUT[key])
        return experiment.experiment_id
    uri = tracking_uri()
    # Beside the store, not in the working folder, which differs between workers of a cluster.
    beside = artifacts_of(Path(uri.removeprefix("sqlite:///")))
    where = beside.as_uri() if uri.startswith("sqlite:///") else None
    return client.create_experiment(EXPERIMENT, artifact_location=where, tags=_ABOUT)

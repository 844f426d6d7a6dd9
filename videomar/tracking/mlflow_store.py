"""MLflow's store: its address, a client, and the experiment that holds all runs."""

import contextlib
import getpass
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from videomar.environment import apply_settings, checkout
from videomar.errors import VideomarError
from videomar.files import atomic_write

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

    Raises:
        VideomarError: the file is another program's, or damaged.
    """
    if path.is_file():
        _check_kind(path)
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
    # Relative to the store, not to the working folder, which differs between workers of a cluster.
    beside = Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts"
    where = beside.resolve().as_uri() if uri.startswith("sqlite:///") else None
    return client.create_experiment(EXPERIMENT, artifact_location=where, tags=_ABOUT)

"""MLflow's store of runs: where it is, a client of it, and the experiment that all runs are in."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from videomar.environment import apply_settings, checkout
from videomar.files import atomic_write

if TYPE_CHECKING:
    from mlflow import MlflowClient

apply_settings()  # before MLflow is imported anywhere: it reads these when it is

EXPERIMENT = "videomar"
_LOCAL = Path(".local")


def tracking_uri() -> str:
    """Address of the MLflow store: MLFLOW_TRACKING_URI, else a SQLite file below the checkout."""
    file = (checkout() / _LOCAL / "mlflow.db").resolve()
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{file}"


def open_client() -> "MlflowClient":
    """Client of the store, which is made at first use (seconds); MLflow's other calls then use it too."""
    import mlflow

    # Else each table that it makes is a line on the terminal; what goes wrong is an exception, too.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    uri = tracking_uri()
    if uri.startswith("sqlite:///"):
        make_database(Path(uri.removeprefix("sqlite:///")))
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return mlflow.MlflowClient()


def make_database(path: Path) -> None:
    """MLflow's tables where there are none yet, all or none; it never mends half-made ones."""
    if path.is_file():
        return
    import mlflow

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.is_file():
            with atomic_write(path) as draft:
                mlflow.MlflowClient(f"sqlite:///{draft}")


def experiment_id(client: "MlflowClient") -> str:
    """Id of the experiment `videomar`, made at first use; its artifacts lie beside the local store."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is not None:
        return experiment.experiment_id
    uri = tracking_uri()
    # From the store's place, not the working folder: workers of a cluster have one of their own.
    beside = Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts"
    where = beside.resolve().as_uri() if uri.startswith("sqlite:///") else None
    return client.create_experiment(EXPERIMENT, artifact_location=where)

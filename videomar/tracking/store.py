"""MLflow's store of runs: where it is, a client of it, and the experiment that all runs are in."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from videomar.environment import apply_settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

apply_settings()  # before MLflow is imported anywhere: it reads these when it is

EXPERIMENT = "videomar"
_LOCAL = Path(".local")


def tracking_uri() -> str:
    """Address of the MLflow store: MLFLOW_TRACKING_URI, else a SQLite file below the working folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(_LOCAL / 'mlflow.db').resolve()}"


def open_client() -> "MlflowClient":
    """Client of the store, which is made at first use (seconds); MLflow's other calls then use it too."""
    import mlflow

    for talker in ("alembic", "mlflow.store.db.utils"):  # else each table they make is a line on the terminal
        logging.getLogger(talker).setLevel(logging.WARNING)
    uri = tracking_uri()
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return mlflow.MlflowClient()


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

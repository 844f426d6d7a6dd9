"""A training run in MLflow: parameters once, figures by step, and the same run again after a restart."""

import json
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from videomar.environment import apply_settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

apply_settings()  # before MLflow is imported anywhere: it reads these when it is

EXPERIMENT = "videomar"
_LOCAL = Path(".local")
_BUFFERED_STEPS = 50
_BUFFERED_SECONDS = 10.0


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


class TrackedRun:
    """One MLflow run. Remembers what is not sent yet, and the last step that each figure already has."""

    def __init__(self, client: "MlflowClient", run_id: str, last_steps: dict[str, int]) -> None:
        self.run_id = run_id
        self._client = client
        self._last_steps = last_steps
        self._unsent: list[tuple[int, int, dict[str, float]]] = []
        self._sent_at = time.monotonic()

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Record figures of a step; those that a run before the restart already recorded are left out."""
        new = {key: value for key, value in figures.items() if step > self._last_steps.get(key, -1)}
        if new:
            self._unsent.append((step, int(time.time() * 1000), new))
            self._last_steps |= dict.fromkeys(new, step)
        if len(self._unsent) >= _BUFFERED_STEPS or time.monotonic() - self._sent_at > _BUFFERED_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send what is buffered. Call it before a checkpoint, which is where a restart begins."""
        from mlflow.entities import Metric

        metrics = [
            Metric(key, float(value), timestamp, step)
            for step, timestamp, figures in self._unsent
            for key, value in figures.items()
        ]
        for start in range(0, len(metrics), 1000):  # MLflow takes 1,000 in one call
            self._client.log_batch(self.run_id, metrics=metrics[start : start + 1000])
        self._unsent.clear()
        self._sent_at = time.monotonic()

    def finish(self, status: str = "FINISHED") -> None:
        """Send the rest and close the run; `FAILED` or `KILLED` where it did not come to its end."""
        self.flush()
        self._client.set_terminated(self.run_id, status)


def open_run(run_file: Path, params: dict[str, object], tags: dict[str, str]) -> TrackedRun:
    """The run whose id stands in `run_file`, or a new one whose id is written there.

    Args:
        run_file: JSON with `run_id`; a run that the store no longer has, or that has other parameters, is
            replaced by a new one.
        params: Recorded with a new run; nested sections get dotted names.
        tags: Recorded with a new run; `mlflow.runName` names it.
    """
    client = open_client()
    flat = {key: str(value) for key, value in _flatten(params).items()}
    run_id = _known_run(client, run_file, flat)
    if run_id is not None:
        client.update_run(run_id, status="RUNNING")
        return TrackedRun(client, run_id, _last_steps(client, run_id))
    from mlflow.entities import Param

    run_id = client.create_run(experiment_id(client), tags=tags).info.run_id
    entities = [Param(key, value) for key, value in flat.items()]
    for start in range(0, len(entities), 100):  # MLflow takes 100 in one call
        client.log_batch(run_id, params=entities[start : start + 100])
    _write_run_id(run_file, run_id)
    return TrackedRun(client, run_id, {})


def read_run_id(run_file: Path) -> str | None:
    """The id in `run_file`; None where the file is missing or holds none."""
    try:
        return json.loads(run_file.read_text())["run_id"]
    except (FileNotFoundError, KeyError, TypeError, json.JSONDecodeError):
        return None


def _known_run(client: "MlflowClient", run_file: Path, params: dict[str, str]) -> str | None:
    """The id in `run_file` if the store still has that run, with these parameters."""
    from mlflow.exceptions import MlflowException

    run_id = read_run_id(run_file)
    if run_id is None:
        return None
    try:
        run = client.get_run(run_id)
    except MlflowException:
        return None
    return run_id if run.info.lifecycle_stage == "active" and run.data.params == params else None


def _last_steps(client: "MlflowClient", run_id: str) -> dict[str, int]:
    keys = client.get_run(run_id).data.metrics
    return {key: max(metric.step for metric in client.get_metric_history(run_id, key)) for key in keys}


def _flatten(params: dict[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in params.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _write_run_id(run_file: Path, run_id: str) -> None:
    run_file.parent.mkdir(parents=True, exist_ok=True)
    temporary = run_file.with_name(f".{run_file.name}.{os.getpid()}")
    temporary.write_text(json.dumps({"run_id": run_id}) + "\n")
    os.replace(temporary, run_file)

"""From the log of a run to MLflow's store: find or create the run, then send what it does not have yet."""

import functools
import logging
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from videomar.tracking.mlflow_store import experiment_id, open_client, tracking_uri
from videomar.tracking.run_log import FILES, LINES, Entry, RunLog

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

NAME_TAG = "videomar.run"
"""Name of the run's log: the store assigns ids, and assigns them late if it was away."""
PARENT_TAG = "videomar.parent"
"""Name of the log of this run's parent."""
_METRICS_PER_CALL = 1000
_PARAMS_PER_CALL = 100
# A permanent rejection: retrying cannot succeed.
_REFUSED = "INVALID_PARAMETER_VALUE"
_GONE = "RESOURCE_DOES_NOT_EXIST"
_log = logging.getLogger(__name__)


def upload(log: RunLog) -> bool:
    """Send the unsent lines of a run's log; return whether the store has all of them now.

    A store that is away, or another process that is sending this log, leaves them for the next call.
    """
    try:
        with FileLock(log.folder / "lock", timeout=0):
            if not log.is_sent:
                _send(log, _client(tracking_uri()))
    except Timeout:
        return False
    except Exception as error:  # no failure of the record may stop the training
        problem = " ".join(str(error).split())[:200]
        if problem != log.problem:
            _log.warning("MLflow does not answer (%s): the run goes on and is uploaded later", problem)
        log.problem = problem
        return False
    log.problem = ""
    return True


def upload_logs(folder: Path, besides: Path | None = None) -> bool:
    """Upload every log in a folder but `besides`; return whether the store has all of them now."""
    paths = [path.parent for path in sorted(folder.glob(f"*/{LINES}")) if path.parent != besides]
    logs = [log for log in map(RunLog, paths) if log.start]
    return all([log.is_sent or upload(log) for log in logs])


@functools.lru_cache(maxsize=1)
def _client(uri: str) -> "MlflowClient":
    """Return the client of the store at the current address."""
    return open_client()


def _send(log: RunLog, client: "MlflowClient") -> None:
    run = _known_run(log, client)
    if run is None:
        # The store does not have the run, or not any more: everything is sent from the first line on.
        run = _named_run(log.folder.name, client) or _new_run(log, client)
        log.mark(run.info.run_id, 0)
    # The public `data.metrics` has values only.
    last_steps = {metric.key: metric.step for metric in run.data.to_proto().metrics}
    for entries, end in _batches(log.unsent()):
        try:
            if entries[0]["kind"] == "metrics":
                _send_metrics(client, run.info.run_id, entries, last_steps)
            else:
                _send_entry(client, run.info.run_id, entries[0], log)
        except Exception as error:
            if getattr(error, "error_code", None) != _REFUSED:
                raise
            _log.warning("MLflow refuses %s (%s): not uploaded", entries[0]["kind"], error)
        log.mark(run.info.run_id, end)


def _known_run(log: RunLog, client: "MlflowClient") -> "Run | None":
    """Return the run whose id the log has, if the store has it with the same parameters."""
    from mlflow.exceptions import MlflowException

    if log.run_id is None:
        return None
    try:
        run = client.get_run(log.run_id)
    except MlflowException as error:
        if error.error_code in (_GONE, _REFUSED):
            return None
        raise
    same = all(log.start["params"].get(key) == value for key, value in run.data.params.items())
    return run if run.info.lifecycle_stage == "active" and same else None


def _named_run(name: str, client: "MlflowClient") -> "Run | None":
    """Return the run of a process that created it and died before it recorded the id."""
    found = client.search_runs([experiment_id(client)], f"tags.`{NAME_TAG}` = '{name}'", max_results=1)
    return found[0] if found else None


def _new_run(log: RunLog, client: "MlflowClient") -> "Run":
    tags = {**log.start["tags"], NAME_TAG: log.folder.name}
    if PARENT_TAG in tags:
        parent = _named_run(tags[PARENT_TAG], client)
        if parent is None:
            raise LookupError("its parent run is not uploaded yet")
        tags["mlflow.parentRunId"] = parent.info.run_id
    return client.create_run(experiment_id(client), log.start["time"], tags)


def _send_metrics(
    client: "MlflowClient", run_id: str, entries: Iterable[Entry], last_steps: dict[str, int]
) -> None:
    """Send metrics, except for steps that the store already has."""
    from mlflow.entities import Metric

    metrics = [
        Metric(key, float(value), entry["time"], entry["step"])
        for entry in entries
        for key, value in entry["values"].items()
        if entry["step"] > last_steps.get(key, -1)
    ]
    for first in range(0, len(metrics), _METRICS_PER_CALL):
        client.log_batch(run_id, metrics=metrics[first : first + _METRICS_PER_CALL])


def _send_entry(client: "MlflowClient", run_id: str, entry: Entry, log: RunLog) -> None:
    """Send a line of any other kind."""
    from mlflow.entities import Dataset, DatasetInput, Param, RunTag

    if entry["kind"] == "start":
        params = [Param(key, value) for key, value in entry["params"].items()]
        for first in range(0, len(params), _PARAMS_PER_CALL):
            client.log_batch(run_id, params=params[first : first + _PARAMS_PER_CALL])
        if entry["inputs"]:
            client.log_inputs(run_id, [DatasetInput(Dataset(**data), []) for data in entry["inputs"]])
    elif entry["kind"] == "tags":
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in entry["values"].items()])
    elif entry["kind"] == "files":
        client.log_artifacts(run_id, str(log.folder / FILES / entry["folder"]), entry["folder"])
    elif entry["status"] == "RUNNING":
        client.update_run(run_id, status="RUNNING")
    else:
        client.set_terminated(run_id, entry["status"], entry["time"])


def _batches(entries: Iterator[tuple[Entry, int]]) -> Iterator[tuple[list[Entry], int]]:
    """Group lines for sending, each group with the position behind it: metrics together, all else singly."""
    groups = groupby(enumerate(entries), lambda item: -1 if item[1][0]["kind"] == "metrics" else item[0])
    for _, group in groups:
        members = [item for _, item in group]
        # Small groups: each is marked as sent when it is, so a slow store repeats little after a failure.
        for first in range(0, len(members), _METRICS_PER_CALL // 10):
            part = members[first : first + _METRICS_PER_CALL // 10]
            yield [entry for entry, _ in part], part[-1][1]

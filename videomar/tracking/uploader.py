"""From the outbox to MLflow's store: the run found or made, then line by line what it does not have yet."""

import logging
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomar.tracking.mlflow_store import experiment_id, open_client
from videomar.tracking.outbox import FILES, Outbox

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

NAME_TAG = "videomar.run"
"""The run's name in its outbox: the store gives ids, and one that is away gives them late."""
PARENT_TAG = "videomar.parent"
"""Name of the run that this one lies below."""
_METRICS_A_CALL = 1000
_PARAMS_A_CALL = 100
# An answer that will not change: the store has read the line and will not have it.
_REFUSED = "INVALID_PARAMETER_VALUE"
_GONE = "RESOURCE_DOES_NOT_EXIST"
_log = logging.getLogger(__name__)

Entry = dict[str, Any]


class Sender:
    """Sends one outbox. Remembers the client, and what the store has, until something goes wrong."""

    def __init__(self, box: Outbox) -> None:
        self._box = box
        self._client: MlflowClient | None = None
        self._last_steps: dict[str, int] | None = None
        self._said = ""

    def send(self) -> bool:
        """Send what is left; False where the store is away, or another process is sending this box."""
        with self._box.alone() as alone:
            if not alone:
                return False
            try:
                self._send()
            except Exception as error:  # whatever becomes of the record, the training goes on
                self._last_steps = None
                line = " ".join(str(error).split())[:200]
                if line != self._said:
                    _log.warning("MLflow does not answer (%s): the run goes on and is uploaded later", line)
                self._said = line
                return False
            self._said = ""
            return True

    def _send(self) -> None:
        if self._box.is_empty() and self._last_steps is not None:
            return
        self._client = self._client or open_client()
        if self._last_steps is None:
            self._last_steps = self._meet()
        run_id = str(self._box.run_id)
        for entries, end in _batches(self._box.entries(self._box.sent)):
            try:
                self._tell(run_id, entries)
            except Exception as error:
                if getattr(error, "error_code", None) != _REFUSED:
                    raise
                _log.warning("MLflow refuses %s (%s): left out", entries[0]["kind"], error)
            self._box.note_sent(run_id, end)

    def _meet(self) -> dict[str, int]:
        """Find the run, or make it; the last step that the store has of each metric.

        A run that the store does not have any more, or never had, is made again from the first line on.
        """
        run = self._known_run()
        if run is None:
            run = self._named_run(self._box.folder.name) or self._new_run()
            self._box.note_sent(run.info.run_id, 0)
        # The public `data.metrics` has values only.
        return {metric.key: metric.step for metric in run.data.to_proto().metrics}

    def _known_run(self) -> "Run | None":
        """The run of the id that the box has, if the store has it with no other parameters."""
        from mlflow.exceptions import MlflowException

        run_id, client = self._box.run_id, self._client
        if run_id is None or client is None:
            return None
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code in (_GONE, _REFUSED):
                return None
            raise
        params = self._start["params"]
        same = all(params.get(key) == value for key, value in run.data.params.items())
        return run if run.info.lifecycle_stage == "active" and same else None

    def _named_run(self, name: str) -> "Run | None":
        """The run that was made by a process which did not live to note its id."""
        assert self._client is not None
        which = f"tags.`{NAME_TAG}` = '{name}'"
        found = self._client.search_runs([experiment_id(self._client)], which, max_results=1)
        return found[0] if found else None

    def _new_run(self) -> "Run":
        assert self._client is not None
        tags = {**self._start["tags"], NAME_TAG: self._box.folder.name}
        if PARENT_TAG in tags:
            parent = self._named_run(tags[PARENT_TAG])
            if parent is None:
                raise LookupError("the run above it is not there yet")
            tags["mlflow.parentRunId"] = parent.info.run_id
        return self._client.create_run(experiment_id(self._client), self._start["time"], tags)

    @property
    def _start(self) -> Mapping[str, Any]:
        assert self._box.start is not None
        return self._box.start

    def _tell(self, run_id: str, entries: list[Entry]) -> None:
        """Send entries of one kind."""
        from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag

        assert self._client is not None
        client, last, entry = self._client, self._last_steps or {}, entries[0]
        if entry["kind"] == "metrics":
            metrics = [
                Metric(key, float(value), entry["time"], entry["step"])
                for entry in entries
                for key, value in entry["values"].items()
                if entry["step"] > last.get(key, -1)
            ]
            for start in range(0, len(metrics), _METRICS_A_CALL):
                client.log_batch(run_id, metrics=metrics[start : start + _METRICS_A_CALL])
        elif entry["kind"] == "start":
            params = [Param(key, value) for key, value in entry["params"].items()]
            for start in range(0, len(params), _PARAMS_A_CALL):
                client.log_batch(run_id, params=params[start : start + _PARAMS_A_CALL])
            if entry["inputs"]:
                client.log_inputs(run_id, [DatasetInput(Dataset(**data), []) for data in entry["inputs"]])
        elif entry["kind"] == "tags":
            client.log_batch(run_id, tags=[RunTag(key, value) for key, value in entry["values"].items()])
        elif entry["kind"] == "files":
            client.log_artifacts(run_id, str(self._box.folder / FILES / entry["folder"]), entry["folder"])
        elif entry["status"] == "RUNNING":
            client.update_run(run_id, status="RUNNING")
        else:
            client.set_terminated(run_id, entry["status"], entry["time"])


def send_boxes(folder: Path, besides: Path | None = None) -> bool:
    """Send every box in a folder of them but `besides`; whether nothing is left."""
    paths = [path.parent for path in sorted(folder.glob("*/lines.jsonl")) if path.parent != besides]
    boxes = [box for box in map(Outbox, paths) if box.start]
    return all([box.is_empty() or Sender(box).send() for box in boxes])


def _batches(entries: Iterator[tuple[Entry, int]]) -> Iterator[tuple[list[Entry], int]]:
    """Entries as they are sent, with the place behind them: metrics together, all else one by one."""
    kinds = groupby(enumerate(entries), lambda item: -1 if item[1][0]["kind"] == "metrics" else item[0])
    for _, group in kinds:
        members = [item for _, item in group]
        # A batch of lines that was noted is not read again, however long the way back is.
        for first in range(0, len(members), _METRICS_A_CALL // 10):
            part = members[first : first + _METRICS_A_CALL // 10]
            yield [entry for entry, _ in part], part[-1][1]

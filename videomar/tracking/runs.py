"""A training run in MLflow: the same run after a restart, without ever delaying the training.

What is recorded goes to a file in the run's folder at once, and a thread uploads it from there. A store that
is away, at the start, in between or at the end, gets it later.
"""

import contextlib
import logging
import os
import platform
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from videomar.files import write_json
from videomar.provenance.made_with import flatten
from videomar.tracking.mlflow_store import user_name
from videomar.tracking.run_log import RunLog, read_json
from videomar.tracking.uploader import upload, upload_logs

RUN_FILE, OUTBOX = "run.json", "outbox"
_SOURCE = "stages/train.py"
"""Program that MLflow shows as a run's source; the process itself may be a worker of Ray."""
_UPLOAD_EVERY_S = 10.0
_LAST_UPLOAD_S = 60.0
# MLflow by default retries each call for minutes; here the next upload is the retry.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_log = logging.getLogger(__name__)


class TrackedRun:
    """One run. Remembers its log and the thread that uploads it.

    No call but `finish` waits for the store: a step costs a line in a file.
    """

    def __init__(self, log: RunLog, run_file: Path) -> None:
        self._log, self._run_file = log, run_file
        self._load: dict[str, float] = {}
        self._wake, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._upload, name="mlflow", daemon=True)
        self._thread.start()

    @property
    def run_id(self) -> str | None:
        """Id in the store; None before the store has assigned one."""
        return self._log.run_id

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record metrics of a step, and the machine's load; skip those that are recorded already."""
        load, self._load = self._load, {}
        last = self._log.last_steps
        new = {key: value for key, value in {**metrics, **load}.items() if step > last.get(key, -1)}
        if new:
            self._log.append("metrics", step=step, values=new)

    def tag(self, values: Mapping[str, str]) -> None:
        """Record text about the whole run; a later value replaces an earlier one."""
        self._log.append("tags", values=dict(values))

    def log_files(self, folder: str, files: Iterable[Path]) -> None:
        """Record copies of files as artifacts below `folder`, replacing files of the same names."""
        self._log.append_files(folder, files)

    def flush(self) -> None:
        """Return once all that was recorded is on disk; to be called before each checkpoint."""
        self._log.sync()
        self._wake.set()

    def finish(self, status: str = "FINISHED") -> None:
        """Close the run; with status `FAILED` or `KILLED` if it did not complete.

        Waits at most a minute while the store takes the rest, and not at all for a store that is away.
        """
        self._log.append("status", status=status)
        self._log.sync()
        self._ended.set()
        self._wake.set()
        self._thread.join(_LAST_UPLOAD_S)
        if not self._log.is_sent:
            _log.warning(
                "%s: MLflow does not have all of the run yet; the next run there uploads it, or "
                "`videomar upload %s`",
                self._log.folder,
                self._run_file.parent,
            )

    def _upload(self) -> None:
        monitors, others_sent, ended = SystemLoad(), False, False
        while not ended:
            ended = self._ended.is_set()  # read before the last upload, which then has the last line
            if upload(self._log):
                note_run_id(self._run_file, self._log)
                others_sent = others_sent or upload_logs(self._log.folder.parent, besides=self._log.folder)
            if not ended:
                self._load = monitors.sample()
                self._wake.wait(_UPLOAD_EVERY_S)
                self._wake.clear()


class SystemLoad:
    """The machine's load, by MLflow's own monitors: processor, memory, disk, network, GPU."""

    def __init__(self) -> None:
        self._monitors: list[Any] | None = None

    def sample(self) -> dict[str, float]:
        """Return the load now, under MLflow's names for it; network traffic since the last call."""
        if self._monitors is None:
            self._monitors = _monitors()
        found: dict[str, float] = {}
        for monitor in self._monitors:
            with contextlib.suppress(Exception):  # a missing counter must not stop a run
                monitor.collect_metrics()
                found |= monitor.aggregate_metrics()
                monitor.clear_metrics()
        return {f"system/{name}": float(value) for name, value in found.items()}


def _monitors() -> list[Any]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    found: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with contextlib.suppress(Exception):  # no GPU, or nothing that reads its counters
        found.append(GPUMonitor())
    return found


def open_run(
    run_file: Path,
    params: Mapping[str, object],
    tags: Mapping[str, str],
    inputs: Sequence[Mapping[str, str]] = (),
) -> TrackedRun:
    """Continue the run that `run_file` names if it has the same parameters, else create one.

    Args:
        run_file: JSON with the run's `name`, and its `run_id` once the store has assigned one; beside it is
            the outbox.
        params: recorded with the run; nested sections get dotted names.
        tags: recorded with the run, and again after a restart; without `mlflow.runName` among them the run
            is named by its parameters.
        inputs: datasets: `name`, `digest` (at most 36 characters), `source_type`, `source`.
    """
    _limit_retries()
    flat = {key: str(value) for key, value in flatten(params).items()}
    logs, known = run_file.parent / OUTBOX, read_json(run_file)
    if "name" in known and (log := RunLog(logs / str(known["name"]))).start:
        if log.start["params"] == flat:
            log.append("status", status="RUNNING")
            log.append("tags", values=dict(tags))
            return TrackedRun(log, run_file)
        if log.last_status in (None, "RUNNING"):
            log.append("status", status="KILLED")
    log = RunLog(logs / uuid.uuid4().hex)
    log.append(
        "start", params=flat, tags={**_about(flat, tags), **tags}, inputs=[dict(data) for data in inputs]
    )
    kept = {}
    if isinstance(known.get("run_id"), str) and "name" not in known:
        # The folder came from another machine without its log. If the store has the run with these
        # parameters, it is continued.
        kept = {"run_id": known["run_id"]}
        log.mark(known["run_id"], 0)
        log.append("status", status="RUNNING")
    log.sync()
    write_json(run_file, {"name": log.folder.name, **kept})
    return TrackedRun(log, run_file)


def upload_pending(folder: Path) -> bool:
    """Upload what runs in a folder, or below it, could not; return whether the store has all of them now."""
    _limit_retries()
    done = True
    # Parents first: a run needs the id of its parent.
    for logs in sorted(folder.rglob(OUTBOX), key=lambda path: (len(path.parts), path)):
        done = upload_logs(logs) and done
        run_file = logs.with_name(RUN_FILE)
        name = read_json(run_file).get("name")
        if name is not None:
            note_run_id(run_file, RunLog(logs / name))
    return done


def note_run_id(run_file: Path, log: RunLog) -> None:
    """Write the id that the store has assigned into `run_file`, if it is not in it."""
    known = read_json(run_file)
    if known.get("name") == log.folder.name and known.get("run_id") != log.run_id:
        write_json(run_file, {**known, "run_id": log.run_id})


def read_run_id(run_file: Path) -> str | None:
    """Return the id in `run_file`; None if the file is missing or has none."""
    return read_json(run_file).get("run_id")


def _about(params: Mapping[str, str], tags: Mapping[str, str]) -> dict[str, str]:
    """Name, source, user and description of a run of training, under MLflow's names."""
    start = params.get("train.start_from", "None")
    model = f"version {start}" if start.isdecimal() else Path(start).name
    way = "training" if start == "None" else f"training from {model}"
    depth, width, seed = (params.get(key) for key in ("model.depth", "model.hidden_size", "train.seed"))
    size = f", {depth} layers of {width} channels" if depth and width else ""
    about = {
        "mlflow.runName": f"{way}{size}{f', seed {seed}' if seed else ''}",
        "mlflow.user": user_name(),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": _SOURCE,
        "mlflow.note.content": f"Stage `train` of dvc.yaml: {way} in {Path.cwd()} on {platform.node()}. "
        "Pictures of the model's clips at each checkpoint are among the artifacts. The candidate for the "
        "registry is a run below this one.",
    }
    if tags.get("git_commit", "none") != "none":
        about["mlflow.source.git.commit"] = tags["git_commit"]
    return about


def _limit_retries() -> None:
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)

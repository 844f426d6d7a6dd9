"""A training run in MLflow: the same run again after a restart, and never in the way of the training.

What is recorded goes to a file in the run's folder at once, and from there to the store by a thread of its
own. A store that is away, at the start, in between or at the end, gets it later.
"""

import logging
import os
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from videomar.files import write_json
from videomar.tracking.load import SystemLoad
from videomar.tracking.outbox import Outbox, read_json
from videomar.tracking.uploader import Sender, send_boxes

RUN_FILE, OUTBOX = "run.json", "outbox"
_SEND_EVERY_S = 10.0
_LAST_WORDS_S = 60.0
# MLflow's own patience is minutes for each call; here the next try comes by itself.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_log = logging.getLogger(__name__)


class TrackedRun:
    """One run. Remembers its outbox and the thread that empties it.

    No call but `finish` waits for the store: a step costs a line in a file.
    """

    def __init__(self, box: Outbox, run_file: Path) -> None:
        self._box, self._run_file = box, run_file
        self._system: dict[str, float] = {}
        self._wake, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._send, name="mlflow", daemon=True)
        self._thread.start()

    @property
    def run_id(self) -> str | None:
        """Id in the store; None while the store has not given one."""
        return self._box.run_id

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Record figures of a step, and the machine's load; those that are recorded already are left out."""
        system, self._system = self._system, {}
        last = self._box.last_steps
        new = {key: value for key, value in {**figures, **system}.items() if step > last.get(key, -1)}
        if new:
            self._box.append("metrics", step=step, values=new)

    def tag(self, values: Mapping[str, str]) -> None:
        """Record facts about the whole run; a later value replaces an earlier one."""
        self._box.append("tags", values=dict(values))

    def log_files(self, folder: str, files: Iterable[Path]) -> None:
        """Record copies of files as artifacts below `folder`; files of the same names are replaced."""
        self._box.keep_files(folder, files)

    def flush(self) -> None:
        """Have all on the disk that was recorded. Call it before a checkpoint, where a restart begins."""
        self._box.sync()
        self._wake.set()

    def finish(self, status: str = "FINISHED") -> None:
        """Close the run; `FAILED` or `KILLED` where it did not come to its end.

        Waits while the store takes what is left, at most a minute; one that is away is not waited for.
        """
        self._box.append("status", status=status)
        self._box.sync()
        self._ended.set()
        self._wake.set()
        self._thread.join(_LAST_WORDS_S)
        if not self._box.is_empty():
            _log.warning(
                "%s: MLflow does not have all of the run yet; the next run there uploads it, or "
                "`videomar upload %s`",
                self._box.folder,
                self._run_file.parent,
            )

    def _send(self) -> None:
        sender, load, others_sent = Sender(self._box), SystemLoad(), False
        ended = False
        while not ended:
            ended = self._ended.is_set()  # before the last try, not after: it has the last line
            if sender.send():
                note_run_id(self._run_file, self._box)
                others_sent = others_sent or send_boxes(self._box.folder.parent, besides=self._box.folder)
            if not ended:
                self._system = load.sample()
                self._wake.wait(_SEND_EVERY_S)
                self._wake.clear()


def open_run(
    run_file: Path,
    params: Mapping[str, object],
    tags: Mapping[str, str],
    inputs: Sequence[Mapping[str, str]] = (),
) -> TrackedRun:
    """The run that `run_file` names, if it has the same parameters, or a new one that it then names.

    Args:
        run_file: JSON with `name`, and with `run_id` once the store has given one; the outbox is beside it.
        params: Recorded with the run; nested sections get dotted names.
        tags: Recorded with the run, anew after a restart; `mlflow.runName` names it.
        inputs: Datasets: `name`, `digest` (at most 36 characters), `source_type`, `source`.
    """
    _be_impatient()
    flat = {key: str(value) for key, value in _flatten(params).items()}
    boxes, known = run_file.parent / OUTBOX, read_json(run_file)
    box = Outbox(boxes / str(known["name"])) if "name" in known else None
    if box is not None and box.start is not None and box.start["params"] == flat:
        box.append("status", status="RUNNING")
        box.append("tags", values=dict(tags))
        return TrackedRun(box, run_file)
    if box is not None and box.start is not None and box.last_status in (None, "RUNNING"):
        box.append("status", status="KILLED")
    box = Outbox(boxes / uuid.uuid4().hex)
    box.append("start", params=flat, tags=dict(tags), inputs=[dict(data) for data in inputs])
    if box_is_lost := isinstance(known.get("run_id"), str) and "name" not in known:
        box.note_sent(known["run_id"], 0)  # taken up again if the store has it with these parameters
        box.append("status", status="RUNNING")
    box.sync()
    kept = {"run_id": known["run_id"]} if box_is_lost else {}
    write_json(run_file, {"name": box.folder.name, **kept})
    return TrackedRun(box, run_file)


def upload_pending(folder: Path) -> bool:
    """Send what runs in a folder, or below it, could not; whether nothing is left."""
    _be_impatient()
    done = True
    # A run goes before those below it.
    for boxes in sorted(folder.rglob(OUTBOX), key=lambda path: (len(path.parts), path)):
        done = send_boxes(boxes) and done
        run_file = boxes.with_name(RUN_FILE)
        name = read_json(run_file).get("name")
        if name is not None:
            note_run_id(run_file, Outbox(boxes / name))
    return done


def note_run_id(run_file: Path, box: Outbox) -> None:
    """Write the id that the store has given into `run_file`, if it is not there."""
    known = read_json(run_file)
    if known.get("name") == box.folder.name and known.get("run_id") != box.run_id:
        write_json(run_file, {**known, "run_id": box.run_id})


def read_run_id(run_file: Path) -> str | None:
    """The id in `run_file`; None where the file is missing or holds none."""
    return read_json(run_file).get("run_id")


def _be_impatient() -> None:
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)


def _flatten(params: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in params.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat

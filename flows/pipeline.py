"""The stages of dvc.yaml as Prefect tasks: names, states, retries, time limits, one flow at a time.

dvc.yaml defines the commands and their order.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from prefect import State, get_run_logger, task

from flows.artifacts import show_stages
from videomar.config.layout import Layout
from videomar.files import explain_full_disk
from videomar.processes import OverTimeError, run_within

HOURS = 24.0
"""Time limit of a stage unless the flow run sets another."""
_LOCK, _HOLDER = Layout().local / "flow.lock", Layout().local / "flow.name"


def retry_unless(*errors: type[Exception]) -> Callable[[object, object, State[Any]], bool]:
    """Return a Prefect retry condition: retry after any error but these, where a retry cannot help."""

    def may_retry(_task: object, _run: object, state: State[Any]) -> bool:
        return not isinstance(state.result(raise_on_failure=False), errors)

    return may_retry


@contextmanager
def checkout_lock(flow_name: str) -> Iterator[None]:
    """Hold the lock of this checkout, so that flows run one at a time; wait while another flow holds it.

    The system releases the lock of a flow that is killed.
    """
    _LOCK.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        other = _HOLDER.read_text(encoding="utf-8") if _HOLDER.is_file() else "another flow"
        get_run_logger().info("%s waits for its turn: %s is running", flow_name, other)
        lock.acquire()
    try:
        _HOLDER.write_text(flow_name, encoding="utf-8")
        repair_dvc_lock(Path())
        with explain_full_disk():
            yield
    finally:
        lock.release()


def repair_dvc_lock(folder: Path) -> None:
    """Delete DVC's record of readers and writers if it is damaged; DVC then starts a new one.

    DVC empties the file before it writes it, so a DVC that is killed in between leaves a file that every
    later command of DVC refuses.
    """
    tmp = folder / ".dvc/tmp"
    if _is_json(tmp / "rwlock"):
        return
    from dvc.lock import make_lock

    with make_lock(str(tmp / "rwlock.lock"), tmp_dir=str(tmp)):  # DVC's own lock: no DVC is writing now
        if not _is_json(tmp / "rwlock"):
            (tmp / "rwlock").unlink()


def _is_json(path: Path) -> bool:
    """Whether the file can be parsed; True for a missing file."""
    try:
        json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return True
    except ValueError:
        return False
    return True


def stage_names(pipeline: Path) -> list[str]:
    """Names of the stages in the order of dvc.yaml."""
    return list(yaml.safe_load(pipeline.read_text(encoding="utf-8"))["stages"])


@task(
    task_run_name="{stage}", retries=1, retry_delay_seconds=10, retry_condition_fn=retry_unless(OverTimeError)
)
def run_stage(stage: str, folder: Path, hours: float = HOURS) -> None:
    """Bring one stage up to date; DVC skips it if none of its dependencies changed."""
    repair_dvc_lock(folder)
    run_within(hours, stage, [sys.executable, "-m", "dvc", "repro", "--single-item", stage], folder)


@task(
    task_run_name="{stage}", retries=1, retry_delay_seconds=10, retry_condition_fn=retry_unless(OverTimeError)
)
def run_command(stage: str, command: Sequence[str], hours: float = HOURS) -> None:
    """Run a stage's command with other paths than those of dvc.yaml."""
    run_within(hours, stage, command, Path().resolve())


def run_stages(folder: Path, hours: float, until: str | None = None) -> None:
    """Run all stages (before `until`) one after another; the table of stages is shown even if one fails."""
    seconds: dict[str, float] = {}
    before = _locked_stages(folder)
    try:
        for stage in takewhile(lambda name: name != until, stage_names(Layout(folder).pipeline)):
            start = time.monotonic()
            seconds[stage] = -1.0
            run_stage(stage, folder, hours)
            seconds[stage] = time.monotonic() - start
    finally:
        show_stages(seconds, before, _locked_stages(folder))


def _locked_stages(folder: Path) -> dict[str, object]:
    """Entries of dvc.lock by stage; empty before the first run."""
    lock = Layout(folder).lock
    return yaml.safe_load(lock.read_text("utf-8")).get("stages", {}) if lock.is_file() else {}

"""The stages of dvc.yaml as Prefect tasks: names, state, another try and limits of time.

dvc.yaml says what to do and in which order.
"""

import sys
import time
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import yaml
from prefect import task

from flows.again import unless
from flows.artifacts import show_stages
from flows.dvc_lock import mend_dvc_lock
from videomar.processes import OverTimeError, run_within

HOURS = 24.0


def stage_names(pipeline: Path) -> list[str]:
    """Names of the stages in the order of dvc.yaml."""
    return list(yaml.safe_load(pipeline.read_text(encoding="utf-8"))["stages"])


@task(task_run_name="{stage}", retries=1, retry_delay_seconds=10, retry_condition_fn=unless(OverTimeError))
def run_stage(stage: str, folder: Path, hours: float = HOURS) -> None:
    """Bring one stage up to date; DVC skips it if nothing it depends on has changed."""
    mend_dvc_lock(folder)
    run_within(hours, stage, [sys.executable, "-m", "dvc", "repro", "--single-item", stage], folder)


@task(task_run_name="{stage}", retries=1, retry_delay_seconds=10, retry_condition_fn=unless(OverTimeError))
def run_command(stage: str, command: Sequence[str], hours: float = HOURS) -> None:
    """Run a stage's command on other files than its own."""
    run_within(hours, stage, command, Path().resolve())


def run_stages(folder: Path, hours: float, until: str | None = None) -> None:
    """All stages (before `until`), one after another; the table of what was done is shown in any case."""
    seconds: dict[str, float] = {}
    before = _record(folder)
    try:
        for stage in takewhile(lambda name: name != until, stage_names(folder / "dvc.yaml")):
            start = time.monotonic()
            seconds[stage] = -1.0
            run_stage(stage, folder, hours)
            seconds[stage] = time.monotonic() - start
    finally:
        show_stages(seconds, before, _record(folder))


def _record(folder: Path) -> dict[str, object]:
    lock = folder / "dvc.lock"
    return yaml.safe_load(lock.read_text("utf-8")).get("stages", {}) if lock.is_file() else {}

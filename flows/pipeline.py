"""The stages of dvc.yaml as Prefect tasks: names, state, another try and limits of time.

dvc.yaml says what to do and in which order.
"""

import subprocess
import sys
import time
from pathlib import Path

import yaml
from prefect import task

from flows.artifacts import show_stages
from videomar.errors import VideomarError
from videomar.process import run_in_group

HOURS = 24.0


def stage_names(pipeline: Path) -> list[str]:
    """Names of the stages in the order of dvc.yaml."""
    return list(yaml.safe_load(pipeline.read_text())["stages"])


@task(task_run_name="{stage}", retries=1, retry_delay_seconds=10)
def run_stage(stage: str, folder: Path, hours: float = HOURS) -> None:
    """Bring one stage up to date; DVC skips it if nothing it depends on has changed."""
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", stage]
    try:
        code = run_in_group(command, folder, limit_s=hours * 3600)
    except subprocess.TimeoutExpired:
        raise VideomarError(
            f"stage {stage}: took over {hours} h; allow more hours, or make it smaller"
        ) from None
    if code != 0:
        raise VideomarError(f"stage {stage}: ended with code {code}, expected 0; its message stands above")


def run_stages(folder: Path, hours: float) -> None:
    """All stages, one after another; the table of what was done is shown whatever happens."""
    seconds: dict[str, float] = {}
    before = _record(folder)
    try:
        for stage in stage_names(folder / "dvc.yaml"):
            start = time.monotonic()
            seconds[stage] = -1.0
            run_stage(stage, folder, hours)
            seconds[stage] = time.monotonic() - start
    finally:
        show_stages(seconds, before, _record(folder))


def _record(folder: Path) -> dict[str, object]:
    lock = folder / "dvc.lock"
    return yaml.safe_load(lock.read_text()).get("stages", {}) if lock.is_file() else {}

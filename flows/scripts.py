"""Stages of dvc.yaml as Prefect tasks on other files than their own."""

import shlex
from pathlib import Path
from typing import Any

import yaml
from prefect import task

from flows.again import OverTimeError, run_within, unless


def command_elsewhere(entry: dict[str, Any], places: dict[str, Path], out: Path) -> list[str]:
    """The command of a stage with other paths.

    Args:
        entry: The stage in dvc.yaml.
        places: What stands for a path of dvc.yaml; the stage's outputs are added.
        out: Folder that the outputs go to, below which they have the paths of dvc.yaml.
    """
    made = [item for kind in ("outs", "plots", "metrics") for item in entry.get(kind, [])]
    for path in (item if isinstance(item, str) else next(iter(item)) for item in made):
        places[path] = out / path
        places[path].parent.mkdir(parents=True, exist_ok=True)
    return [str(places.get(word, word)) for word in shlex.split(entry["cmd"])]


@task(task_run_name="{stage}", retries=1, retry_delay_seconds=10, retry_condition_fn=unless(OverTimeError))
def run_elsewhere(
    stage: str, params: Path, places: dict[str, Path], out: Path, hours: float
) -> dict[str, Path]:
    """Run a stage with the parameters of another file; gives `places` with its outputs."""
    entry, places = (
        yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"][stage],
        dict(places),
    )
    command = [*command_elsewhere(entry, places, out), "--params", str(params)]
    run_within(hours, stage, command, Path().resolve())
    return places

"""Flow `refresh`: the pipeline stage by stage. `python -m flows.refresh` runs it without a server.

dvc.yaml says what to do and in which order; the flow adds names, state and another try.
"""

import sys
from pathlib import Path

import yaml

from flows.process import run_in_group
from videomar.environment import prepare_prefect
from videomar.errors import VideomarError

prepare_prefect()

from prefect import flow, task  # noqa: E402  (reads the environment when it is imported)


def stage_names(pipeline: Path) -> list[str]:
    """Names of the stages in the order of dvc.yaml."""
    return list(yaml.safe_load(pipeline.read_text())["stages"])


@task(task_run_name="{stage}", retries=1, retry_delay_seconds=5)
def run_stage(stage: str, folder: Path) -> None:
    """Bring one stage up to date; DVC skips it if nothing it depends on has changed."""
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", stage]
    code = run_in_group(command, folder)
    if code != 0:
        raise VideomarError(f"stage {stage}: ended with code {code}, expected 0; its message stands above")


@flow(name="refresh")
def refresh(folder: Path = Path()) -> None:
    """All stages of the pipeline in `folder`, one after another."""
    for stage in stage_names(folder / "dvc.yaml"):
        run_stage(stage, folder.resolve())


if __name__ == "__main__":
    try:
        refresh()
    except VideomarError as error:
        sys.exit(str(error))

"""Commands of stages within a limit of time, and whether a task that failed is tried again."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prefect import State

from videomar.errors import VideomarError
from videomar.process import run_in_group


class OverTimeError(VideomarError):
    """A stage took longer than it may, and would again."""


def run_within(hours: float, stage: str, command: Sequence[str], folder: Path) -> None:
    """Run a stage's command in a folder, and all that it starts for no longer than so many hours."""
    try:
        code = run_in_group(command, folder, limit_s=hours * 3600)
    except subprocess.TimeoutExpired:
        raise OverTimeError(
            f"stage {stage}: took over {hours} h; allow more hours, or make it smaller"
        ) from None
    if code != 0:
        raise VideomarError(f"stage {stage}: ended with code {code}, expected 0; its message stands above")


def unless(*errors: type[Exception]) -> Callable[[object, object, State[Any]], bool]:
    """A condition of Prefect's: another try, but not after these errors, against which it cannot help."""

    def may_retry(_task: object, _run: object, state: State[Any]) -> bool:
        return not isinstance(state.result(raise_on_failure=False), errors)

    return may_retry

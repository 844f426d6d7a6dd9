"""The stages of dvc.yaml as Prefect tasks: names, states, retries, time limits, one flow at a time.

dvc.yaml defines the commands and their order.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

from prefect import State, get_run_logger, task

from flows.artifacts import show_stages
from flows.checkout_lock import check_params, hold_checkout
from videomar.config.layout import Layout
from videomar.environment import SETTINGS
from videomar.errors import VideomarError
from videomar.processes import StageError, run_within
from videomar.provenance.dvc_repair import keep_lock, outputs_kept, read_lock, read_pipeline, repair

HOURS = 24.0
"""Time limit of a stage unless the flow run sets another."""
_CONSOLE = "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"


def retry_unless(*errors: type[Exception]) -> Callable[[object, object, State[Any]], bool]:
    """Return a Prefect retry condition: retry after any error but these, where a retry cannot help."""

    def may_retry(_task: object, _run: object, state: State[Any]) -> bool:
        return not isinstance(state.result(raise_on_failure=False), errors)

    return may_retry


def may_try_again(_task: object, _run: object, state: State[Any]) -> bool:
    """Retry condition of stages: after a crash, but not where a person has to fix something first."""
    error = state.result(raise_on_failure=False)
    return type(error) is StageError or not isinstance(error, VideomarError)


@contextmanager
def checkout_lock(flow_name: str) -> Iterator[None]:
    """Hold the lock of this checkout, see `hold_checkout`; waits and repairs are shown in the flow's log."""
    with hold_checkout(flow_name, lambda line: log_lines()(line)):
        yield


def log_lines() -> Callable[[str], None]:
    """Return a function that adds a line to the log of the present run, from any thread.

    In a terminal, where Prefect is silent by default, it is printed, too.
    """
    logger, is_silent = get_run_logger(), os.environ.get(_CONSOLE) == SETTINGS[_CONSOLE]

    def show(line: str) -> None:
        logger.info("%s", line)
        if is_silent:
            print(line, file=sys.stderr, flush=True)

    return show


@task(task_run_name="{stage}", retries=1, retry_delay_seconds=10, retry_condition_fn=may_try_again)
def run_stage(stage: str, folder: Path, hours: float = HOURS) -> None:
    """Bring one stage up to date; DVC skips it if none of its dependencies changed."""
    show = log_lines()
    for line in repair(folder):  # what an earlier try left
        show(line)
    with outputs_kept(folder, [stage]):
        command = [sys.executable, "-m", "dvc", "repro", "--single-item", stage]
        run_within(hours, stage, command, folder, show)
    keep_lock(folder)


@task(task_run_name="{stage}", retries=1, retry_delay_seconds=10, retry_condition_fn=may_try_again)
def run_command(stage: str, command: Sequence[str], hours: float = HOURS) -> None:
    """Run a stage's command with other paths than those of dvc.yaml."""
    run_within(hours, stage, command, Path().resolve(), log_lines())


def run_stages(folder: Path, hours: float, until: str | None = None) -> None:
    """Run all stages (before `until`) one after another; the table of stages is shown even if one fails."""
    seconds: dict[str, float] = {}
    check_params(folder)  # flows write into it, too
    here = Layout(folder)
    before = read_lock(here.lock) or {}
    try:
        for stage in takewhile(lambda name: name != until, read_pipeline(here.pipeline)):
            start = time.monotonic()
            seconds[stage] = -1.0
            run_stage(stage, folder, hours)
            seconds[stage] = time.monotonic() - start
    finally:
        show_stages(seconds, before, read_lock(here.lock) or {})

"""The steps of videomar/registry/release.py as Prefect tasks, each with its state and another try."""

from functools import partial
from pathlib import Path

from prefect import task
from tqdm import tqdm

from flows.again import unless
from flows.artifacts import show_release
from flows.pictures import show_clips
from flows.pipeline import HOURS, run_command
from videomar.errors import VideomarError
from videomar.registry import release as steps
from videomar.registry.judging import GENERATED
from videomar.registry.promotion import describe_champion
from videomar.registry.versions import version_of

_may_retry = unless(VideomarError)  # else the user has to mend something


@task(name="register candidate", retries=1, retry_delay_seconds=2, retry_condition_fn=_may_retry)
def register() -> str:
    """Gives the number of the version."""
    return steps.register()


@task(retries=1, retry_delay_seconds=2, retry_condition_fn=_may_retry)
def decide(number: str, hours: float) -> str:
    """Gives the gate's decision in words; where a version is judged again for it, stages are tasks, too."""
    return steps.decide(number, partial(run_command, hours=hours))


@task(name="move alias", retries=1, retry_delay_seconds=2, retry_condition_fn=_may_retry)
def move_alias(number: str) -> None:
    """The alias `champion` moves to the version, or stays."""
    steps.move_alias(number)


@task(name="write report", retries=1, retry_delay_seconds=2, retry_condition_fn=_may_retry)
def report(number: str) -> Path:
    """Gives the report's path."""
    return steps.report(number)


def release_steps(hours: float = HOURS) -> str:
    """Register, decide, promote, report; gives the number of the version.

    Args:
        hours: A stage in which a version is judged again is ended if it takes longer.
    """
    with tqdm(total=4, desc="releasing", unit="step", disable=None) as bar:
        number = register()
        bar.update()
        decision = decide(number, hours)
        bar.write(decision)
        bar.update()
        move_alias(number)
        bar.update()
        path = report(number)
        bar.update()
    show_release(number, decision, describe_champion(version_of(number)), path)
    show_clips(GENERATED)
    return number

"""Flow `release`: the gate judges what the pipeline made.

Its steps are those of videomar/registry/release.py as Prefect tasks, each with a state and a retry.
"""

from functools import partial
from pathlib import Path

from prefect import flow, task
from tqdm import tqdm

from flows.artifacts import show_clips, show_release
from flows.automations import announce
from flows.pipeline import HOURS, checkout_lock, retry_unless, run_command
from videomar.config.layout import Layout
from videomar.errors import VideomarError
from videomar.registry import release as steps
from videomar.registry.versions import version_of

_may_retry = retry_unless(VideomarError)  # such an error is the user's to fix


@flow(name="release")
def release() -> str:
    """Let the gate judge what the pipeline made, move the alias `champion` if it allows, write the report."""
    with checkout_lock("release"):
        return release_steps()


def release_steps(hours: float = HOURS) -> str:
    """Register, decide, move the alias, report; return the number of the version.

    Args:
        hours: Time limit of each stage that evaluates a version again.
    """
    with tqdm(total=4, desc="releasing", unit="step", disable=None) as bar:
        number = register()
        bar.update()
        decision = decide(number, hours)
        bar.write(decision)
        bar.update()
        move_alias(number)
        announce(version_of(number), decision)
        bar.update()
        path = report(number)
        bar.update()
    show_release(number, decision, steps.describe_champion(version_of(number)), path)
    show_clips(Layout().generated)
    return number


@task(name="register candidate", retries=1, retry_delay_seconds=2, retry_condition_fn=_may_retry)
def register() -> str:
    """Register the candidate and return the number of its version."""
    return steps.register()


@task(retries=1, retry_delay_seconds=2, retry_condition_fn=_may_retry)
def decide(number: str, hours: float) -> str:
    """Return the gate's decision in words; stages that evaluate a version again are tasks, too."""
    return steps.decide(number, partial(run_command, hours=hours))


@task(name="move alias", retries=1, retry_delay_seconds=2, retry_condition_fn=_may_retry)
def move_alias(number: str) -> None:
    """Move the alias `champion` to the version if the gate promoted it."""
    steps.move_alias(number)


@task(name="write report", retries=1, retry_delay_seconds=2, retry_condition_fn=_may_retry)
def report(number: str) -> Path:
    """Write the report and return its path."""
    return steps.report(number)

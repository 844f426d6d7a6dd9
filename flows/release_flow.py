"""Flow `release`: the gate judges what the pipeline made.

Its steps are those of videomar/registry/release.py as Prefect tasks, each with a state and a retry.
"""

from functools import partial
from pathlib import Path
from typing import Any

from prefect import State, flow, task
from prefect.states import Completed
from pydantic import PositiveFloat
from tqdm import tqdm

from flows.artifacts import show_clips, show_history, show_release
from flows.automations import announce
from flows.pipeline import HOURS, checkout_lock, retry_unless, run_command
from videomar.config.layout import Layout
from videomar.errors import VideomarError
from videomar.provenance.run_times import STEPS, noted
from videomar.registry import release as steps
from videomar.registry.champion import alias_history
from videomar.registry.versions import version_of

_may_retry = retry_unless(VideomarError)  # such an error is the user's to fix


@flow(name="release")
def release() -> str:
    """Let the gate judge what the pipeline made, move the alias `champion` if it allows, write the report."""
    with checkout_lock("release"), noted(STEPS):
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
        version = version_of(number)
        if "released_at" not in version.tags:  # a release that was cut here tells it again: better than never
            announce(version, decision, promoted=bool((version.decision or {}).get("promote")))
        bar.update()
        path = report(number)
        bar.update()
    version = version_of(number)
    about = "\n\n".join([decision, *(f"New clips: {line}" for line in steps.changed_by_new_clips(version))])
    show_release(number, about, steps.describe_champion(version), path)
    show_history()
    show_clips(Layout().generated)
    return number


@flow(name="judge-champion")
def judge_champion(hours_per_stage: PositiveFloat = HOURS) -> State[Any]:
    """Let the gate judge a champion that was made one on MLflow's page; undo what it refuses.

    Args:
        hours_per_stage: Time limit of each stage that evaluates a version again.
    """
    with checkout_lock("judge champion"):
        run = partial(run_command, hours=hours_per_stage)
        lines = steps.judge_found_champion(Layout().params, run)
        if lines:  # the judgement was a move itself: it allowed its version, or went back from it
            move = alias_history().moves[-1]
            promoted = move.action == "promote"
            announce(version_of(str(move.after if promoted else move.before)), lines[0], promoted)
        show_history()
        return Completed(message=". ".join(lines) or "every move of the champion is judged")


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

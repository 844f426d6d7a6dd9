"""Flow `retrain`: from new clips, or any other change, to a released model; skipped if nothing changed."""

import sys
from pathlib import Path
from typing import Any, Literal

from prefect import State, flow, get_run_logger, task
from prefect.states import Completed
from pydantic import PositiveFloat, PositiveInt

from flows.budget import restore_schedule, use_budget
from flows.pipeline import HOURS, checkout_lock, log_lines, may_try_again, run_stages
from flows.release_flow import release_steps
from videomar.config import load_own_params
from videomar.config.edit import update_params
from videomar.config.layout import Layout
from videomar.errors import VideomarError
from videomar.ops.check_pipeline import pipeline_status
from videomar.processes import run_in_group
from videomar.registry.versions import champion, find_released

CHAMPION, NOTHING = "champion", "nothing"


@task(name="take clips from {clips}", task_run_name="take clips from {clips}")
def use_clips(clips: str) -> None:
    """Make `clips` the folder that the pipeline starts from."""
    command = [sys.executable, "-m", "videomar.cli", "use-clips", "--", clips]
    if run_in_group(command, Path().resolve(), on_line=log_lines()) != 0:
        raise VideomarError(f"clips: got {clips}, expected a folder that holds videos; see the log")


@task(name="start from {start_from}", task_run_name="start from {start_from}")
def use_start(start_from: str) -> None:
    """Set `train.start_from` in params.yaml: to the champion's number, which stays when the alias moves.

    Where it was the shipped model, the schedule that came with it goes, too.
    """
    number = None
    if start_from == CHAMPION and (best := champion()) is None:
        get_run_logger().info("there is no champion yet: training starts from random weights")
    elif start_from == CHAMPION and best is not None:
        number = int(best.number)
    params = Layout().params
    if start_from == NOTHING and load_own_params(params).train.start_from is not None:
        restore_schedule()  # a shortened schedule would count as one that the user wrote, and stay
    if start_from == NOTHING and (presets := Path("presets")).is_dir():
        from videomar.hub.choose_start import choose_start  # here: it needs torch, which flows do not

        choose_start(params, presets, own_clips=False, wanted="nothing")
    if load_own_params(params).train.start_from != number:
        update_params(params, {"train": {"start_from": number}})


@task(name="look for changes", retries=2, retry_delay_seconds=10, retry_condition_fn=may_try_again)
def what_changed() -> str | None:
    """Return what DVC says has changed, or that the release is missing; None if there is nothing to do."""
    if stages := pipeline_status():
        return f"changed: {', '.join(stages)}"
    return None if find_released(Layout().lock) is not None else "the last results are not released"


@flow(name="retrain")
def retrain(
    clips: str = "",
    start_from: Literal["", "champion", "nothing"] = "",
    force: bool = False,
    train_steps: PositiveInt | None = None,
    train_hours: PositiveFloat | None = None,
    hours_per_stage: PositiveFloat = HOURS,
) -> State[Any]:
    """If clips, parameters or code changed, bring the pipeline up to date and release the result.

    Args:
        clips: Another folder of videos (or s3://BUCKET/FOLDER) to start from; empty: as in params.yaml.
        start_from: `champion`: fine-tune the present champion, whose number params.yaml gets, if anything
            else changed or by `force`; `nothing`: train from random weights; empty: as in params.yaml.
        force: Run the stages and the release even if nothing changed.
        train_steps: Most steps of training: params.yaml gets a schedule shortened in proportion; empty: all.
        train_hours: Most hours of training, by a measurement of a minute at the start; empty: as many as
            its steps take.
        hours_per_stage: Time limit of a stage.
    """
    with checkout_lock("retrain"):
        if clips:
            use_clips(clips)
        if start_from == NOTHING:
            use_start(start_from)
        changed = what_changed()
        if changed is None and not force:
            return Completed(name="Skipped", message="nothing changed since the last release")
        if start_from == CHAMPION:
            # Only now: a promoted model is the new champion, which alone must not start another training.
            use_start(start_from)
        # Nor must a budget start a training: it only says how much the present changes are worth.
        cut = use_budget(train_steps, train_hours)
        run_stages(Path().resolve(), hours_per_stage)
        number = release_steps(hours_per_stage)
        why = "; ".join(filter(None, [changed or "by force", cut]))
        return Completed(message=f"version {number} released ({why})")

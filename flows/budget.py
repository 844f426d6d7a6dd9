"""A budget for training: params.yaml gets as many steps as may be spent, and without one all of them back.

Every stage of the curriculum and the warm-up become shorter in proportion, so the schedule keeps its form:

    whole schedule   |-- warm-up --|-------- stage 0 --------|---------------- stage 1 ----------------|
    half of it       |------|------------|--------------------|

The whole schedule is kept in .local. So the next budget is a share of it and not of what this one left; a
schedule that a user has written since then is a whole one. While neither the budget nor params.yaml changes,
the schedule does not: a flow that was killed trains on where it was, and no run measures the speed again.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from prefect import task

from videomar.config import load_own_params
from videomar.config.edit import round_trip, update_params
from videomar.config.layout import Layout
from videomar.errors import VideomarError
from videomar.files import sha256_of, write_json

_HERE = Layout()
_KEPT = _HERE.local / "schedule.json"
_PLAN = (sys.executable, "-m", "videomar.cli", "plan", "--json")


class Schedule(NamedTuple):
    """How long training takes."""

    steps: list[int]
    """Of each stage of the curriculum."""
    warmup_steps: int

    def shortened(self, share: float) -> "Schedule":
        """Return the same with this share of all steps, rounded down; every stage keeps at least one."""
        steps = [max(1, int(steps * share)) for steps in self.steps]
        too_many = sum(steps) - max(len(steps), int(sum(self.steps) * share + 1e-6))
        steps[steps.index(max(steps))] -= max(0, too_many)
        return Schedule(steps, int(self.warmup_steps * share))


@task(name="fit the budget")
def use_budget(steps: int | None, hours: float | None) -> str:
    """Set the steps of training in params.yaml to what may be spent; return what was cut, in words.

    Args:
        steps: Most steps of training; None = all of the schedule.
        hours: Most hours of training, by a measurement of a minute on this machine; None = no limit.

    Raises:
        VideomarError: fewer steps than the curriculum has stages, or the speed cannot be measured.
    """
    now = _present()
    whole = _whole_of(now)
    made_for = {"asked": [steps, hours], "params_sha256": sha256_of(_HERE.params)}
    if now != whole and made_for.items() <= _kept().items():
        return _cut(now, whole)
    shares = [1.0]
    if steps is not None:
        if steps < len(whole.steps):
            rule = f"at least {len(whole.steps)}, one for each stage of train.curriculum"
            raise VideomarError(f"train_steps: got {steps}, expected {rule}; allow more")
        shares.append(steps / sum(whole.steps))
    if hours is not None:
        shares.append(hours / planned_hours(_PLAN) * sum(now.steps) / sum(whole.steps))
    fitted = whole if min(shares) == 1 else whole.shortened(min(shares))
    if fitted == whole:
        _restore(now, whole)
        return ""
    # Before the file changes: a flow that is killed in between must not take what is left for the whole.
    shortened = {"whole": whole, "of": [now, fitted]}
    write_json(_KEPT, shortened)
    _write(fitted, now)
    write_json(_KEPT, {**shortened, **made_for, "params_sha256": sha256_of(_HERE.params)})
    return _cut(fitted, whole)


def restore_schedule() -> None:
    """Write the whole schedule back that a budget has shortened, if one has."""
    now = _present()
    _restore(now, _whole_of(now))


def planned_hours(command: Sequence[str]) -> float:
    """Return the hours that training would take, from the output of `videomar plan --json`.

    Raises:
        VideomarError: the plan was refused, or has no hours.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        line = (done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1]
        raise VideomarError(f"train_hours: got no plan ({line}), expected one; give train_steps instead")
    hours = json.loads(done.stdout)["stages"].get("train", {}).get("hours")
    if not hours:
        raise VideomarError("train_hours: got a plan without hours of training; give train_steps instead")
    return float(hours)


def _present() -> Schedule:
    """The schedule in params.yaml."""
    train = load_own_params(_HERE.params).train
    return Schedule([stage.steps for stage in train.curriculum], train.warmup_steps)


def _kept() -> dict[str, Any]:
    """What the last budget recorded; empty if there is none."""
    return json.loads(_KEPT.read_text("utf-8")) if _KEPT.is_file() else {}


def _whole_of(now: Schedule) -> Schedule:
    """The schedule that an earlier budget shortened to the present one; the present one if none did."""
    kept = _kept()
    shortened = [Schedule(*each) for each in kept.get("of", [])]
    return Schedule(*kept["whole"]) if now in shortened else now


def _cut(fitted: Schedule, whole: Schedule) -> str:
    return f"{sum(fitted.steps):,} of {sum(whole.steps):,} steps of training, as the budget allows"


def _restore(now: Schedule, whole: Schedule) -> None:
    _write(whole, now)
    _KEPT.unlink(missing_ok=True)


def _write(schedule: Schedule, now: Schedule) -> None:
    """Change the numbers in params.yaml, and nothing else of its lines, if they are not these now."""
    if schedule == now:
        return
    curriculum = round_trip().load(_HERE.params.read_text("utf-8"))["train"]["curriculum"]
    for stage, steps in zip(curriculum, schedule.steps, strict=True):
        stage["steps"] = steps
    changes = {"curriculum": curriculum, "warmup_steps": schedule.warmup_steps}
    update_params(_HERE.params, {"train": changes})

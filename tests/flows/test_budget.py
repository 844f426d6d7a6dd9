"""A budget of steps or hours, in params.yaml and back."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from prefect.exceptions import ParameterTypeError

from flows import budget
from flows.budget import Schedule, planned_hours, restore_schedule, use_budget
from flows.retrain import retrain
from tests.support.pipeline_outputs import REPOSITORY
from videomar.config import load_own_params
from videomar.errors import VideomarError

PARAMS = Path("params.yaml")


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The text of a params.yaml that no budget has shortened, in the working folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPOSITORY / PARAMS, tmp_path)
    (tmp_path / ".local").mkdir()
    monkeypatch.setattr("flows.budget.planned_hours", lambda _: pytest.fail("nobody asked for hours"))
    return PARAMS.read_text()


def steps() -> list[int]:
    return [stage.steps for stage in load_own_params(PARAMS).train.curriculum]


def test_budget_shortens_all_in_proportion_and_every_next_one_is_a_share_of_the_whole(whole: str) -> None:
    before, warmup = steps(), load_own_params(PARAMS).train.warmup_steps
    for share in (4, 2):
        words = use_budget.fn(sum(before) // share, None)
        assert steps() == [each // share for each in before]
        assert load_own_params(PARAMS).train.warmup_steps == warmup // share
        assert words.startswith(f"{sum(before) // share:,} of {sum(before):,} steps")
    shortened = PARAMS.read_text().splitlines()
    changed = [old for old, new in zip(whole.splitlines(), shortened, strict=True) if old != new]
    assert len(changed) == len(before) + 1, "the stages and the warm-up, and no other line"
    assert use_budget.fn(None, None) == ""
    assert PARAMS.read_text() == whole
    assert not list(Path(".local").iterdir())


def test_budget_of_more_than_the_schedule_changes_nothing(whole: str) -> None:
    assert use_budget.fn(10**9, None) == ""
    assert PARAMS.read_text() == whole


def test_schedule_that_a_user_wrote_after_a_budget_is_a_whole_one(whole: str) -> None:
    use_budget.fn(100, None)
    warmup = load_own_params(PARAMS).train.warmup_steps
    PARAMS.write_text(PARAMS.read_text().replace(f"warmup_steps: {warmup}", "warmup_steps: 77"))
    mine = PARAMS.read_text()
    assert use_budget.fn(None, None) == ""
    assert PARAMS.read_text() == mine


def test_hours_become_steps_by_the_measured_speed_and_are_measured_once(
    whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    total, asked = sum(steps()), []

    def measured(_: object) -> float:
        asked.append(sum(steps()))
        return 10.0 * sum(steps()) / total  # ten hours for all of them

    monkeypatch.setattr("flows.budget.planned_hours", measured)
    use_budget.fn(None, 2.5)
    fitted = PARAMS.read_text()
    assert sum(steps()) == pytest.approx(total / 4, abs=2)
    use_budget.fn(None, 2.5)
    assert PARAMS.read_text() == fitted, "a flow that was killed trains on"
    assert asked == [total]
    use_budget.fn(None, 5.0)
    assert sum(steps()) == pytest.approx(total / 2, abs=2), "of the whole, though it was measured shortened"
    PARAMS.write_text(PARAMS.read_text() + "# other parameters may have another speed\n")
    use_budget.fn(None, 5.0)
    assert len(asked) == 3
    use_budget.fn(total // 8, 5.0)
    assert sum(steps()) == pytest.approx(total / 8, abs=2), "the smaller of two budgets"


def test_flow_killed_while_it_shortens_does_not_lose_the_whole_schedule(
    whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    use_budget.fn(500, None)
    write = budget.update_params
    monkeypatch.setattr("flows.budget.update_params", killed)
    with pytest.raises(KeyboardInterrupt):
        use_budget.fn(200, None)
    monkeypatch.setattr("flows.budget.update_params", write)
    restore_schedule()
    assert PARAMS.read_text() == whole


def test_every_stage_keeps_a_step_and_no_budget_is_exceeded(whole: str) -> None:
    short = Schedule([1, 1, 1000], 10)
    assert short.shortened(3 / 1002).steps == [1, 1, 1]
    assert short.shortened(10 / 1002).steps == [1, 1, 8]
    with pytest.raises(VideomarError, match="train_steps: got 1, expected at least 2, one for each stage"):
        use_budget.fn(1, None)
    assert PARAMS.read_text() == whole


def prints(text: str, code: int = 0) -> list[str]:
    return [
        sys.executable,
        "-c",
        f"import sys; print({text!r}); print('why', file=sys.stderr); sys.exit({code})",
    ]


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        (prints("", 1), r"train_hours: got no plan \(why\), expected one; give train_steps"),
        (prints(json.dumps({"stages": {"train": {"hours": None}}})), "got a plan without hours"),
        (prints(json.dumps({"stages": {}})), "got a plan without hours"),
    ],
)
def test_plan_that_says_nothing_of_training_is_refused(command: list[str], wrong: str) -> None:
    with pytest.raises(VideomarError, match=wrong):
        planned_hours(command)


def test_plan_names_the_hours_of_all_of_training() -> None:
    assert planned_hours(prints(json.dumps({"stages": {"train": {"hours": 1.5}}}))) == 1.5


@pytest.mark.parametrize("wrong", [{"train_steps": 0}, {"train_hours": -1.0}, {"train_hours": 0}])
def test_budget_of_nothing_is_refused_before_a_run_begins(wrong: dict[str, float]) -> None:
    with pytest.raises(ParameterTypeError, match=next(iter(wrong))):
        retrain.validate_parameters(wrong)

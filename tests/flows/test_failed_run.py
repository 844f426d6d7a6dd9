"""A run that fails, as Prefect's pages show it: the reason, the output while it comes, no second try."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import CHROMIUM, browser
from tests.support.checkout import Checkout, wait_for

pytestmark = pytest.mark.slow
REFUSAL = "second: data/latents: got 1, expected 2; run dvc repro encode"
FAILING = (
    "echo $$ > child && echo training, step 5 && while [ -e pause ]; do sleep 0.1; done "
    f"&& echo '{REFUSAL}' >&2 && exit 1"
)
REASON = "stage second: data/latents: got 1, expected 2; run dvc repro encode"


def failing(folder: Path) -> Checkout:
    """A checkout whose second stage refuses its input."""
    made = Checkout(folder)
    pipeline = folder / "dvc.yaml"
    before, _, after = pipeline.read_text().partition("echo $$")
    pipeline.write_text(f'{before}"{FAILING}"\n    deps{after.partition("deps")[2]}')
    (folder / "second.txt").write_text("as before")
    (folder / "params.yaml").write_text("samples: {source: source.txt}\n")
    return made


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """The same, whose services are up."""
    made = failing(tmp_path_factory.mktemp("checkout"))
    try:
        started = made.services("up")
        assert started.returncode == 0, started.stderr
        yield made
    finally:
        made.services("down")


@pytest.fixture(scope="module")
def failed(checkout: Checkout) -> str:
    """Id of a run that has failed; its output was in the logs before."""
    checkout.pause()
    run = checkout.start("refresh/refresh")
    checkout.pausing_child()
    wait_for(lambda: "training, step 5" in messages(checkout, task_of(checkout, run, "second")), "the output")
    checkout.go_on()
    checkout.end_state(run)
    return run


def task_of(checkout: Checkout, run: str, stage: str) -> dict[str, Any]:
    given = {"flow_runs": {"id": {"any_": [run]}}, "task_runs": {"name": {"any_": [stage]}}}
    (found,) = wait_for(lambda: checkout.prefect("/task_runs/filter", given), f"task {stage}")
    return dict(found)


def messages(checkout: Checkout, task: dict[str, Any]) -> list[str]:
    """What the log of a task says."""
    given = {"logs": {"task_run_id": {"any_": [task["id"]]}}}
    return [entry["message"] for entry in checkout.prefect("/logs/filter", given)]


def test_run_without_services_records_the_reason_and_is_not_repeated(tmp_path: Path) -> None:
    done = failing(tmp_path).run("flows.refresh")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, REASON)
    assert (tmp_path / "second.txt").read_text() == "as before"
    with closing(sqlite3.connect(tmp_path / ".local/prefect/prefect.db")) as database:
        for table in ("flow_run_state", "task_run_state"):
            (message,) = database.execute(f"SELECT message FROM {table} WHERE type = 'FAILED'").fetchone()
            assert REASON in message.splitlines()[0]
            assert f"\ntraining, step 5\n{REFUSAL}\n" in message
        runs = dict(database.execute("SELECT name, run_count FROM task_run"))
        assert runs == {"first": 1, "second": 1}
        logged = [text for (text,) in database.execute("SELECT message FROM log WHERE task_run_id NOTNULL")]
        assert {"training, step 5", REFUSAL} <= set(logged)


def test_states_hold_the_reason_and_the_last_lines(checkout: Checkout, failed: str) -> None:
    task = task_of(checkout, failed, "second")
    for state in (checkout.state(failed), task["state"]):
        assert state["type"] == "FAILED"
        assert REASON in state["message"].splitlines()[0]
        assert f"\ntraining, step 5\n{REFUSAL}\n" in state["message"]
    assert task["run_count"] == 1, "it would refuse again"
    wait_for(lambda: REFUSAL in messages(checkout, task), "the refusal in the task's log")
    assert (checkout.folder / "second.txt").read_text() == "as before"


def test_terminal_says_the_same_in_one_line_below_the_output(checkout: Checkout, failed: str) -> None:
    done = checkout.run("flows.refresh")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == REASON
    assert REFUSAL in done.stderr.splitlines()
    failures = {"flow_runs": {"state": {"type": {"any_": ["FAILED"]}}}}
    runs = [run["id"] for run in checkout.prefect("/flow_runs/filter", failures)]
    (mine,) = {*runs} - {failed}
    task = task_of(checkout, mine, "second")
    wait_for(lambda: REFUSAL in messages(checkout, task), "the refusal in the task's log")


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_pages_show_the_reason(checkout: Checkout, failed: str, tmp_path: Path) -> None:
    server = f"http://127.0.0.1:{checkout.ports[1]}"
    with browser(tmp_path / "profile") as tab:
        tab.call("Network.setExtraHTTPHeaders", headers=checkout.signed())
        tab.open(f"{server}/runs/flow-run/{failed}")
        tab.wait_for_text(REASON)
        tab.screenshot(tmp_path / "flow.png")
        tab.open(f"{server}/runs/task-run/{task_of(checkout, failed, 'second')['id']}")
        tab.wait_for_text("training, step 5")
        tab.wait_for_text(REASON)
        tab.screenshot(tmp_path / "task.png")
        assert tab.foreign_requests() == []

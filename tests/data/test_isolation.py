"""A task that hangs, dies or fails costs itself alone."""

import os
import signal
import time

from videomar.data.isolation import run_isolated


def behave(task: str) -> list[str]:
    if task == "hang":
        time.sleep(60)
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "fail":
        raise ValueError("no good")
    return [task]


def test_bad_tasks_cost_themselves_alone() -> None:
    tasks = ["a", "die", "b", "fail", "hang", "c"]
    results = list(run_isolated(behave, tasks, timeout_s=1.0, num_workers=1))
    assert results == [["a"], "crashed", ["b"], "unreadable: ValueError('no good')", "timeout", ["c"]]


def test_nothing_to_do_is_done() -> None:
    assert list(run_isolated(behave, [], timeout_s=1.0, num_workers=2)) == []

"""A task that hangs, dies, fails or grows costs itself alone."""

import contextlib
import ctypes
import importlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from videomar.curation.sandbox import report_progress, run_isolated
from videomar.errors import DataError

_kept: list[bytes] = []


def behave(task: str) -> list[str]:
    if task == "hang":
        time.sleep(60)
    if task == "hang in C":  # it holds Python's lock: no thread of this process runs any more
        ctypes.PyDLL(None).sleep(60)
    if task == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if task == "leave":
        os._exit(0)
    if task == "steady":
        for _ in range(30):
            time.sleep(0.1)
            report_progress()
    if task == "no library":
        importlib.import_module("a_library_that_is_missing")
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "abort":
        os.abort()
    if task == "fail":
        raise ValueError("no good")
    if task == "grow":
        held = []
        while True:
            held.append(b"x" * 10_000_000)
    if task == "ask too much":
        return [str(len(b"x" * 10**15))]
    return [task]


def leak(task: int) -> int:
    """Keeps 40 MB a task; tells the process."""
    _kept.append(b"x" * 40_000_000)
    return os.getpid()


def keep_or_hold(task: str) -> int:
    """Keeps 150 MB, or needs 600 MB for a moment; tells the process."""
    if task == "dies":
        os.abort()
    if task == "keeps":
        _kept.append(b"x" * 150_000_000)
    if task == "holds":
        held = b"x" * 600_000_000
        time.sleep(0.5)
        del held
    return os.getpid()


def test_bad_tasks_cost_themselves_alone() -> None:
    tasks = ["a", "die", "b", "fail", "hang", "c", "abort", "d"]
    results = list(run_isolated(behave, tasks, timeout_s=1.0, num_workers=1, memory_gb=1.0))
    failed = "failed: no good"
    assert results == [["a"], "crashed", ["b"], failed, "timeout", ["c"], "crashed", ["d"]]


@pytest.mark.skipif(sys.platform == "win32", reason="C functions of this process have other names")
def test_task_that_hangs_in_any_way_is_ended_and_a_slow_one_is_not() -> None:
    tasks = ["hang in C", "steady", "stop", "leave", "no library"]
    results = list(run_isolated(behave, tasks, timeout_s=1.5, num_workers=2, memory_gb=1.0))
    missing = "failed: No module named 'a_library_that_is_missing'"
    assert results == ["timeout", ["steady"], "timeout", "timeout", missing]


def kill_next(task: str) -> str:
    """Has its process killed a moment after the task."""
    if task == "last":
        subprocess.Popen(["sh", "-c", f"sleep 0.2; kill -9 {os.getpid()}"])
    return task


def test_process_killed_between_two_tasks_costs_none() -> None:
    with contextlib.closing(run_isolated(kill_next, ["last", "b"], 30.0, 1, 1.0)) as results:
        assert next(results) == "last"
        time.sleep(1.0)
        assert next(results) == "b"


def never() -> None:
    os._exit(3)


def test_no_process_that_starts_is_refused() -> None:
    with pytest.raises(DataError, match="got no worker process that starts"):
        list(run_isolated(behave, ["a"], 30.0, 1, 1.0, never))


def test_task_that_grows_is_given_up_alone() -> None:
    tasks = ["a", "grow", "b", "ask too much", "c"]
    results = list(run_isolated(behave, tasks, timeout_s=30.0, num_workers=1, memory_gb=0.4))
    assert results == [["a"], "out_of_memory", ["b"], "out_of_memory", ["c"]]


def test_process_that_leaks_is_replaced_and_costs_no_task() -> None:
    processes = list(run_isolated(leak, range(12), timeout_s=30.0, num_workers=1, memory_gb=0.8))
    assert all(isinstance(process, int) for process in processes)
    assert len(set(processes)) > 1


def test_workers_live_from_task_to_task() -> None:
    processes = list(run_isolated(keep_or_hold, [""] * 40, timeout_s=30.0, num_workers=2, memory_gb=1.0))
    assert len(set(processes)) <= 2


def test_dead_worker_is_replaced_and_the_new_one_stays() -> None:
    tasks = ["", "", "dies", "", ""]
    results = list(run_isolated(keep_or_hold, tasks, timeout_s=30.0, num_workers=1, memory_gb=1.0))
    before, dead, after = results[:2], results[2], results[3:]
    assert dead == "crashed"
    assert len(set(before)) == len(set(after)) == 1
    assert set(before) != set(after)


def test_what_a_task_has_leaked_does_not_count_against_the_next() -> None:
    """In a new worker the last one fits into 0.75 GB; in this one 0.75 GB are over."""
    tasks = ["keeps", "holds"]
    results = list(run_isolated(keep_or_hold, tasks, timeout_s=30.0, num_workers=1, memory_gb=0.75))
    assert len(set(results)) == 1
    assert isinstance(results[0], int)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_nothing_to_do_is_done(num_workers: int) -> None:
    assert list(run_isolated(behave, [], timeout_s=1.0, num_workers=num_workers, memory_gb=1.0)) == []


def test_child_that_hangs_does_not_outlive_a_killed_parent() -> None:
    code = (
        "import time; from videomar.curation.sandbox import run_isolated\n"
        "if __name__ == '__main__':\n"
        "    for _ in run_isolated(time.sleep, [0.0, 60.0], 60.0, 1, 1.0): print('begun', flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "begun\n"
        children = psutil.Process(parent.pid).children()
        parent.kill()
        parent.wait()
        _, alive = psutil.wait_procs(children, timeout=5.0)
        for child in alive:
            child.kill()
    assert alive == []


@pytest.mark.slow
def test_workers_that_are_just_starting_at_the_end_say_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """More of them than tasks need, and one that takes the place of a dead one."""
    for _ in range(3):
        assert list(run_isolated(behave, [*"abcdef"], 5.0, num_workers=6, memory_gb=1.0)) == [
            *map(list, "abcdef")
        ]
        results = run_isolated(behave, ["abort", "a"], 5.0, num_workers=2, memory_gb=1.0)
        assert next(results) == "crashed"
        results.close()
    assert "Traceback" not in capfd.readouterr().err

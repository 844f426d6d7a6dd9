import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.service_monitor import poll_until
from videomar.processes import Identity, end_all, tree_of
from videomar.services import supervisor
from videomar.services.definitions import Service
from videomar.services.supervisor import ServiceMonitor


def test_service_that_ends_at_once_is_started_ever_more_rarely(tmp_path: Path) -> None:
    monitor = ServiceMonitor(Service(name="brief", command=("sh", "-c", "date +%s.%N")), tmp_path)
    poll_until(monitor, lambda: monitor.deaths == 3)
    first, second, third = (float(line) for line in (tmp_path / "brief.log").read_text().split())
    assert 0.9 < second - first < third - second
    assert third - second > 1.9


def test_service_that_does_not_answer_is_replaced_with_all_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_SILENT_S", 1.0)
    silent = Service(name="silent", command=("sh", "-c", "sleep 60 & wait"), ready=tmp_path / "never")
    monitor = ServiceMonitor(silent, tmp_path)
    poll_until(monitor, lambda: len(monitor.processes) == 2)
    before = monitor.processes
    poll_until(monitor, lambda: monitor.processes and monitor.processes[0] != before[0])
    assert [identity for identity in before if identity.process() is not None] == []
    after = monitor.processes
    monitor.end()
    assert [identity for identity in after if identity.process() is not None] == []


def test_what_a_service_started_just_before_its_end_ends_too(tmp_path: Path) -> None:
    orphan = "sh -c 'echo $$; setsid sleep 60 & echo $!; wait' &"
    hasty = Service(name="hasty", command=("sh", "-c", f"sleep 0.5; {orphan} sleep 0.2"))
    monitor = ServiceMonitor(hasty, tmp_path)
    poll_until(monitor, lambda: monitor.deaths == 1)
    for number in (tmp_path / "hasty.log").read_text().split():
        assert not psutil.pid_exists(int(number)), number


def test_long_log_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_LOG_BYTES", 3)
    (tmp_path / "brief.log").write_text("old words")
    monitor = ServiceMonitor(Service(name="brief", command=("echo", "new")), tmp_path)
    poll_until(monitor, lambda: monitor.deaths == 1)
    assert (tmp_path / "brief.log.1").read_text() == "old words"
    assert (tmp_path / "brief.log").read_text() == "new\n"


def test_number_that_another_process_has_by_now_is_left_alone() -> None:
    (identity,) = tree_of(subprocess.Popen(["sleep", "60"]).pid)
    end_all([Identity(identity.pid, identity.started - 100.0)])
    assert identity.process() is not None
    end_all([identity])
    assert identity.process() is None


def test_process_that_does_not_heed_is_ended_by_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videomar.processes._GRACE_S", 0.5)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True)"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{deaf}; time.sleep(60)"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    (identity,) = tree_of(process.pid)
    start = time.monotonic()
    end_all([identity])
    assert time.monotonic() - start > 0.4
    assert identity.process() is None

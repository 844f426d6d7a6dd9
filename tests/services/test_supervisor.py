import http.client
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.checkout import REPOSITORY, free_port, wait_for
from tests.support.service_monitor import poll_until
from videomar.environment import answers
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
    monkeypatch.setattr(supervisor, "_STARTING_S", 1.0)
    silent = Service(name="silent", command=("sh", "-c", "sleep 60 & wait"), ready=tmp_path / "never")
    monitor = ServiceMonitor(silent, tmp_path)
    poll_until(monitor, lambda: len(monitor.processes) == 2)
    before = monitor.processes
    poll_until(monitor, lambda: monitor.processes and monitor.processes[0] != before[0])
    assert [identity for identity in before if identity.process() is not None] == []
    after = monitor.processes
    monitor.end()
    assert [identity for identity in after if identity.process() is not None] == []


def test_slow_start_is_not_cut_short_but_silence_afterwards_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where other programs use all cores, a service that is killed in its start would never be ready."""
    monkeypatch.setattr(supervisor, "_SILENT_S", 0.5)
    monkeypatch.setattr(supervisor, "_CHECK_S", 0.1)
    ready = tmp_path / "ready"
    slow = Service(name="slow", command=("sh", "-c", f"sleep 2; touch {ready}; sleep 60"), ready=ready)
    monitor = ServiceMonitor(slow, tmp_path)
    poll_until(monitor, lambda: monitor.ready)
    assert monitor.deaths == 0
    ready.unlink()
    poll_until(monitor, lambda: monitor.deaths == 1)
    monitor.end()


def test_what_a_service_started_just_before_its_end_ends_too(tmp_path: Path) -> None:
    orphan = "sh -c 'echo $$; setsid sleep 60 & echo $!; wait' &"
    hasty = Service(name="hasty", command=("sh", "-c", f"sleep 0.5; {orphan} sleep 0.2"))
    monitor = ServiceMonitor(hasty, tmp_path)
    poll_until(monitor, lambda: monitor.deaths == 1)
    for number in (tmp_path / "hasty.log").read_text().split():
        assert not psutil.pid_exists(int(number)), number


def test_service_that_cannot_start_is_tried_ever_more_rarely(tmp_path: Path) -> None:
    """No memory, no free process, no room for its log: all of these pass."""
    absent = ServiceMonitor(Service(name="absent", command=("/no/such/program",)), tmp_path)
    start = time.monotonic()
    poll_until(absent, lambda: absent.deaths == 3)
    assert time.monotonic() - start > 2.8
    (tmp_path / "file").touch()
    unlogged = ServiceMonitor(Service(name="unlogged", command=("sleep", "60")), tmp_path / "file")
    poll_until(unlogged, lambda: unlogged.deaths == 1)
    (tmp_path / "file").unlink()
    poll_until(unlogged, lambda: unlogged.ready)
    unlogged.end()


def test_question_that_fails_counts_as_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program at its port may answer what is no HTTP."""

    def fail(_url: str) -> bool:
        raise http.client.BadStatusLine("?")

    monkeypatch.setattr("videomar.services.definitions.answers", fail)
    monkeypatch.setattr(supervisor, "_STARTING_S", 1.0)
    service = Service(name="strange", command=("sleep", "60"), health="http://127.0.0.1:1/")
    monitor = ServiceMonitor(service, tmp_path)
    poll_until(monitor, lambda: monitor.deaths == 1)


def test_server_of_another_checkout_is_not_taken_for_ours(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    # It leaves the port after a while, as another checkout does on `make down`.
    serve = (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1")
    theirs = subprocess.Popen(serve, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: answers(url), "their answer")
        ours = ServiceMonitor(Service(name="ours", command=serve, address=url, health=url), tmp_path)
        poll_until(ours, lambda: ours.deaths == 2)
        assert not ours.ready
    finally:
        theirs.terminate()
        theirs.wait()
    poll_until(ours, lambda: ours.ready)
    ours.end()


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


@pytest.mark.slow
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


SUPERVISE = """
import sys
from videomar.services import supervisor
from videomar.services.definitions import Service
from videomar.services.settings import read_settings

steady = Service(name="steady", command=("sleep", "600"))
supervisor.services = lambda settings: [steady, Service(name="other", command=("sleep", "600"))]
if sys.argv[1:] == ["unclear"]:
    supervisor.clear = lambda: 1 / 0
supervisor.supervise(read_settings({}))
"""


class Supervised:
    """A supervisor in a process and folder of its own, with two services that sleep."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.record = folder / ".local/services.json"
        command = [sys.executable, "-c", SUPERVISE, *arguments]
        with (folder / "supervisor.log").open("wb") as log:
            environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
            self.process = psutil.Popen(command, cwd=folder, env=environment, stderr=log)
        wait_for(lambda: self.pid_in_record("other"), "both services")

    def noted(self) -> dict[str, Any]:
        """What the record says; empty without one."""
        try:
            return json.loads(self.record.read_text())["services"]
        except FileNotFoundError:
            return {}

    def pid_in_record(self, name: str) -> int | None:
        """Number of a service's process."""
        processes = self.noted().get(name, {}).get("processes")
        return processes[0][0] if processes else None

    def end(self) -> int:
        """Exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    running = Supervised(tmp_path)
    yield running
    if running.process.is_running():
        running.end()


def test_disk_that_is_full_for_a_while_ends_no_service_and_what_died_meanwhile_returns(
    supervised: Supervised,
) -> None:
    """No file may grow: as on a full disk, each write of the supervisor is an OSError."""
    before = {name: supervised.pid_in_record(name) for name in ("steady", "other")}
    _, hard = supervised.process.rlimit(resource.RLIMIT_FSIZE)
    supervised.process.rlimit(resource.RLIMIT_FSIZE, (0, hard))
    psutil.Process(before["steady"]).kill()
    children = lambda: {child.pid for child in supervised.process.children()}  # noqa: E731
    new = wait_for(lambda: children() - set(before.values()), "the service's return on a full disk", 30)
    time.sleep(1.5)  # in which the record is written three times
    assert supervised.process.status() != psutil.STATUS_ZOMBIE
    assert supervised.pid_in_record("steady") == before["steady"]
    supervised.process.rlimit(resource.RLIMIT_FSIZE, (hard, hard))
    wait_for(lambda: supervised.pid_in_record("steady") in new, "the record of it", 30)
    assert supervised.pid_in_record("other") == before["other"]
    assert supervised.end() == 0
    assert not supervised.record.exists()


def test_record_and_logs_that_somebody_deleted_return(supervised: Supervised) -> None:
    """Without the record `make down` would find nothing to end."""
    old = supervised.pid_in_record("steady")
    shutil.rmtree(supervised.record.parent)
    wait_for(lambda: supervised.pid_in_record("steady") == old, "the record", 30)
    psutil.Process(old).kill()
    wait_for(lambda: supervised.pid_in_record("steady") not in (old, None), "the service", 30)
    assert (supervised.record.parent / "logs/steady.log").is_file()


def test_step_of_the_end_that_fails_leaves_no_service_and_no_record(tmp_path: Path) -> None:
    running = Supervised(tmp_path, "unclear")
    services = running.process.children()
    assert running.end() == 0
    assert len(services) == 2
    assert not any(service.is_running() for service in services)
    assert not running.record.exists()


def test_status_of_services_without_their_supervisor_is_one_line_and_an_error(tmp_path: Path) -> None:
    (tmp_path / ".local").mkdir()
    flows = {"address": None, "ready": True, "deaths": 0, "processes": [[os.getpid(), 0.0]]}
    noted = {"supervisor": [os.getpid(), 0.0], "services": {"flows": flows}}
    (tmp_path / ".local/services.json").write_text(json.dumps(noted))
    command = [sys.executable, "-m", "videomar.services", "status"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    shown = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 1
    assert shown.stderr == "services: supervisor: has ended, expected a living process; `make up`\n"
    assert "flows: deployments of prefect.yaml are served and scheduled; ended; log in" in shown.stdout

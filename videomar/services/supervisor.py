"""The process that keeps all services running: it starts them, checks them, restarts them and ends them."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from videomar.environment import SERVICES, SETTINGS, folder_mark
from videomar.files import atomic_write
from videomar.processes import Identity, end_all, kill_all, session_of, tree_of
from videomar.services.definitions import Service, prefect_api, ray_address, services, tracking_uri
from videomar.services.ports import listening_ports, port_of
from videomar.services.preparation import clear, prepare
from videomar.services.settings import Settings

LOGS = Path(".local/logs")
_LOCK = Path(".local/services.lock")
_POLL_S = 0.5
_CHECK_S = 3.0
"""Time between two health checks of a service that is ready."""
_SILENT_S = 120.0  # a machine under full load answers late
# Imports alone take minutes where other programs use all cores, and a service that is killed begins again.
_STARTING_S = 600.0
_LONG_LIFE_S = 60.0
_LONGEST_PAUSE_S = 60.0
_LOG_BYTES = 10_000_000
_log = logging.getLogger(__name__)


def supervise(settings: Settings) -> None:
    """Run the services until SIGTERM or SIGINT; `.local/services.json` lists their processes.

    Once they run, no error ends this: a full disk or a lack of processes passes, and the services return.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    LOGS.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_LOCK, timeout=0)
    try:
        lock.acquire()  # the system releases it when this process ends, even by SIGKILL
    except Timeout:
        sys.exit("services: another supervisor is running in this checkout")
    stop = threading.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: stop.set())
    os.environ.update(prepare(settings, os.environ))  # all services get the passwords
    monitors = {service.name: ServiceMonitor(service, LOGS) for service in services(settings)}
    record, steps = _Record(settings, list(monitors.values())), _Steps()
    try:
        while not stop.wait(_POLL_S):
            for name, monitor in monitors.items():
                after = monitor.service.after
                if after is None or monitor.processes or monitors[after].ready:
                    steps.attempt(name, monitor.poll)
            steps.attempt(str(SERVICES), record.update)
    finally:
        for name, monitor in reversed(monitors.items()):
            steps.attempt(f"end of {name}", monitor.end)
        steps.attempt("end", clear)
        steps.attempt(f"end of {SERVICES}", lambda: SERVICES.unlink(missing_ok=True))
        lock.release()


class _Steps:
    """Runs the steps of the supervisor, each of which may fail alone.

    Remembers the last error of each, so that one that repeats is logged once.
    """

    def __init__(self) -> None:
        self._reported: dict[str, str] = {}

    def attempt(self, name: str, step: Callable[[], None]) -> None:
        """Run a step; log its error."""
        try:
            step()
        except Exception as error:  # of any kind: the supervisor must outlive what it guards against
            line = f"{type(error).__name__}: {error}"
            if self._reported.get(name) != line:
                self._reported[name] = line
                _log.warning("%s: %s; trying again", name, line)
        else:
            if self._reported.pop(name, None) is not None:
                _log.info("%s: works again", name)


class ServiceMonitor:
    """Starts one service, checks its health and restarts it.

    Remembers its processes, when it answered last, and how many times in a row it ended soon after its start.
    """

    def __init__(self, service: Service, logs: Path) -> None:
        self.service = service
        self.ready = False
        self.processes: list[Identity] = []
        self.deaths = 0
        self._log_file = logs / f"{service.name}.log"
        self._child: subprocess.Popen[bytes] | None = None
        self._start_at = self._started_at = self._answered_at = self._checked_at = 0.0

    def poll(self) -> None:
        """Start the service if due, check its health, and restart it if it ended or does not answer."""
        now = time.monotonic()
        if self._child is None:
            if now >= self._start_at:
                self._start(now)
        elif self._child.poll() is not None:
            self._restart(now, f"ended with code {self._child.returncode}")
        elif now >= self._checked_at + (_CHECK_S if self.ready else _POLL_S):
            self._checked_at = now
            self.processes = tree_of(self._child.pid)
            if self._answers():
                self._answered_at = time.monotonic()
                if not self.ready:
                    _log.info(
                        "%s: ready after %.1f s", self.service.name, self._answered_at - self._started_at
                    )
                self.ready = True
            elif now > self._answered_at + (limit_s := _SILENT_S if self.ready else _STARTING_S):
                self._restart(now, f"did not answer for {limit_s:.0f} s")

    def end(self) -> None:
        """End the service and all that it started."""
        end_all(self._all_processes())
        if self._child is not None:
            self._child.wait()
        self._child, self.processes, self.ready = None, [], False

    def _answers(self) -> bool:
        with contextlib.suppress(Exception):  # what cannot even be asked does not answer
            return self.service.is_ready() and (self.ready or self._has_its_port())
        return False

    def _has_its_port(self) -> bool:
        """Whether its own processes listen at its port: a server of another checkout would answer as well."""
        port = port_of(self.service.address)
        return port is None or any(port in listening_ports(identity) for identity in self.processes)

    def _start(self, now: float) -> None:
        self._started_at = self._answered_at = now
        try:
            self._open()
        except OSError as error:  # no room for its log, no memory, no free process: all of these pass
            self._pause(f"could not start ({error})")
            return
        assert self._child is not None
        self.processes = tree_of(self._child.pid)
        _log.info("%s: started as process %d", self.service.name, self._child.pid)

    def _open(self) -> None:
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        if self.service.ready is not None:
            self.service.ready.unlink(missing_ok=True)
        if self._log_file.is_file() and self._log_file.stat().st_size > _LOG_BYTES:
            self._log_file.replace(self._log_file.with_suffix(".log.1"))
        with self._log_file.open("ab") as log:
            self._child = subprocess.Popen(
                self.service.command,
                env={**SETTINGS, **os.environ, **self.service.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal must not reach it
            )

    def _restart(self, now: float, why: str) -> None:
        """Kill all processes of the service and start it after a pause.

        Its children end too, because they may hold its port. They are killed, because a graceful stop would
        make flow runs report themselves as failed instead of being resumed.
        """
        if now - self._started_at > _LONG_LIFE_S:
            self.deaths = 0
        kill_all(self._all_processes())
        self.end()
        self._pause(why)

    def _pause(self, why: str) -> None:
        """Count a death; the pause before the next start doubles with each early one."""
        self.deaths += 1
        pause = min(2.0 ** (self.deaths - 1), _LONGEST_PAUSE_S)
        _log.warning("%s: %s; starts again in %.0f s", self.service.name, why, pause)
        self._start_at = time.monotonic() + pause

    def _all_processes(self) -> set[Identity]:
        """Processes of the service; its session holds those that it started since the last check."""
        return set() if self._child is None else {*self.processes, *session_of(self._child.pid)}


class _Record:
    """`.local/services.json`. Remembers what it holds, to write only what changed."""

    def __init__(self, settings: Settings, monitors: Sequence[ServiceMonitor]) -> None:
        self._settings, self._monitors = settings, monitors
        self._supervisor = list(tree_of(os.getpid())[0])
        self._written: dict[str, Any] = {}

    def update(self) -> None:
        """Write the present state if the file lacks it; without the file nobody would find the services."""
        SERVICES.parent.mkdir(parents=True, exist_ok=True)  # its mark is part of the state
        state = self._state()
        if state != self._written or not SERVICES.is_file():
            with atomic_write(SERVICES) as draft:
                draft.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
            self._written = state

    def _state(self) -> dict[str, Any]:
        return {
            "folder_mark": folder_mark(),
            "supervisor": self._supervisor,
            "prefect_api": prefect_api(self._settings),
            "tracking_uri": tracking_uri(self._settings),
            "ray_address": ray_address(self._settings),
            "services": {
                monitor.service.name: {
                    "address": monitor.service.address,
                    "ready": monitor.ready,
                    "deaths": monitor.deaths,
                    "processes": [list(identity) for identity in monitor.processes],
                }
                for monitor in self._monitors
            },
        }

"""The process that keeps all services running: it starts them, checks them, restarts them and ends them."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from videomar.environment import SERVICES, SETTINGS
from videomar.files import atomic_write
from videomar.processes import Identity, end_all, kill_all, session_of, tree_of
from videomar.services.definitions import Service, prefect_api, ray_address, services, tracking_uri
from videomar.services.preparation import clear, prepare
from videomar.services.settings import Settings

LOGS = Path(".local/logs")
_LOCK = Path(".local/services.lock")
_POLL_S = 0.5
_CHECK_S = 3.0
"""Time between two health checks of a service that is ready."""
_SILENT_S = 120.0  # a machine under full load answers late
_LONG_LIFE_S = 60.0
_LONGEST_PAUSE_S = 60.0
_LOG_BYTES = 10_000_000
_log = logging.getLogger(__name__)


def supervise(settings: Settings) -> None:
    """Run the services until SIGTERM or SIGINT; `.local/services.json` lists their processes."""
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
    written: dict[str, Any] = {}
    try:
        while not stop.wait(_POLL_S):
            for monitor in monitors.values():
                after = monitor.service.after
                if after is None or monitor.processes or monitors[after].ready:
                    monitor.poll()
            written = _write_state(_state(settings, list(monitors.values())), written)
    finally:
        for monitor in reversed(monitors.values()):
            monitor.end()
        clear()
        SERVICES.unlink(missing_ok=True)
        lock.release()


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
            if self.service.is_ready():
                self._answered_at = time.monotonic()
                if not self.ready:
                    _log.info(
                        "%s: ready after %.1f s", self.service.name, self._answered_at - self._started_at
                    )
                self.ready = True
            elif now > self._answered_at + _SILENT_S:
                self._restart(now, f"did not answer for {_SILENT_S:.0f} s")

    def end(self) -> None:
        """End the service and all that it started."""
        end_all(self._all_processes())
        if self._child is not None:
            self._child.wait()
        self._child, self.processes, self.ready = None, [], False

    def _start(self, now: float) -> None:
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
        self.processes = tree_of(self._child.pid)
        self._started_at = self._answered_at = now
        _log.info("%s: started as process %d", self.service.name, self._child.pid)

    def _restart(self, now: float, why: str) -> None:
        """Kill all processes of the service and start it after a pause, which doubles with each early death.

        Its children end too, because they may hold its port. They are killed, because a graceful stop would
        make flow runs report themselves as failed instead of being resumed.
        """
        self.deaths = 1 if now - self._started_at > _LONG_LIFE_S else self.deaths + 1
        pause = min(2.0 ** (self.deaths - 1), _LONGEST_PAUSE_S)
        _log.warning("%s: %s; starts again in %.0f s", self.service.name, why, pause)
        kill_all(self._all_processes())
        self.end()
        self._start_at = time.monotonic() + pause

    def _all_processes(self) -> set[Identity]:
        """Processes of the service; its session holds those that it started since the last check."""
        return set() if self._child is None else {*self.processes, *session_of(self._child.pid)}


def _state(settings: Settings, monitors: Sequence[ServiceMonitor]) -> dict[str, Any]:
    """Content of `.local/services.json`."""
    return {
        "supervisor": list(tree_of(os.getpid())[0]),
        "prefect_api": prefect_api(settings),
        "tracking_uri": tracking_uri(settings),
        "ray_address": ray_address(settings),
        "services": {
            monitor.service.name: {
                "address": monitor.service.address,
                "ready": monitor.ready,
                "deaths": monitor.deaths,
                "processes": [list(identity) for identity in monitor.processes],
            }
            for monitor in monitors
        },
    }


def _write_state(state: dict[str, Any], written: dict[str, Any]) -> dict[str, Any]:
    """Write the state if it differs from what is on disk; return it."""
    if state != written:
        with atomic_write(SERVICES) as draft:
            draft.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    return state

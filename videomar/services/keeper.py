"""Keeps one service running."""

import logging
import os
import subprocess
import time
from pathlib import Path

from videomar.environment import SETTINGS
from videomar.processes import Identity, end_all, kill_all, session_of, tree_of
from videomar.services.definitions import Service

_LOOK_EVERY_S = 3.0
_SILENT_S = 120.0  # a machine under full load answers late
_LONG_LIFE_S = 60.0
_LONGEST_PAUSE_S = 60.0
_LOG_BYTES = 10_000_000
_log = logging.getLogger(__name__)


class Keeper:
    """Remembers a service's processes, when it answered last, and how often in a row it died young."""

    def __init__(self, service: Service, logs: Path) -> None:
        self.service = service
        self.ready = False
        self.processes: list[Identity] = []
        self._log_file = logs / f"{service.name}.log"
        self._child: subprocess.Popen[bytes] | None = None
        self.deaths = 0
        self._start_at = self._started_at = self._answered_at = self._looked_at = 0.0

    def tend(self) -> None:
        """Start the service if it is due, see whether it is well, and end what is left of it if it is not."""
        now = time.monotonic()
        if self._child is None:
            if now >= self._start_at:
                self._start(now)
        elif self._child.poll() is not None:
            self._bury(now, f"ended with code {self._child.returncode}")
        elif now >= self._looked_at + (_LOOK_EVERY_S if self.ready else 0.5):
            self._looked_at = now
            self.processes = tree_of(self._child.pid)
            if self.service.is_ready():
                self._answered_at = time.monotonic()
                if not self.ready:
                    _log.info(
                        "%s: ready after %.1f s", self.service.name, self._answered_at - self._started_at
                    )
                self.ready = True
            elif now > self._answered_at + _SILENT_S:
                self._bury(now, f"gave no answer for {_SILENT_S:.0f} s")

    def end(self) -> None:
        """End the service and all that it started."""
        end_all(self._all())
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
                start_new_session=True,  # Ctrl-C in a terminal is not for it
            )
        self.processes = tree_of(self._child.pid)
        self._started_at = self._answered_at = now
        _log.info("%s: started as process %d", self.service.name, self._child.pid)

    def _bury(self, now: float, why: str) -> None:
        """Its children may hold the port, so they end too; by force, or they would call their runs failed."""
        self.deaths = 1 if now - self._started_at > _LONG_LIFE_S else self.deaths + 1
        pause = min(2.0 ** (self.deaths - 1), _LONGEST_PAUSE_S)
        _log.warning("%s: %s; starts again in %.0f s", self.service.name, why, pause)
        kill_all(self._all())
        self.end()
        self._start_at = time.monotonic() + pause

    def _all(self) -> set[Identity]:
        """The service's processes; its session has those that it started since the last look."""
        return set() if self._child is None else {*self.processes, *session_of(self._child.pid)}

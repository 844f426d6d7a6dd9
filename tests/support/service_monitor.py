"""Polls a service as the supervisor does."""

import time
from collections.abc import Callable

from videomar.services.supervisor import ServiceMonitor


def poll_until(monitor: ServiceMonitor, condition: Callable[[], object], limit_s: float = 20.0) -> None:
    """Poll a service until the condition holds."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        monitor.poll()
        time.sleep(0.02)

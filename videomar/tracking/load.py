"""The machine's load beside a run, by MLflow's own monitors: processor, memory, disk, network, GPU."""

import contextlib
from typing import Any


class SystemLoad:
    """Samples under the names that MLflow's page of system metrics shows. Remembers its monitors."""

    def __init__(self) -> None:
        self._monitors: list[Any] | None = None

    def sample(self) -> dict[str, float]:
        """What there is at this moment; network traffic since the sample before."""
        if self._monitors is None:
            self._monitors = _monitors()
        found: dict[str, float] = {}
        for monitor in self._monitors:
            with contextlib.suppress(Exception):  # a missing counter is no reason to end a run
                monitor.collect_metrics()
                found |= monitor.aggregate_metrics()
                monitor.clear_metrics()
        return {f"system/{name}": float(value) for name, value in found.items()}


def _monitors() -> list[Any]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    found: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with contextlib.suppress(Exception):  # no GPU, or nothing that reads its counters
        found.append(GPUMonitor())
    return found

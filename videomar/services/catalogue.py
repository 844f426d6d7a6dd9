"""What the services are: their commands, their environments, and how each says that it is ready."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from videomar.environment import answers, prefect_home
from videomar.services.settings import Settings

FLOWS_READY = Path(".local/flows.ready")
"""Written by the flows' service once Prefect knows its deployments."""
_STORE = Path(".local/mlflow.db")
_ARTIFACTS = Path(".local/mlartifacts")


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """A program to be kept running."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    address: str | None = None
    """Of its pages."""
    health: str | None = None
    """Answers while all is well; without one the file `ready` says when it is up."""
    ready: Path | None = None
    after: str | None = None
    """The service that must be ready before this one starts."""

    def is_ready(self) -> bool:
        """Whether it does its work by now."""
        if self.health is not None:
            return answers(self.health)
        return self.ready is None or self.ready.is_file()


def prefect_api(settings: Settings) -> str:
    """Address of Prefect's API."""
    return f"{_url(settings, settings.prefect_port)}/api"


def tracking_uri(settings: Settings) -> str | None:
    """Where runs must be recorded; None where the pipeline opens the server's SQLite file by itself."""
    return _url(settings, settings.mlflow_port) if settings.store else None


def services(settings: Settings) -> list[Service]:
    """All of them, in the order of their start."""
    return [_mlflow(settings), _prefect(settings), _flows(settings)]


def _mlflow(settings: Settings) -> Service:
    url = _url(settings, settings.mlflow_port)
    command = [sys.executable, "-m", "mlflow", "server", "--host", settings.host, "--workers", "1"]
    command += ["--port", str(settings.mlflow_port), "--artifacts-destination", str(_ARTIFACTS.resolve())]
    if settings.authenticated:
        command += ["--app-name", "basic-auth"]
    environment = {
        # By the environment: a command line, with a database's password in it, is for all to read.
        "MLFLOW_BACKEND_STORE_URI": settings.store or f"sqlite:///{_STORE.resolve()}",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # half the memory and half the time to start
    }
    return Service(
        name="mlflow", command=tuple(command), environment=environment, address=url, health=f"{url}/health"
    )


def _prefect(settings: Settings) -> Service:
    url = _url(settings, settings.prefect_port)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", settings.host]
    environment = {
        "PREFECT_HOME": str(prefect_home()),
        "PREFECT_SERVER_UI_API_URL": prefect_api(settings),  # --port does not move it
        "PREFECT_API_URL": prefect_api(settings),
        # Pages of other sites in the user's browser may not start runs here.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": url,
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
    }
    return Service(
        name="prefect",
        command=(*command, "--port", str(settings.prefect_port)),
        environment=environment,
        address=url,
        health=f"{url}/api/health",
    )


def _flows(settings: Settings) -> Service:
    levels = (
        "PREFECT_LOGGING_LEVEL",
        "PREFECT_LOGGING_SERVER_LEVEL",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL",
    )
    return Service(
        name="flows",
        command=(sys.executable, "-m", "flows.serve", str(FLOWS_READY)),
        environment={"PREFECT_API_URL": prefect_api(settings), **dict.fromkeys(levels, "INFO")},
        ready=FLOWS_READY,
        after="prefect",
    )


def _url(settings: Settings, port: int) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    return f"http://[{host}]:{port}" if host.count(":") > 1 and "[" not in host else f"http://{host}:{port}"

"""The services: their commands, environments, addresses and health checks."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from videomar.environment import RAY_ON_LOOPBACK, RAY_TOKEN, answers, listens, prefect_home
from videomar.services.preparation import SIGN_IN, ray_folder
from videomar.services.settings import Settings

FLOWS_READY = Path(".local/flows.ready")
"""Written by the service `flows` once Prefect knows its deployments."""
STORE = Path(".local/mlflow.db")
_ARTIFACTS = Path(".local/mlartifacts")
# Shared memory for objects passed between processes; Ray's default is 30 % of the machine's memory.
_OBJECT_STORE_BYTES = 512 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """A program that is kept running."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    address: str | None = None
    """Address of its pages, or for its clients."""
    health: str | None = None
    """Address of its health check: a page, or `host:port` of a server without pages; else `ready` is used."""
    ready: Path | None = None
    """File that the service writes once it is ready."""
    after: str | None = None
    """The service that must be ready before this one starts."""

    def is_ready(self) -> bool:
        """Whether the service answers its health check, or has written its file."""
        if self.health is not None:
            return answers(self.health) if "://" in self.health else listens(self.health)
        return self.ready is None or self.ready.is_file()


def prefect_api(settings: Settings) -> str:
    """Address of Prefect's API."""
    return f"{_url(settings, settings.prefect_port)}/api"


def tracking_uri(settings: Settings) -> str | None:
    """Where runs must be recorded; None if the pipeline opens the server's SQLite file directly."""
    return _url(settings, settings.mlflow_port) if settings.store else None


def services(settings: Settings) -> list[Service]:
    """All services in the order of their start."""
    ray = [_ray(settings)] if settings.ray_port is not None else []
    return [_mlflow(settings), _prefect(settings), _flows(settings), *ray]


def ray_address(settings: Settings) -> str | None:
    """Address of Ray's head; None without Ray."""
    return None if settings.ray_port is None else f"{settings.ray_host}:{settings.ray_port}"


def _mlflow(settings: Settings) -> Service:
    url = _url(settings, settings.mlflow_port)
    command = [sys.executable, "-m", "mlflow", "server", "--host", settings.host, "--workers", "1"]
    command += ["--port", str(settings.mlflow_port), "--artifacts-destination", str(_ARTIFACTS.resolve())]
    command += ["--app-name", "basic-auth" if settings.accounts else "videomar"]
    environment = {
        # Not on the command line, which all users can read: it may contain a database's password.
        "MLFLOW_BACKEND_STORE_URI": settings.store or f"sqlite:///{STORE.resolve()}",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # half the memory and half the time to start
    }
    if settings.accounts:
        environment["MLFLOW_AUTH_CONFIG_PATH"] = str(SIGN_IN.resolve())
    if settings.names:  # MLflow's default allows names of this machine and of private networks only
        named = [_at(name, settings.mlflow_port) for name in settings.names]
        environment["MLFLOW_SERVER_ALLOWED_HOSTS"] = ",".join(named)
        environment["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] = ",".join(f"http://{name}" for name in named)
    return Service(
        name="mlflow", command=tuple(command), environment=environment, address=url, health=f"{url}/health"
    )


def _prefect(settings: Settings) -> Service:
    url = _url(settings, settings.prefect_port)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", settings.host]
    environment = {
        "PREFECT_HOME": str(prefect_home()),
        # --port does not change it, and a browser elsewhere must find it under the host name it used.
        "PREFECT_SERVER_UI_API_URL": "/api" if settings.everywhere else prefect_api(settings),
        "PREFECT_API_URL": prefect_api(settings),
        # Pages of other sites in the user's browser must not start runs here.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": url,
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_METRICS_ENABLED": "true",  # for Prometheus, at /api/metrics
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


def _ray(settings: Settings) -> Service:
    address = ray_address(settings)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += ["--node-ip-address", settings.ray_host, "--port", str(settings.ray_port)]
    command += ["--temp-dir", str(ray_folder()), "--object-store-memory", str(_OBJECT_STORE_BYTES)]
    # Its monitor is for autoscaling, and serves its metrics without a password.
    command += ["--include-dashboard", "false", "--include-log-monitor", "false", "--no-monitor"]
    # Who can use Ray can run programs as its user, so a token is required on loopback, too.
    environment = {"RAY_AUTH_MODE": "token"}
    if settings.own_token:
        environment["RAY_AUTH_TOKEN_PATH"] = str(RAY_TOKEN.resolve())
    if settings.ray_host.startswith("127."):
        environment |= RAY_ON_LOOPBACK
    return Service(
        name="ray", command=tuple(command), environment=environment, address=address, health=address
    )


def _url(settings: Settings, port: int) -> str:
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return f"http://{_at(here.get(settings.host, settings.host), port)}"


def _at(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

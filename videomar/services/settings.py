"""Where the services listen, and who may reach them there."""

import importlib.util
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from videomar.errors import VideomarError

_HOST, _MLFLOW_PORT, _PREFECT_PORT = "VIDEOMAR_HOST", "VIDEOMAR_MLFLOW_PORT", "VIDEOMAR_PREFECT_PORT"
_SECRETS = (
    "PREFECT_SERVER_API_AUTH_STRING",
    "MLFLOW_AUTH_ADMIN_PASSWORD",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
)
"""What asks everybody for a password; on loopback only users of this machine come in, without any."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Addresses of the servers."""

    host: str
    mlflow_port: int
    prefect_port: int
    authenticated: bool
    """Whether MLflow and Prefect ask for a password."""
    store: str | None
    """MLflow's database if it is not our SQLite file. May hold a password: it is never written anywhere."""


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Settings of the environment's variables, or their defaults: loopback, ports 5000 and 4200.

    Raises:
        VideomarError: a port is none, or the host can be reached from other machines without a password.
    """
    host = environment.get(_HOST) or "127.0.0.1"
    secrets = [name for name in _SECRETS if environment.get(name)]
    authenticated = len(secrets) == len(_SECRETS)
    if not _is_loopback(host) and not authenticated:
        missing = ", ".join(name for name in _SECRETS if name not in secrets)
        raise VideomarError(
            f"{_HOST}: got {host}, which other machines reach, expected 127.0.0.1 while nobody is asked for "
            f"a password; set {missing} too, or forward the ports by ssh"
        )
    if authenticated and importlib.util.find_spec("flask_wtf") is None:
        raise VideomarError(
            "MLFLOW_AUTH_ADMIN_PASSWORD: got one, expected the packages of MLflow's sign-in too; "
            "`.venv/bin/pip install 'mlflow[auth]'`"
        )
    store = environment.get("MLFLOW_BACKEND_STORE_URI") or None
    if store and store.startswith("postgresql://") and importlib.util.find_spec("psycopg2") is None:
        raise VideomarError(
            "MLFLOW_BACKEND_STORE_URI: got a PostgreSQL database, expected its driver too; "
            "`.venv/bin/pip install psycopg2-binary`"
        )
    return Settings(
        host=host,
        mlflow_port=_port(environment, _MLFLOW_PORT, 5000),
        prefect_port=_port(environment, _PREFECT_PORT, 4200),
        authenticated=authenticated,
        store=store,
    )


def require_free_ports(settings: Settings) -> None:
    """Refuse to start where somebody else listens already.

    Raises:
        VideomarError: a port is taken; the message names it and the variable that chooses another.
    """
    for name, port in ((_MLFLOW_PORT, settings.mlflow_port), (_PREFECT_PORT, settings.prefect_port)):
        with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.host, port))
            except OSError as error:
                raise VideomarError(
                    f"port {port} of {settings.host}: got {error.strerror}, expected a free one; "
                    f"choose another, like `{name}={port + 1000} make up`"
                ) from None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _port(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    if not (text.isdecimal() and 0 < int(text) < 65536):
        raise VideomarError(f"{name}: got {text}, expected a port from 1 to 65535")
    return int(text)

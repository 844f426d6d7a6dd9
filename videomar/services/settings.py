"""Settings of the services: where they listen, and who may connect."""

import importlib.util
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from videomar.errors import VideomarError

_HOST, _RAY = "VIDEOMAR_HOST", "VIDEOMAR_RAY"
PORTS = {"mlflow": "VIDEOMAR_MLFLOW_PORT", "prefect": "VIDEOMAR_PREFECT_PORT", "ray": "VIDEOMAR_RAY_PORT"}
"""Variables that name a service's port."""
_DEFAULT_PORTS = {"mlflow": 5000, "prefect": 4200, "ray": 6379}
_PASSWORD = "MLFLOW_AUTH_ADMIN_PASSWORD"
_PASSWORD_LENGTH = 12  # MLflow refuses shorter ones
_SECRETS = ("PREFECT_SERVER_API_AUTH_STRING", _PASSWORD, "MLFLOW_FLASK_SERVER_SECRET_KEY")
"""With these set, MLflow has accounts; without them there is one password, and nobody elsewhere connects."""
_RAY_SECRETS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_EVERYWHERE = ("0.0.0.0", "::")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Addresses of the servers."""

    host: str
    mlflow_port: int
    prefect_port: int
    ray_port: int | None
    """Port of Ray's head; None = no Ray."""
    ray_host: str
    """Address of Ray's head. Nodes connect to it, so it is never the address of all interfaces."""
    own_token: bool
    """Whether we create Ray's token, because the user gave none."""
    accounts: bool
    """Whether MLflow has accounts of its own (`basic-auth`) instead of one password."""
    names: tuple[str, ...]
    """Host names by which others may reach MLflow; none on loopback or if MLflow's variable is set."""
    store: str | None
    """MLflow's database if it is not our SQLite file. It may hold a password: never write it to disk."""

    @property
    def everywhere(self) -> bool:
        """Whether the servers listen on all interfaces."""
        return self.host in _EVERYWHERE

    @property
    def ports(self) -> dict[str, int]:
        """Ports by service; none of Ray without Ray."""
        ray = {} if self.ray_port is None else {"ray": self.ray_port}
        return {"mlflow": self.mlflow_port, "prefect": self.prefect_port, **ray}


def read_settings(environment: Mapping[str, str], remembered: Mapping[str, int] | None = None) -> Settings:
    """Read the settings from environment variables; defaults are loopback, ports 5000 and 4200, no Ray.

    Args:
        environment: Environment variables.
        remembered: Ports that this checkout used last, by service; they replace the default ones.

    Raises:
        VideomarError: a port is invalid, or other machines could connect without a password.
    """
    host = environment.get(_HOST) or "127.0.0.1"
    ports = _DEFAULT_PORTS | dict(remembered or {})
    ray = _ray_wanted(environment)
    accounts = all(environment.get(name) for name in _SECRETS)
    own_token = not any(environment.get(name) for name in _RAY_SECRETS)
    if not _is_loopback(host):
        missing = [name for name in _SECRETS if not environment.get(name)]
        missing += [" or ".join(_RAY_SECRETS)] if ray and own_token else []
        if missing:
            raise VideomarError(
                f"{_HOST}: got {host}, which other machines reach, expected 127.0.0.1 while the passwords "
                f"are not yours; set {', '.join(missing)} too, or forward the ports by ssh"
            )
    if accounts:
        _check_sign_in(environment[_PASSWORD])
    store = environment.get("MLFLOW_BACKEND_STORE_URI") or None
    if store and store.startswith("postgresql://") and importlib.util.find_spec("psycopg2") is None:
        raise VideomarError(
            "MLFLOW_BACKEND_STORE_URI: got a PostgreSQL database, expected its driver too; "
            "`.venv/bin/pip install psycopg2-binary`"
        )
    return Settings(
        host=host,
        mlflow_port=_port(environment, "mlflow", ports),
        prefect_port=_port(environment, "prefect", ports),
        ray_port=_port(environment, "ray", ports) if ray else None,
        ray_host="127.0.0.1" if _is_loopback(host) or not ray else _own_address(host),
        own_token=own_token,
        accounts=accounts,
        names=() if _is_loopback(host) or environment.get("MLFLOW_SERVER_ALLOWED_HOSTS") else _names(host),
        store=store,
    )


def _check_sign_in(password: str) -> None:
    if importlib.util.find_spec("flask_wtf") is None:
        raise VideomarError(
            f"{_PASSWORD}: got one, expected the packages of MLflow's sign-in too; "
            "`.venv/bin/pip install 'mlflow[auth]'`"
        )
    if len(password) < _PASSWORD_LENGTH:
        raise VideomarError(
            f"{_PASSWORD}: got {len(password)} characters, expected at least {_PASSWORD_LENGTH}"
        )


def _ray_wanted(environment: Mapping[str, str]) -> bool:
    text = environment.get(_RAY) or "0"
    if text not in ("0", "1"):
        raise VideomarError(f"{_RAY}: got {text}, expected 1 for a Ray head, or 0")
    return text == "1"


def _names(host: str) -> tuple[str, ...]:
    """Host names that a browser may use; on all interfaces the machine's name and all its addresses."""
    if host not in _EVERYWHERE:
        return (host,)
    found = [
        address.address.partition("%")[0]
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family in (socket.AF_INET, socket.AF_INET6)
    ]
    return ("localhost", socket.gethostname(), *found)


def _own_address(host: str) -> str:
    """Address at which other nodes reach this machine; nothing is sent to find it."""
    try:
        if host not in _EVERYWHERE:
            return socket.gethostbyname(host)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(
                ("192.0.2.1", 9)
            )  # an address reserved for documentation (RFC 5737); connecting UDP sends nothing
            return str(probe.getsockname()[0])
    except OSError as error:
        raise VideomarError(
            f"{_HOST}: got {host} ({error.strerror}), expected one at which other machines reach Ray; "
            f"give the address of an interface, or leave {_RAY} out"
        ) from None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _port(environment: Mapping[str, str], service: str, ports: Mapping[str, int]) -> int:
    text = environment.get(PORTS[service]) or str(ports[service])
    if not (text.isdecimal() and is_port(int(text))):
        raise VideomarError(f"{PORTS[service]}: got {text}, expected a port from 1 to 65535")
    return int(text)


def is_port(number: int) -> bool:
    """Whether a number can be that of a port."""
    return 0 < number < 65536

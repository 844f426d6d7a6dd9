"""Ports of the services: each checkout chooses free ones at its first start and keeps them."""

import errno
import json
import socket
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import psutil

from videomar.errors import VideomarError
from videomar.files import write_json
from videomar.processes import Identity
from videomar.services.settings import PORTS, Settings, is_port

_REMEMBERED = Path(".local/ports.json")
_TRIES = 100
"""Ports above a taken one that are tried."""
_TAKEN = (errno.EADDRINUSE, errno.EACCES)  # the second: ports that the system keeps to itself


def read_ports() -> dict[str, int]:
    """The ports that this checkout used last, by service; those that cannot be read are left out."""
    try:
        found = json.loads(_REMEMBERED.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    known = found.items() if isinstance(found, dict) else ()
    return {name: port for name, port in known if name in PORTS and type(port) is int and is_port(port)}


def choose_ports(settings: Settings, environment: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """Replace ports that other programs use by free ones, and remember all of them for the next start.

    A port that the user has named is not replaced.

    Returns:
        The settings, and a line for the user on each port that was replaced.

    Raises:
        VideomarError: a port that an environment variable names is in use, none above another is free, or
            the host is no address of this machine.
    """
    chosen: dict[str, int] = {}
    lines = []
    # Those that the user has named come first, so that the others make room for them.
    for name, port in sorted(settings.ports.items(), key=lambda item: not environment.get(PORTS[item[0]])):
        above = range(port, min(port + _TRIES, 65535) + 1)
        allowed = [port] if environment.get(PORTS[name]) else above
        free = next((each for each in allowed if _is_free(settings.host, each, chosen.values())), None)
        if free is None:
            raise VideomarError(
                f"{PORTS[name]}: got port {port} of {settings.host}, which is in use, expected a free one; "
                f"choose another, like `{PORTS[name]}={above[-1]} make up`"
            )
        if free != port:
            lines.append(f"{name}: port {port} is in use, so this checkout uses {free} from now on")
        chosen[name] = free
    write_json(_REMEMBERED, read_ports() | chosen)
    mlflow, prefect = chosen["mlflow"], chosen["prefect"]
    return replace(settings, mlflow_port=mlflow, prefect_port=prefect, ray_port=chosen.get("ray")), lines


def require_same_ports(addresses: Mapping[str, str | None], environment: Mapping[str, str]) -> None:
    """Refuse a port that the user names for a service that listens at another one already.

    Args:
        addresses: Of the running services, by name; None for one without.
        environment: Environment variables.

    Raises:
        VideomarError: a variable names another port than its service has.
    """
    for name, variable in PORTS.items():
        running, wanted = port_of(addresses.get(name)), environment.get(variable)
        if running is not None and wanted and wanted != str(running):
            raise VideomarError(
                f"{variable}: got {wanted}, expected {running}, where {name} runs; `make down` first"
            )


def port_of(address: str | None) -> int | None:
    """Port of a service's address; None for a service without one."""
    return None if address is None else int(address.rpartition(":")[2])


def listening_ports(identity: Identity) -> set[int]:
    """TCP ports at which a process listens; none if it has ended."""
    if (process := identity.process()) is None:
        return set()
    connections = process.net_connections("tcp")
    return {each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN}


def _is_free(host: str, port: int, chosen: Collection[int]) -> bool:
    if port in chosen:
        return False
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            raise VideomarError(
                f"VIDEOMAR_HOST: got {host} ({error.strerror}), expected an address of this machine"
            ) from None
    return True

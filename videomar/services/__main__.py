"""`python -m videomar.services up|down|status|supervise`: the services of this checkout."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from videomar.environment import SERVICES, read_services, sign_in_line
from videomar.errors import VideomarError
from videomar.processes import Identity, end_all, tree_of
from videomar.services.definitions import STORE, services
from videomar.services.notifications import read_notifications
from videomar.services.ports import choose_ports, read_ports, require_same_ports
from videomar.services.preparation import clear
from videomar.services.settings import Settings, read_settings
from videomar.services.supervisor import LOGS, supervise
from videomar.tracking.mlflow_store import make_database

_START_S = 300.0
_END_S = 90.0
_TRIES = 3
_LAST_LINES = 2
_DEPLOYMENTS = Path("prefect.yaml")
_SERVED = f"deployments of {_DEPLOYMENTS} are served and scheduled"


def up() -> None:
    """Start the services unless they are running, and print their addresses once all of them answer."""
    settings = _settings()
    read_notifications(_DEPLOYMENTS, os.environ)  # refused here, because the service is asked too late
    if (supervisor := _supervisor()) is None:
        _end_leftovers()
        settings, lines = choose_ports(settings, os.environ)  # the supervisor reads them from their file
        print(*lines, sep="\n", end="\n" if lines else "")
        LOGS.mkdir(parents=True, exist_ok=True)
        if settings.store is None:
            make_database(STORE)  # a server killed while it creates the tables would leave them broken
        print(f"starting {', '.join(service.name for service in services(settings))}; logs in {LOGS}")
        with (LOGS / "supervisor.log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "videomar.services", "supervise"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        is_alive = lambda: child.poll() is None  # noqa: E731
    else:
        if settings.ray_port is not None and "ray" not in _services():
            raise VideomarError("VIDEOMAR_RAY: got 1, expected no services to be running; `make down` first")
        require_same_ports({name: service["address"] for name, service in _services().items()}, os.environ)
        print("the services are up already")
        is_alive = lambda: supervisor.process() is not None  # noqa: E731
    end = time.monotonic() + _START_S
    while not (found := _services()) or not all(service["ready"] for service in found.values()):
        hopeless = any(service["deaths"] >= _TRIES for service in found.values())
        if hopeless or not is_alive() or time.monotonic() > end:
            raise VideomarError(_why_not_ready())
        time.sleep(0.2)
    if line := sign_in_line(in_full=sys.stdout.isatty()):
        print(line)
    for name, service in found.items():
        print(f"{name}: {service['address'] or _SERVED}")


def down() -> None:
    """End the processes that `up` started, no others, and wait until they have ended."""
    supervisor = _supervisor()
    if supervisor is None and not _services():
        print("no services are up")
        return
    if supervisor is not None and (process := supervisor.process()) is not None:
        process.terminate()  # the supervisor ends the services in reverse order
        end = time.monotonic() + _END_S
        while supervisor.process() is not None and time.monotonic() < end:
            time.sleep(0.1)
    _end_leftovers()
    print("the services have ended")


def status() -> None:
    """Print each service with its state, address and log; without services, the ports of the next start.

    Raises:
        VideomarError: the supervisor has ended, or a service is not ready.
    """
    found = _services()
    if not found:
        print("no services are up; `make up` starts")
        for each in services(_settings()):
            print(f"{each.name}: {each.address or _SERVED}")
        return
    supervisor = _supervisor()
    print(f"supervisor: {_state('running', supervisor)}; log in {LOGS / 'supervisor.log'}")
    for name, service in found.items():
        first = Identity(*service["processes"][0]) if service["processes"] else None
        state = _state("ready" if service["ready"] else "not ready", first)
        deaths = f", ended early {service['deaths']} times" if service["deaths"] else ""
        print(f"{name}: {service['address'] or _SERVED}; {state}{deaths}; log in {LOGS / name}.log")
    if supervisor is None:
        raise VideomarError("supervisor: has ended, expected a living process; `make up`")
    if not all(service["ready"] for service in found.values()):
        raise VideomarError(_why_not_ready())


def _state(recorded: str, identity: Identity | None) -> str:
    """The recorded state, process and hours since its start, in words; that it has ended, if it has."""
    if identity is None or identity.process() is None:
        return "ended"
    return f"{recorded}, process {identity.pid} for {(time.time() - identity.started) / 3600:.1f} h"


def _settings() -> Settings:
    """Settings of this checkout: the environment's, and the ports that it used last."""
    return read_settings(os.environ, read_ports())


def _supervisor() -> Identity | None:
    """The running supervisor of this checkout; None without one."""
    recorded = read_services().get("supervisor")
    identity = Identity(*recorded) if recorded else None
    return identity if identity is not None and identity.process() is not None else None


def _services() -> dict[str, dict[str, Any]]:
    return read_services().get("services", {})


def _end_leftovers() -> None:
    """End the processes that a killed supervisor left running."""
    recorded = read_services()
    left = {Identity(*recorded["supervisor"])} if "supervisor" in recorded else set()
    for service in recorded.get("services", {}).values():
        left |= {Identity(*process) for process in service["processes"]}
    started_since = {child for known in left if known.process() is not None for child in tree_of(known.pid)}
    end_all(left | started_since)
    clear()
    SERVICES.unlink(missing_ok=True)


def _why_not_ready() -> str:
    waited = [name for name, service in _services().items() if not service["ready"]] or ["supervisor"]
    log = LOGS / f"{waited[0]}.log"
    last = (
        log.read_text(errors="replace", encoding="utf-8").splitlines()[-_LAST_LINES:] if log.is_file() else []
    )
    return f"services: {', '.join(waited)} not ready, expected an answer; {log} ends with: {' | '.join(last)}"


def main() -> None:
    """Entry point: a problem that the user can fix is one line on stderr and exit code 1."""
    verbs = {"up": up, "down": down, "status": status, "supervise": lambda: supervise(_settings())}
    if len(sys.argv) != 2 or sys.argv[1] not in verbs:
        print(f"usage: python -m videomar.services {'|'.join(verbs)}", file=sys.stderr)
        sys.exit(2)
    try:
        verbs[sys.argv[1]]()
    except (VideomarError, OSError) as error:
        print(f"services: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()

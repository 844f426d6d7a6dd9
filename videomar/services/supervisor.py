"""The process that keeps all services running until it is told to end."""

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from videomar.environment import SERVICES
from videomar.files import atomic_write
from videomar.processes import tree_of
from videomar.services.definitions import prefect_api, ray_address, services, tracking_uri
from videomar.services.keeper import Keeper
from videomar.services.preparation import clear, prepare
from videomar.services.settings import Settings

LOGS = Path(".local/logs")
_LOCK = Path(".local/services.lock")
_PULSE_S = 0.5


def supervise(settings: Settings) -> None:
    """Run the services until SIGTERM or SIGINT; `.local/services.json` says which processes there are."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    LOGS.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_LOCK, timeout=0)
    try:
        lock.acquire()  # ends with this process, however it ends
    except Timeout:
        sys.exit("services: another supervisor is at work in this checkout")
    told_to_end = threading.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: told_to_end.set())
    prepare(settings)
    keepers = {service.name: Keeper(service, LOGS) for service in services(settings)}
    noted: dict[str, Any] = {}
    try:
        while not told_to_end.wait(_PULSE_S):
            for keeper in keepers.values():
                after = keeper.service.after
                if after is None or keeper.processes or keepers[after].ready:
                    keeper.tend()
            noted = _note(_state(settings, list(keepers.values())), noted)
    finally:
        for keeper in reversed(keepers.values()):
            keeper.end()
        clear()
        SERVICES.unlink(missing_ok=True)
        lock.release()


def _state(settings: Settings, keepers: Sequence[Keeper]) -> dict[str, Any]:
    return {
        "supervisor": list(tree_of(os.getpid())[0]),
        "prefect_api": prefect_api(settings),
        "tracking_uri": tracking_uri(settings),
        "ray_address": ray_address(settings),
        "services": {
            keeper.service.name: {
                "address": keeper.service.address,
                "ready": keeper.ready,
                "deaths": keeper.deaths,
                "processes": [list(identity) for identity in keeper.processes],
            }
            for keeper in keepers
        },
    }


def _note(state: dict[str, Any], noted: dict[str, Any]) -> dict[str, Any]:
    if state != noted:
        with atomic_write(SERVICES) as draft:
            draft.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    return state

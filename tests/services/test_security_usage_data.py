"""No usage data leaves the machine: programs know that they may not send any, and services ask nobody."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import REPOSITORY, Checkout, wait_for
from videomar.environment import SETTINGS

# What each program itself calls "may send", in its own words.
MAY_SEND = {
    "mlflow": "from mlflow.telemetry.utils import is_telemetry_disabled as off; print(not off())",
    "prefect": "from prefect._internal.analytics.enabled import is_telemetry_enabled as on; print(on())",
    "prefect server": (
        "from prefect.settings import get_current_settings as now; print(now().server.analytics_enabled)"
    ),
    "ray": "from ray._common.usage.usage_lib import usage_stats_enabled as on; print(on())",
    "dvc": "from dvc.analytics import is_enabled as on; print(on())",
}
# Programs send nothing where they see a machine that tests them.
OF_TESTS = (
    "CI",
    "GITHUB_ACTIONS",
    "PYTEST_CURRENT_TEST",
    "PYTEST_VERSION",
    "TF_BUILD",
    "DVC_TEST",
    "JENKINS_URL",
)
# Loaded by every Python before anything else: writes down whom a program looks for.
WATCH = """
import os, sys

def note(event, arguments):
    if event == "socket.getaddrinfo":
        asked = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        asked = arguments[1][0]
    else:
        return
    with open(os.environ["WATCHED"], "a") as file:
        file.write(f"{asked!s}\\n")

sys.addaudithook(note)
"""
HERE = {"127.0.0.1", "localhost", "::1", "0.0.0.0", "::", "None", "b'127.0.0.1'", "b'localhost'"}


def answer(code: str, folder: Path, settings: dict[str, str]) -> str:
    """What a fresh process prints that has nothing but these settings to go by."""
    ours = {*SETTINGS, *OF_TESTS}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    environment = {**kept, "HOME": str(folder), "PREFECT_HOME": str(folder), **settings}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("program", MAY_SEND)
def test_programs_may_send_nothing_with_our_settings_and_would_without_them(
    program: str, tmp_path: Path
) -> None:
    assert answer(MAY_SEND[program], tmp_path, SETTINGS) == "False"
    assert answer(MAY_SEND[program], tmp_path, {}) == "True"


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Checkout, Path]]:
    """Services whose every look for another machine is written down."""
    made = Checkout(tmp_path_factory.mktemp("watched"))
    hook, log = made.folder / ".local/hook", made.folder / ".local/asked"
    hook.mkdir(parents=True)
    (hook / "sitecustomize.py").write_text(WATCH)
    watching = {"PYTHONPATH": f"{hook}{os.pathsep}{REPOSITORY}", "WATCHED": str(log)}
    settings = {name: "" for name in OF_TESTS} | watching
    try:
        started = made.services("up", **settings)
        assert started.returncode == 0, started.stderr
        assert made.run("flows.refresh", **settings).returncode == 0
        yield made, log
    finally:
        made.services("down")


@pytest.mark.slow
def test_services_and_flows_ask_nobody_but_this_machine(watched: tuple[Checkout, Path]) -> None:
    checkout, log = watched
    checkout.mlflow("registered-models/create", {"name": "videomar"})
    run = checkout.start("refresh/refresh")
    assert checkout.end_state(run)["type"] == "COMPLETED"
    time.sleep(10)  # what is sent in the background is sent some seconds later
    asked = wait_for(lambda: log.is_file() and log.read_text().split(), "a look for this machine")
    assert set(asked) - HERE == set()
    assert len(asked) > 10

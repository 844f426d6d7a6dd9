"""A checkout with a pipeline of two trivial stages and services of its own, on free ports."""

import base64
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from videomar.environment import PASSWORD, USER
from videomar.processes import Identity

REPOSITORY = Path(__file__).parents[2]
DVC_YAML = """
stages:
  first:
    cmd: cp source.txt first.txt
    deps: [source.txt]
    outs: [first.txt]
  second:
    cmd: echo $$ > child && while [ -e pause ]; do sleep 0.1; done && cp first.txt second.txt
    deps: [first.txt]
    outs: [second.txt]
"""
_LIMIT_S = 120.0
_TRIES = 10
_BROWSER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def wait_for(fact: Callable[[], Any], what: str, limit_s: float = _LIMIT_S) -> Any:
    """The fact, once it is true."""
    end = time.monotonic() + limit_s
    while not (found := fact()):
        assert time.monotonic() < end, f"not within {limit_s} s: {what}"
        time.sleep(0.2)
    return found


class Checkout:
    """The folder, and its services by their HTTP interfaces."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = [free_port(), free_port()]
        (folder / "dvc.yaml").write_text(DVC_YAML)
        (folder / "source.txt").write_text("0")
        shutil.copy(REPOSITORY / "prefect.yaml", folder)
        subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
        subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=folder, check=True)

    def services(self, verb: str, **more: str) -> subprocess.CompletedProcess[str]:
        """`python -m videomar.services VERB`."""
        return self.run("videomar.services", verb, **more)

    def run(self, module: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a module with the repository's code in the folder."""
        command = [sys.executable, "-m", module, *arguments]
        environment = self.environment(**more)
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )

    def environment(self, **more: str) -> dict[str, str]:
        """That of the programs of the folder."""
        cleared = ("MLFLOW_TRACKING_URI", "MLFLOW_BACKEND_STORE_URI", "PREFECT_HOME", "VIDEOMAR_HOST")
        # `import flows` in a test gives Prefect a password for a temporary server.
        cleared += ("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING")
        kept = {name: value for name, value in os.environ.items() if name not in cleared}
        return kept | {
            "PYTHONPATH": str(REPOSITORY),
            "VIDEOMAR_MLFLOW_PORT": str(self.ports[0]),
            "VIDEOMAR_PREFECT_PORT": str(self.ports[1]),
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            **more,
        }

    def noted(self) -> dict[str, Any]:
        """What the supervisor has written down."""
        return json.loads((self.folder / ".local/services.json").read_text())

    def processes(self, service: str) -> list[Identity]:
        """Those of one service."""
        return [Identity(*process) for process in self.noted()["services"][service]["processes"]]

    def log(self, name: str) -> str:
        """What a service has said so far."""
        return (self.folder / f".local/logs/{name}.log").read_text()

    def text(self, url: str, headers: dict[str, str]) -> str:
        """What an address answers."""
        with _BROWSER.open(urllib.request.Request(url, headers=headers), timeout=60) as reply:
            return str(reply.read().decode())

    def ask(self, url: str, body: object = None, headers: dict[str, str] | None = None) -> Any:
        """The JSON that an address answers."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            url, data=data, headers={"Content-Type": "application/json", **(headers or {})}
        )
        for _ in range(_TRIES):
            try:
                with _BROWSER.open(request, timeout=60) as reply:
                    return json.loads(reply.read() or "null")
            except urllib.error.HTTPError as error:
                if error.code != 503:  # "busy, try again", which Prefect's clients do
                    raise
            time.sleep(1)
        raise TimeoutError(f"{url}: busy {_TRIES} times")

    def password(self) -> str:
        """That of MLflow and Prefect, which `up` made."""
        return (self.folder / PASSWORD).read_text()

    def signed(self) -> dict[str, str]:
        """Headers of a request by who knows the password."""
        return basic(f"{USER}:{self.password()}")

    def sign_in(self, monkeypatch: pytest.MonkeyPatch) -> str:
        """Let MLflow's client in this process use the server of the checkout; gives its address."""
        address = f"http://127.0.0.1:{self.ports[0]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", self.password())
        return address

    def prefect(self, path: str, body: object = None) -> Any:
        """Prefect's API, with the token that its pages use."""
        api = f"http://127.0.0.1:{self.ports[1]}/api"
        headers = self.signed()
        if body is not None:
            token = self.ask(f"{api}/csrf-token?client=test", headers=headers)["token"]
            headers |= {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": "test"}
        return self.ask(api + path, body, headers)

    def mlflow(self, path: str, body: object = None) -> Any:
        """MLflow's API."""
        return self.ask(f"http://127.0.0.1:{self.ports[0]}/api/2.0/mlflow/{path}", body, self.signed())

    def pid_of(self, service: str) -> int:
        """Its first process."""
        return self.processes(service)[0].pid

    def start(self, deployment: str, **parameters: object) -> str:
        """What the button in the pages does; gives the run's id."""
        found = self.prefect(f"/deployments/name/{deployment}")["id"]
        request = {"state": {"type": "SCHEDULED"}, "parameters": parameters}
        return str(self.prefect(f"/deployments/{found}/create_flow_run", request)["id"])

    def state(self, run: str) -> dict[str, Any]:
        """Of a flow's run: `type`, `name`, `message`."""
        return self.prefect(f"/flow_runs/{run}")["state"]

    def end_state(self, run: str) -> dict[str, Any]:
        """The state in which a run ended."""
        last = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        return wait_for(
            lambda: state if (state := self.state(run))["type"] in last else None, f"end of run {run}"
        )

    def change_source(self) -> None:
        """Give both stages something to do."""
        source = self.folder / "source.txt"
        source.write_text(str(int(source.read_text()) + 1))

    def pause(self) -> None:
        """Let the second stage have something to do, and wait in it while there is a file `pause`."""
        (self.folder / "child").unlink(missing_ok=True)
        (self.folder / "pause").touch()
        self.change_source()

    def go_on(self) -> None:
        """Let the second stage come to its end."""
        (self.folder / "pause").unlink()

    def pausing_child(self) -> int:
        """Number of the second stage's process, which waits while there is a file `pause`."""
        child = self.folder / "child"
        return int(wait_for(lambda: child.is_file() and child.read_text().strip(), "the second stage"))

    def pretend_release(self) -> None:
        """Register a version for the present dvc.lock, as a release does, through MLflow's server."""
        lock = hashlib.sha256((self.folder / "dvc.lock").read_bytes()).hexdigest()
        self.mlflow("registered-models/create", {"name": "videomar"})
        tags = [{"key": "lock_sha256", "value": lock}, {"key": "released_at", "value": "now"}]
        made = self.mlflow("model-versions/create", {"name": "videomar", "source": "s3://a/b", "tags": tags})
        alias = {"name": "videomar", "alias": "challenger", "version": made["model_version"]["version"]}
        self.mlflow("registered-models/alias", alias)


def basic(word: str) -> dict[str, str]:
    """Headers of a request by `user:password`."""
    return {"Authorization": f"Basic {base64.b64encode(word.encode()).decode()}"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

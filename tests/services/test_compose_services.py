"""The commands and environments of deploy/compose.yaml, run as they are on this machine without an engine.

Only addresses change: names of containers become ports of loopback. PostgreSQL is a real server; the object
store is another one than in the file, which speaks S3 too.
"""

import base64
import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.conftest import ENVIRONMENT_AT_START
from tests.support import database
from tests.support.checkout import free_port, wait_for
from tests.support.containers import PASSWORDS, WORDS, filled, health_command, image_environment, own_services
from tests.support.object_store import object_store
from videomar.processes import end_all, tree_of

ROOT = Path(__file__).parents[2]
_BROWSER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
needs_server = pytest.mark.skipif(database.why_not() is not None, reason=str(database.why_not()))


class Containers:
    """The services of the compose file as processes of this machine, in folders for their volumes."""

    def __init__(self, folder: Path, addresses: dict[str, str]) -> None:
        self.folder, self.addresses = folder, addresses
        self.children: dict[str, subprocess.Popen[bytes]] = {}

    def here(self, text: object) -> str:
        """The text with its variables, and with the addresses of this machine."""
        names = "|".join(re.escape(name) for name in self.addresses)  # longer ones come first
        return re.sub(
            rf"(?<!\d)({names})", lambda found: self.addresses[found[1]], filled(str(text), PASSWORDS)
        )

    def environment(self, name: str) -> dict[str, str]:
        """What the engine would give a service: the image's variables and its own, nothing of this shell."""
        image = {key: value for key, value in image_environment().items() if "/opt/videomar" not in value}
        own = {key: self.here(value) for key, value in own_services()[name]["environment"].items()}
        kept = {key: ENVIRONMENT_AT_START[key] for key in ("HOME", "TMPDIR") if key in ENVIRONMENT_AT_START}
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        return {**kept, **image, **own, "PATH": path, "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"}

    def start(self, name: str) -> None:
        """Start a service and wait until the image's health check passes."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        with (self.folder / f"{name}.log").open("wb") as log:
            self.children[name] = subprocess.Popen(
                [self.here(word) for word in own_services()[name]["command"]],
                cwd=folder,
                env=self.environment(name),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_for(lambda: self.is_healthy(name), f"{name}: {self.folder}", 300.0)

    def is_healthy(self, name: str) -> bool:
        """What the image's health check says."""
        said = (self.folder / f"{name}.log").read_text(errors="replace")
        assert self.children[name].poll() is None, said[-3000:]
        done = subprocess.run(
            health_command(), cwd=self.folder / name, env=self.environment(name), check=False, timeout=60
        )
        return done.returncode == 0

    def end(self) -> None:
        """End what was started, last first."""
        for child in reversed(self.children.values()):
            processes = set(tree_of(child.pid))
            child.send_signal(signal.SIGTERM)
            end_all(processes)
            child.wait(60)


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    folder = tmp_path_factory.mktemp("containers")
    mlflow, prefect = free_port(), free_port()
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(database, "PASSWORD", PASSWORDS["POSTGRES_PASSWORD"])
        found = stack.enter_context(database.postgres("mlflow", "prefect", "accounts"))
        store = stack.enter_context(object_store())
        boto3.client(
            "s3",
            endpoint_url=store,
            aws_access_key_id="videomar",
            aws_secret_access_key=PASSWORDS["STORE_PASSWORD"],
            region_name="us-east-1",
        ).create_bucket(Bucket="videomar")
        sign_in = folder / "sign-in.ini"
        made = Containers(
            folder,
            {
                "postgres:5432": found["mlflow"].partition("@")[2].partition("/")[0],
                "http://store:8333": store,
                "mlflow:5000": f"127.0.0.1:{mlflow}",
                "prefect:4200": f"127.0.0.1:{prefect}",
                "5000": str(mlflow),
                "4200": str(prefect),
                "0.0.0.0": "127.0.0.1",
                "/etc/videomar/mlflow-auth.ini": str(sign_in),
                "/home/videomar": str(folder),
            },
        )
        sign_in.write_text(made.here(WORDS["configs"]["sign-in"]["content"]))
        try:
            for name in ("mlflow", "prefect", "flows"):
                made.start(name)
            yield made
        finally:
            made.end()


def ask(url: str, body: object = None, user: str = "") -> Any:
    """The JSON that an address answers, or its status if it refuses."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    if user:
        headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    try:
        with _BROWSER.open(urllib.request.Request(url, data=data, headers=headers), timeout=60) as reply:
            return json.loads(reply.read() or "null")
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
@needs_server
def test_file_goes_through_mlflow_into_the_store_and_back(containers: Containers) -> None:
    """As a flow does it: with the environment of its container, and no key of the store in use."""
    code = """
import mlflow
mlflow.set_experiment("videomar")
with mlflow.start_run() as run:
    mlflow.log_text("words", "note.txt")
    assert mlflow.get_artifact_uri("note.txt").startswith("mlflow-artifacts:"), mlflow.get_artifact_uri()
    assert mlflow.artifacts.load_text(mlflow.get_artifact_uri("note.txt")) == "words"
"""
    environment = containers.environment("flows")
    environment = {name: value for name, value in environment.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=containers.folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    own = containers.environment("mlflow")
    client = boto3.client(
        "s3",
        endpoint_url=own["MLFLOW_S3_ENDPOINT_URL"],
        aws_access_key_id=own["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=own["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    )
    keys = [each["Key"] for each in client.list_objects_v2(Bucket="videomar")["Contents"]]
    assert [key for key in keys if key.startswith("mlflow/") and key.endswith("/artifacts/note.txt")] == keys


@pytest.mark.slow
@needs_server
def test_nobody_gets_in_without_the_password(containers: Containers) -> None:
    tracking = containers.environment("flows")["MLFLOW_TRACKING_URI"]
    api = containers.environment("flows")["PREFECT_API_URL"]
    search = f"{tracking}/api/2.0/mlflow/experiments/search"
    assert ask(search, {"max_results": 5}) == 401
    assert ask(search, {"max_results": 5}, "admin:wrong-password") == 401
    assert "experiments" in ask(search, {"max_results": 5}, f"admin:{PASSWORDS['MLFLOW_PASSWORD']}")
    assert ask(f"{api}/admin/version") == 401
    assert isinstance(ask(f"{api}/admin/version", user=f"videomar:{PASSWORDS['PREFECT_PASSWORD']}"), str)


@pytest.mark.slow
@needs_server
def test_flows_serve_the_deployments_of_a_new_pipeline(containers: Containers) -> None:
    folder = containers.folder / "flows"
    assert (folder / "dvc.yaml").is_file()
    assert (folder / "videomar.version").read_text().strip()
    listed = subprocess.run(
        [sys.executable, "-m", "prefect", "deployment", "ls"],
        cwd=folder,
        env={**containers.environment("flows"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert listed.returncode == 0, listed.stderr
    assert "retrain/nightly" in listed.stdout
    # They are in PostgreSQL and nowhere else.
    assert [path for path in containers.folder.rglob("prefect.db") if path.is_file()] == []


@pytest.mark.slow
@needs_server
def test_flows_start_again_in_the_same_volume(containers: Containers) -> None:
    """As after a new image or a restart: the folder stays, and its version becomes that of the package."""
    folder = containers.folder / "flows"
    child = containers.children.pop("flows")
    end_all(set(tree_of(child.pid)))
    child.wait(60)
    (folder / "videomar.version").write_text("0.0.0\n")
    (folder / "params.yaml").write_text((folder / "params.yaml").read_text() + "# mine\n")
    containers.start("flows")
    # The shell may not have come to its first command yet: what said "ready" before is then seen as healthy.
    wait_for(lambda: (folder / "videomar.version").read_text() not in ("", "0.0.0\n"), "the new version")
    assert (folder / "params.yaml").read_text().endswith("# mine\n")

"""The password of MLflow and Prefect: new with each start, for its owner only, asked for by everything."""

import base64
import json
import os
import stat
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from tests.support.checkout import REPOSITORY, Checkout
from videomar.environment import (
    MLFLOW_PASSWORD,
    PASSWORD,
    PREFECT_SIGN_IN,
    USER,
    read_password,
    sign_in_line,
)
from videomar.processes import Identity
from videomar.services.definitions import services
from videomar.services.preparation import clear, prepare
from videomar.services.settings import read_settings


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    clear()


@pytest.mark.parametrize("umask", [0o022, 0o000])
def test_password_is_for_its_owner_only_and_new_with_each_start(folder: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        made = prepare(read_settings({}), {})
    finally:
        os.umask(before)
    first = read_password()
    assert first is not None
    assert len(first) >= 32
    assert made == {MLFLOW_PASSWORD: first, PREFECT_SIGN_IN: f"{USER}:{first}"}
    assert stat.S_IMODE(PASSWORD.stat().st_mode) == 0o600
    prepare(read_settings({}), {})
    assert read_password() not in (first, None)
    clear()
    assert read_password() is None


def test_password_of_others_is_not_kept_where_they_can_read_it(folder: Path) -> None:
    """A file that somebody else has put there, open to all, is replaced and not filled."""
    PASSWORD.parent.mkdir()
    PASSWORD.write_text("known")
    PASSWORD.chmod(0o666)
    prepare(read_settings({}), {})
    assert read_password() != "known"
    assert stat.S_IMODE(PASSWORD.stat().st_mode) == 0o600


def test_passwords_of_the_user_are_kept_and_written_nowhere(folder: Path) -> None:
    given = {MLFLOW_PASSWORD: "words of the user", PREFECT_SIGN_IN: "ute:sesame"}
    assert prepare(read_settings(given), given) == {}
    assert not PASSWORD.exists()
    assert sign_in_line(in_full=True) is None
    made = prepare(read_settings({}), {PREFECT_SIGN_IN: "ute:sesame"})
    assert made == {MLFLOW_PASSWORD: read_password()}


def test_password_is_shown_on_a_terminal_only_and_its_file_elsewhere(folder: Path) -> None:
    prepare(read_settings({}), {})
    password = str(read_password())
    assert f"Prefect {USER}:{password}" in str(sign_in_line(in_full=True))
    line = str(sign_in_line(in_full=False))
    assert password not in line
    assert str(PASSWORD) in line


def test_every_start_of_mlflow_has_a_sign_in() -> None:
    secrets = dict.fromkeys((PREFECT_SIGN_IN, MLFLOW_PASSWORD, "MLFLOW_FLASK_SERVER_SECRET_KEY"), "a" * 12)
    for given, app in (({}, "videomar"), (secrets, "basic-auth")):
        command = services(read_settings(given))[0].command
        assert command[command.index("--app-name") + 1] == app


def authorization(word: str, kind: str = "Basic") -> dict[str, str]:
    return {"Authorization": f"{kind} {base64.b64encode(word.encode()).decode()}"}


@pytest.fixture(scope="module")
def guarded() -> Iterator[TestClient]:
    from videomar.services.mlflow_app import RequirePassword

    async def answer(_: object) -> PlainTextResponse:
        return PlainTextResponse("inside")

    async def talk(websocket) -> None:
        await websocket.accept()
        await websocket.close()

    inside = Starlette(
        routes=[WebSocketRoute("/talk", talk), Route("/{path:path}", answer, methods=["GET", "PUT"])]
    )
    with TestClient(RequirePassword(inside, "pässword")) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [
        {},
        authorization(f"{USER}:"),
        authorization(f"{USER}:pässwor"),
        authorization("other:pässword"),
        authorization("pässword"),
        authorization(f"{USER}:pässword", "Bearer"),
        {"Authorization": "Basic"},
        {"Authorization": "Basic \xe4"},
        {"Authorization": f"{USER}:pässword"},
    ],
)
@pytest.mark.parametrize(
    "path", ["/", "/api/2.0/mlflow/experiments/create", "/metrics", "/health/x", "//health"]
)
def test_nothing_but_the_health_check_answers_without_the_password(
    guarded: TestClient, headers: dict[str, str], path: str
) -> None:
    sent = {name: value.encode("latin-1") for name, value in headers.items()}
    for method in ("GET", "PUT"):
        refused = guarded.request(method, f"http://testserver{path}", headers=sent)
        assert refused.status_code == 401
        assert "inside" not in refused.text
        assert refused.headers["www-authenticate"].startswith("Basic ")
    assert guarded.get("/health").text == "inside"


def test_password_opens(guarded: TestClient) -> None:
    for kind in ("Basic", "basic"):
        assert guarded.put("/x", headers=authorization(f"{USER}:pässword", kind)).text == "inside"


def test_web_socket_needs_the_password_too(guarded: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), guarded.websocket_connect("/talk"):
        pass
    with guarded.websocket_connect("/talk", headers=authorization(f"{USER}:pässword")):
        pass


def test_server_without_a_password_does_not_start() -> None:
    code = "from videomar.services.mlflow_app import create_app; create_app()"
    environment = {name: value for name, value in os.environ.items() if name != MLFLOW_PASSWORD}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        f"{MLFLOW_PASSWORD}: got none, expected a password; start it by `make up`"
    )


@pytest.mark.slow
def test_strangers_on_this_machine_change_nothing(checkout: Checkout) -> None:
    """What another account tried: another entrypoint for a deployment, files in a folder of its choice."""
    api, models = (f"http://127.0.0.1:{port}/api" for port in reversed(checkout.ports))
    deployment = checkout.prefect("/deployments/name/refresh/refresh")
    csrf = checkout.ask(f"{api}/csrf-token?client=x", headers=checkout.signed())["token"]
    orders = [
        (f"{api}/deployments/name/refresh/refresh", None),
        (f"{api}/deployments/{deployment['id']}/create_flow_run", {"state": {"type": "SCHEDULED"}}),
        (f"{models}/2.0/mlflow/experiments/create", {"name": "x", "artifact_location": "file:///tmp/x"}),
        (f"{models}/2.0/mlflow/registered-models/create", {"name": "x"}),
        (f"{models}/2.0/mlflow-artifacts/artifacts", None),
    ]
    for url, body in orders:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            checkout.ask(url, body, {"Prefect-Csrf-Token": csrf, "Prefect-Csrf-Client": "x"})
    names = [found["name"] for found in checkout.mlflow("experiments/search?max_results=9")["experiments"]]
    assert "x" not in names


@pytest.mark.slow
def test_password_is_on_no_command_line_and_in_no_log(checkout: Checkout) -> None:
    word = checkout.password().encode()
    assert stat.S_IMODE((checkout.folder / PASSWORD).stat().st_mode) == 0o600
    holding = [
        path
        for path in (checkout.folder / ".local").rglob("*")
        if path.is_file() and word in path.read_bytes()
    ]
    assert holding == [checkout.folder / PASSWORD]
    for service in checkout.noted()["services"].values():
        for identity in [Identity(*process) for process in service["processes"]]:
            assert word not in Path(f"/proc/{identity.pid}/cmdline").read_bytes()


@pytest.mark.slow
def test_figures_for_prometheus_are_behind_the_password(checkout: Checkout) -> None:
    for url, figure in (
        (f"http://127.0.0.1:{checkout.ports[0]}/metrics", "mlflow_request_seconds_count"),
        (f"http://127.0.0.1:{checkout.ports[1]}/api/metrics", "process_resident_memory_bytes"),
    ):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            checkout.text(url, {})
        assert figure in checkout.text(url, checkout.signed())


@pytest.mark.slow
def test_start_page_of_mlflow_does_not_say_that_it_collects_usage_data(checkout: Checkout) -> None:
    page = checkout.text(f"http://127.0.0.1:{checkout.ports[0]}/", checkout.signed())
    assert page.index("telemetry.info.alert.dismissed") < page.index("</head>")
    assert '<div id="root"' in page


@pytest.mark.slow
def test_temporary_server_of_a_flow_needs_a_password(tmp_path: Path) -> None:
    """While the services are down, a flow in a terminal has one of its own."""
    code = (
        "import flows, json, urllib.request, urllib.error\n"
        "from prefect import flow\n"
        "from prefect.server.api.server import SubprocessASGIServer\n"
        "@flow\n"
        "def asking():\n"
        "    try:\n"
        "        urllib.request.urlopen(f'{SubprocessASGIServer().api_url}/admin/version', timeout=30)\n"
        "    except urllib.error.HTTPError as error:\n"
        "        return error.code\n"
        "print(json.dumps(asking()))\n"
    )
    made = Checkout(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=made.environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == 401

"""The real servers on all interfaces, reached by this machine's own address, with passwords and without."""

import socket
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.checkout import Checkout, basic, free_port
from videomar.processes import Identity

SECRETS = {
    "PREFECT_SERVER_API_AUTH_STRING": "ute:sesame-of-prefect",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "sesame-of-mlflow",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "sesame-of-flask",
    "RAY_AUTH_TOKEN": "sesame-of-ray-0123456789abcdef01",
}
JOB = """
from videomar.compute.cluster import ray_cluster
from videomar.errors import VideomarError
try:
    with ray_cluster(1):
        import ray
        print(ray.get(ray.remote(lambda: 6 * 7).remote()), ray.get_runtime_context().gcs_address)
except VideomarError as error:
    print(error)
"""
ADDRESSES = [
    address.address
    for addresses in psutil.net_if_addrs().values()
    for address in addresses
    if address.family == socket.AF_INET and not address.address.startswith("127.")
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ADDRESSES, reason="this machine has no address but loopback's"),
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    made = Checkout(tmp_path_factory.mktemp("open"))
    made.ports.append(free_port())
    try:
        started = made.services(
            "up",
            VIDEOMAR_HOST="0.0.0.0",
            VIDEOMAR_RAY="1",
            VIDEOMAR_RAY_PORT=str(made.ports[2]),
            **SECRETS,
        )
        assert started.returncode == 0, started.stderr
        yield made
    finally:
        made.services("down")


def python(checkout: Checkout, code: str, **more: str) -> str:
    """What a program of this checkout prints."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=checkout.folder, env=checkout.environment(**more), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", ["127.0.0.1", *ADDRESSES[:1], socket.gethostname()])
def test_mlflow_answers_only_to_the_password(checkout: Checkout, name: str) -> None:
    experiments = f"http://{name}:{checkout.ports[0]}/api/2.0/mlflow/experiments/search?max_results=1"
    for wrong in ({}, basic("admin:password1234"), basic("admin:wrong")):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            checkout.ask(experiments, headers=wrong)
    assert checkout.ask(experiments, headers=basic("admin:sesame-of-mlflow"))["experiments"]


def test_pages_of_mlflow_may_search_under_the_address_of_the_machine_and_others_may_not(
    checkout: Checkout,
) -> None:
    place = f"http://{ADDRESSES[0]}:{checkout.ports[0]}"
    known, body = basic("admin:sesame-of-mlflow"), {"max_results": 1}
    search = f"{place}/ajax-api/2.0/mlflow/experiments/search"
    assert checkout.ask(search, body, {**known, "Origin": place})["experiments"]
    with pytest.raises(urllib.error.HTTPError, match="403"):
        checkout.ask(search, body, {**known, "Origin": "http://evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        checkout.ask(search, body, {**known, "Host": "evil.example"})


def test_client_of_mlflow_signs_in_by_the_environment(checkout: Checkout) -> None:
    code = "from mlflow import MlflowClient; print(MlflowClient().create_experiment('elsewhere'))"
    place = {"MLFLOW_TRACKING_URI": f"http://{ADDRESSES[0]}:{checkout.ports[0]}"}
    user = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "sesame-of-mlflow"}
    assert int(python(checkout, code, **place, **user)) > 0


def test_prefect_answers_only_to_the_password(checkout: Checkout) -> None:
    api = f"http://{ADDRESSES[0]}:{checkout.ports[1]}/api"
    for wrong in ({}, basic("ute:wrong")):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            checkout.ask(f"{api}/deployments/name/refresh/refresh", headers=wrong)
    known = basic(SECRETS["PREFECT_SERVER_API_AUTH_STRING"])
    assert checkout.ask(f"{api}/deployments/name/refresh/refresh", headers=known)["id"]


def test_flow_with_the_password_goes_through_and_is_seen(checkout: Checkout) -> None:
    api = f"http://{ADDRESSES[0]}:{checkout.ports[1]}/api"
    known = basic(SECRETS["PREFECT_SERVER_API_AUTH_STRING"])
    token = checkout.ask(f"{api}/csrf-token?client=test", headers=known)["token"]
    csrf = {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": "test"}
    count = lambda: checkout.ask(f"{api}/flow_runs/count", {}, {**known, **csrf})  # noqa: E731
    before = count()
    done = checkout.run("flows.refresh", **SECRETS)
    assert done.returncode == 0, done.stderr
    assert count() == before + 1


def test_ray_works_for_who_has_the_token_and_for_nobody_else(checkout: Checkout) -> None:
    place = f"{ADDRESSES[0]}:{checkout.ports[2]}"
    assert python(checkout, JOB, RAY_AUTH_TOKEN=SECRETS["RAY_AUTH_TOKEN"]) == f"42 {place}"
    refused = python(checkout, JOB, RAY_AUTH_TOKEN="0" * 32)
    assert refused.startswith(f"RAY_ADDRESS: got {place}, expected the address of a running cluster; ")
    assert refused.endswith("if it asks for a token, set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH")


def test_secrets_stand_in_no_file_that_others_may_read_and_on_no_command_line(checkout: Checkout) -> None:
    words = [word.encode() for word in SECRETS.values()] + [b"sesame-of-prefect"]
    telling = [
        path
        for path in (checkout.folder / ".local").rglob("*")
        if path.is_file() and any(word in path.read_bytes() for word in words)
    ]
    assert telling == []
    noted = checkout.noted()
    ours = [Identity(*process) for service in noted["services"].values() for process in service["processes"]]
    assert len(ours) > len(noted["services"])
    for identity in [Identity(*noted["supervisor"]), *ours]:
        line = Path(f"/proc/{identity.pid}/cmdline").read_bytes()
        assert line
        assert not any(word in line for word in words)


def test_accounts_of_mlflow_are_for_their_owner_only(checkout: Checkout) -> None:
    accounts = checkout.folder / ".local/mlflow-auth.db"
    assert accounts.stat().st_mode & 0o077 == 0
    assert not (checkout.folder / "basic_auth.db").exists()


def test_down_ends_all_and_leaves_nothing_of_ray(checkout: Checkout) -> None:
    noted = checkout.noted()
    ended = checkout.services("down")
    assert ended.returncode == 0, ended.stderr
    for service in noted["services"].values():
        assert not [process for process in service["processes"] if Identity(*process).process()]
    for port in checkout.ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("0.0.0.0", port))

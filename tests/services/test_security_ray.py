"""The Ray head that `make up RAY=1` keeps: on loopback, for who may read its token, ended with the rest."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.checkout import REPOSITORY, Checkout, free_port
from tests.support.service_monitor import poll_until
from videomar.environment import RAY_TOKEN, SERVICES
from videomar.errors import VideomarError
from videomar.processes import tree_of
from videomar.services.definitions import ray_address, services
from videomar.services.preparation import clear, prepare, ray_folder
from videomar.services.settings import Settings, read_settings
from videomar.services.supervisor import ServiceMonitor

_LIMIT_S = 120.0
JOB = """
from videomar.compute.cluster import ray_cluster
from videomar.errors import VideomarError
try:
    with ray_cluster(1):
        import os, psutil, ray
        print(ray.get(ray.remote(lambda: 6 * 7).remote()), ray.get_runtime_context().gcs_address)
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        open_ports = [place for one in family for place in one.net_connections() if place.status == "LISTEN"]
        print(*sorted({place.laddr.ip.removeprefix("::ffff:") for place in open_ports}))
except VideomarError as error:
    print(error)
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.chdir(tmp_path)
    yield read_settings({"VIDEOMAR_RAY": "1", "VIDEOMAR_RAY_PORT": str(free_port())})
    clear()


def job(folder: Path, code: str = JOB, **more: str) -> list[str]:
    """What a stage on Ray prints, in a checkout whose services are up."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=kept | {"PYTHONPATH": str(REPOSITORY), **more},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_token_is_for_its_owner_only_and_new_with_each_start(settings: Settings) -> None:
    prepare(settings, {})
    first = RAY_TOKEN.read_text()
    assert RAY_TOKEN.stat().st_mode & 0o777 == 0o600
    assert ray_folder().stat().st_mode & 0o777 == 0o700
    prepare(settings, {})
    assert RAY_TOKEN.read_text() != first
    assert len(first) == 64
    assert first not in str(services(settings))
    clear()
    assert not RAY_TOKEN.exists()
    assert not ray_folder().exists()


def test_folder_that_others_may_enter_is_refused(settings: Settings) -> None:
    ray_folder().mkdir(mode=0o755)
    with pytest.raises(
        VideomarError, match="got a folder that others may use, expected one of our own; remove it"
    ):
        prepare(settings, {})


def test_token_of_the_user_is_not_written_anywhere(settings: Settings) -> None:
    given = read_settings({"VIDEOMAR_RAY": "1", "RAY_AUTH_TOKEN": "0" * 32})
    prepare(given, {"RAY_AUTH_TOKEN": "0" * 32})
    assert not RAY_TOKEN.exists()
    (ray,) = [service for service in services(given) if service.name == "ray"]
    assert ray.environment["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_TOKEN_PATH" not in ray.environment


@pytest.fixture
def head(settings: Settings, tmp_path: Path) -> Iterator[ServiceMonitor]:
    """A head that is up, in a checkout that knows of it."""
    prepare(settings, {})
    (ray,) = [service for service in services(settings) if service.name == "ray"]
    monitor = ServiceMonitor(ray, tmp_path)
    SERVICES.write_text(f'{{"ray_address": "{ray_address(settings)}"}}')
    try:
        poll_until(monitor, lambda: monitor.ready, _LIMIT_S)
        yield monitor
    finally:
        kept = monitor.processes
        monitor.end()
        assert [identity for identity in kept if identity.process() is not None] == []


@pytest.mark.slow
def test_head_on_loopback_does_the_work_of_stages_for_those_who_have_its_token(
    head: ServiceMonitor, settings: Settings, tmp_path: Path
) -> None:
    assert job(tmp_path)[0] == f"42 {ray_address(settings)}"
    listening = {
        place.laddr.ip.removeprefix("::ffff:")
        for identity in tree_of(head.processes[0].pid)
        for place in psutil.Process(identity.pid).net_connections()
        if place.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    assert job(tmp_path, RAY_AUTH_TOKEN="0" * 32)[0].startswith(f"RAY_ADDRESS: got {ray_address(settings)}")
    assert RAY_TOKEN.read_text() not in (tmp_path / "ray.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["ray.scripts.scripts", "gcs_server", "raylet/raylet"])
def test_head_that_was_killed_is_replaced_with_all_below_it(
    head: ServiceMonitor, settings: Settings, tmp_path: Path, victim: str
) -> None:
    job(tmp_path)  # all of it is up
    before = tree_of(head.processes[0].pid)
    commands = {process.pid: process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])}
    (killed,) = [one.pid for one in before if victim in " ".join(commands.get(one.pid, [])[:3])]
    os.kill(killed, signal.SIGKILL)
    poll_until(head, lambda: head.deaths == 1, _LIMIT_S)
    assert [identity for identity in before if identity.process() is not None] == []
    poll_until(head, lambda: head.ready, _LIMIT_S)
    assert job(tmp_path)[0] == f"42 {ray_address(settings)}"


@pytest.mark.slow
def test_head_comes_and_goes_with_the_other_services(tmp_path: Path) -> None:
    checkout, port = Checkout(tmp_path), free_port()
    try:
        started = checkout.services("up", VIDEOMAR_RAY="1", VIDEOMAR_RAY_PORT=str(port))
        assert started.returncode == 0, started.stderr
        assert f"ray: 127.0.0.1:{port}\n" in started.stdout
        assert job(tmp_path)[0] == f"42 127.0.0.1:{port}"
        processes = checkout.processes("ray")
    finally:
        ended = checkout.services("down")
    assert ended.returncode == 0, ended.stderr
    assert [identity for identity in processes if identity.process() is not None] == []
    assert job(tmp_path)[0] != f"42 127.0.0.1:{port}"


STRANGER = """
from videomar.compute.cluster import ray_cluster
with ray_cluster(1):
    import os, pathlib, psutil, ray, subprocess, sys
    token, address = os.environ["RAY_AUTH_TOKEN"], ray.get_runtime_context().gcs_address
    code = f"import ray; ray.init(address='{address}', logging_level='ERROR'); print('in', flush=True)"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    for word in (None, "0" * 64, token):
        words = {} if word is None else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": word}
        done = subprocess.run([sys.executable, "-c", code], env=kept | words, capture_output=True, text=True)
        print(done.stdout.strip() or "refused")
    family = psutil.Process().children(recursive=True)
    print(any(token in word for one in family for word in one.cmdline()), len(family) > 2)
print("RAY_AUTH_TOKEN" in os.environ)
"""


@pytest.mark.slow
def test_cluster_that_a_stage_starts_for_itself_lets_nobody_else_in(tmp_path: Path) -> None:
    """Another account has Ray's files as far as they are open, but not this process's token."""
    assert job(tmp_path, STRANGER, HOME=str(tmp_path)) == ["refused", "refused", "in", "False True", "False"]
    assert not (tmp_path / ".ray").exists()  # where Ray would leave a token that all accounts can read


@pytest.mark.slow
def test_cluster_that_a_stage_starts_for_itself_is_on_loopback(tmp_path: Path) -> None:
    place, listening = job(tmp_path)
    assert place.startswith("42 127.0.0.1:")
    assert listening == "127.0.0.1"

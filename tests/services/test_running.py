"""The real services in a checkout of their own. The order of these tests is that of a day with them."""

import os
import signal
import socket
import time
import urllib.error

import psutil
import pytest

from flows.retrain import what_changed
from tests.services.conftest import QUIET_S
from tests.support.checkout import Checkout, wait_for

pytestmark = pytest.mark.slow


def test_second_up_starts_nothing(checkout: Checkout) -> None:
    before = checkout.noted()["supervisor"]
    again = checkout.services("up")
    assert again.returncode == 0
    assert "up already" in again.stdout
    assert checkout.noted()["supervisor"] == before


def test_status_shows_every_service_and_another_port_is_refused(checkout: Checkout) -> None:
    shown = checkout.services("status")
    assert shown.returncode == 0, shown.stderr
    for name in ("mlflow", "prefect", "flows"):
        (line,) = (line for line in shown.stdout.splitlines() if line.startswith(f"{name}: "))
        assert f"; ready, process {checkout.pid_of(name)} for 0." in line
        assert line.endswith(f"; log in .local/logs/{name}.log")
    moved = checkout.services("up", VIDEOMAR_PREFECT_PORT="4")
    assert moved.returncode == 1
    assert moved.stderr.startswith(
        f"services: VIDEOMAR_PREFECT_PORT: got 4, expected {checkout.ports[1]}, wh"
    )


def test_databases_lie_in_the_checkout(checkout: Checkout) -> None:
    assert (checkout.folder / ".local/prefect/prefect.db").is_file()
    assert (checkout.folder / ".local/mlflow.db").is_file()


def test_every_port_is_on_loopback(checkout: Checkout) -> None:
    listening = {
        connection.laddr
        for service in checkout.noted()["services"]
        for identity in checkout.processes(service)
        for connection in psutil.Process(identity.pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert {address.port for address in listening} >= set(checkout.ports)
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_pages_of_others_get_no_answer(checkout: Checkout) -> None:
    api = f"http://127.0.0.1:{checkout.ports[1]}/api"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        checkout.ask(f"{api}/deployments/filter", {}, {**checkout.signed(), "Origin": "http://evil.example"})
    models = f"http://127.0.0.1:{checkout.ports[0]}/api/2.0/mlflow/registered-models/search"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        checkout.ask(models, headers={**checkout.signed(), "Host": "evil.example"})


def test_nightly_run_is_scheduled(checkout: Checkout) -> None:
    deployment = checkout.prefect("/deployments/name/retrain/nightly")["id"]
    given = {
        "deployments": {"id": {"any_": [deployment]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    assert wait_for(lambda: checkout.prefect("/flow_runs/filter", given), "a scheduled run")


def test_refresh_shows_what_was_done(checkout: Checkout) -> None:
    run = checkout.start("refresh/refresh")
    assert checkout.end_state(run)["name"] == "Completed"
    given = {"artifacts": {"flow_run_id": {"any_": [run]}}}
    (table,) = checkout.prefect("/artifacts/filter", given)
    assert table["key"] == "stages"
    assert '"stage": "second", "result": "new results"' in table["data"]


def test_retrain_skips_with_a_reason_only_once_the_results_are_released(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout.folder)
    assert what_changed.fn() == "the last results are not released"
    checkout.pretend_release()
    skipped = checkout.end_state(checkout.start("retrain/nightly"))
    assert (skipped["name"], skipped["type"]) == ("Skipped", "COMPLETED")
    assert "nothing changed" in skipped["message"]
    checkout.change_source()
    assert what_changed.fn() == "changed: first"


def test_flow_from_the_terminal_is_seen_in_the_pages(checkout: Checkout) -> None:
    before = checkout.prefect("/flow_runs/count", {})
    done = checkout.run("flows.refresh")
    assert done.returncode == 0, done.stderr
    assert checkout.prefect("/flow_runs/count", {}) == before + 1


def test_second_run_waits_and_cancelling_the_first_ends_its_children(checkout: Checkout) -> None:
    checkout.pause()
    first = checkout.start("refresh/refresh")
    child = checkout.pausing_child()
    second = checkout.start("refresh/refresh")
    wait_for(lambda: "refresh waits for its turn: refresh is running" in checkout.log("flows"), "the wait")
    assert psutil.pid_exists(child)
    checkout.prefect(f"/flow_runs/{first}/set_state", {"state": {"type": "CANCELLING"}})
    assert checkout.end_state(first)["type"] == "CANCELLED"
    wait_for(lambda: not psutil.pid_exists(child), "end of the stage")
    checkout.go_on()
    assert checkout.end_state(second)["type"] == "COMPLETED"


def test_new_files_start_one_run_at_a_time_also_when_the_service_dies(checkout: Checkout) -> None:
    deployment = checkout.prefect("/deployments/name/retrain/nightly")["id"]
    tagged = {"deployments": {"id": {"any_": [deployment]}}, "flow_runs": {"tags": {"all_": ["new files"]}}}

    def runs() -> list[str]:
        return [run["id"] for run in checkout.prefect("/flow_runs/filter", tagged)]

    assert runs() == []
    checkout.pause()
    other = checkout.start("refresh/refresh")
    checkout.pausing_child()
    (checkout.folder / "clips/a.mp4").touch()
    (first,) = wait_for(runs, "a run for the new file")
    wait_for(lambda: checkout.log("flows").count("retrain waits for its turn"), "the wait")
    (checkout.folder / "clips/b.mp4").touch()
    os.kill(checkout.pid_of("flows"), signal.SIGKILL)
    wait_for(lambda: checkout.prefect(f"/flow_runs/{first}")["run_count"] == 2, "the same run again")
    time.sleep(5 * QUIET_S)
    assert runs() == [first]
    checkout.go_on()
    checkout.end_state(other)
    checkout.end_state(first)
    (second,) = wait_for(lambda: set(runs()) - {first}, "a run for the second file")
    checkout.end_state(second)
    time.sleep(5 * QUIET_S)
    assert len(runs()) == 2


@pytest.mark.parametrize(
    ("deployment", "parameters", "word"),
    [
        ("sweep/sweep", {"num_samples": 0}, "num_samples"),
        ("sweep/sweep", {"runs": "fast"}, "runs"),
        ("retrain/nightly", {"hours_per_stage": -1}, "hours_per_stage"),
    ],
)
def test_wrong_parameter_is_refused_by_the_pages_with_its_name(
    checkout: Checkout, deployment: str, parameters: dict[str, object], word: str
) -> None:
    with pytest.raises(urllib.error.HTTPError, match="4\\d\\d") as refused:
        checkout.start(deployment, **parameters)
    assert word in refused.value.read().decode()


def test_sweep_of_nothing_says_what_is_missing(checkout: Checkout) -> None:
    ended = checkout.end_state(checkout.start("sweep/sweep"))
    assert ended["type"] == "FAILED"
    assert "got neither runs nor search" in ended["message"]


def test_run_that_died_with_its_service_is_taken_up_again(checkout: Checkout) -> None:
    checkout.pause()
    run = checkout.start("refresh/refresh")
    child = checkout.pausing_child()
    wait_for(lambda: child in [identity.pid for identity in checkout.processes("flows")], "the record")
    os.kill(checkout.pid_of("flows"), signal.SIGKILL)
    wait_for(lambda: not psutil.pid_exists(child), "end of the stage")
    checkout.go_on()
    assert checkout.end_state(run)["type"] == "COMPLETED"
    assert checkout.prefect(f"/flow_runs/{run}")["run_count"] == 2
    source = (checkout.folder / "source.txt").read_text()
    assert (checkout.folder / "second.txt").read_text() == source


def test_killed_run_is_called_crashed_and_the_next_one_goes_on(checkout: Checkout) -> None:
    checkout.pause()
    run = checkout.start("refresh/refresh")
    child = checkout.pausing_child()
    above = [process.pid for process in psutil.Process(child).parents()]
    own = above[above.index(checkout.pid_of("flows")) - 1]
    os.kill(own, signal.SIGKILL)
    wait_for(lambda: not psutil.pid_exists(child), "end of the stage")
    checkout.go_on()
    assert checkout.end_state(run)["type"] == "CRASHED"
    assert checkout.end_state(checkout.start("refresh/refresh"))["type"] == "COMPLETED"


def test_servers_that_are_killed_come_back_while_a_flow_goes_on(checkout: Checkout) -> None:
    checkout.pause()
    run = checkout.start("refresh/refresh")
    child = checkout.pausing_child()
    before = {name: checkout.processes(name)[0] for name in ("mlflow", "prefect")}
    for process in before.values():
        os.kill(process.pid, signal.SIGKILL)
    wait_for(
        lambda: all(process not in checkout.processes(name) for name, process in before.items()), "the loss"
    )
    assert psutil.pid_exists(child)
    checkout.go_on()
    wait_for(lambda: all(checkout.noted()["services"][name]["ready"] for name in before), "both servers")
    assert checkout.end_state(run)["type"] == "COMPLETED"
    assert checkout.mlflow("registered-models/get?name=videomar")["registered_model"]["name"] == "videomar"


def test_what_a_killed_supervisor_left_is_ended_by_the_next_up(checkout: Checkout) -> None:
    supervisor, servers = checkout.noted()["supervisor"], checkout.processes("mlflow")
    os.kill(supervisor[0], signal.SIGKILL)
    again = checkout.services("up")
    assert again.returncode == 0, again.stderr
    assert checkout.noted()["supervisor"] != supervisor
    assert [identity for identity in servers if identity.process() is not None] == []


def test_down_leaves_no_process_and_no_port(checkout: Checkout) -> None:
    started = [identity for name in checkout.noted()["services"] for identity in checkout.processes(name)]
    assert checkout.services("down").returncode == 0
    assert [identity for identity in started if identity.process() is not None] == []
    assert not (checkout.folder / ".local/services.json").exists()
    for port in checkout.ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    refused = checkout.services("up", VIDEOMAR_HOST="0.0.0.0")
    assert refused.returncode == 1
    assert refused.stderr.startswith("services: VIDEOMAR_HOST: got 0.0.0.0, which other machines reach")
    again = checkout.services("down")
    assert (again.returncode, again.stdout) == (0, "no services are up\n")
    shown = checkout.services("status", VIDEOMAR_MLFLOW_PORT="", VIDEOMAR_PREFECT_PORT="")
    assert shown.returncode == 0, shown.stderr
    for name, port in zip(("mlflow", "prefect"), checkout.ports, strict=True):
        assert f"{name}: http://127.0.0.1:{port}\n" in shown.stdout  # kept for the next start

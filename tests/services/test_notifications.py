"""Real servers of a checkout send messages to a receiver on this machine. The tests run in this order."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.checkout import Checkout, wait_for
from tests.support.pipeline_outputs import write_outputs
from videomar.registry.champion_history import CHAMPION, MODEL

pytestmark = pytest.mark.slow
SECRET = "word4nobody"
WANTED = "notifications:\n  events: [failed, promoted, refused]\n  to: TEAM_ADDRESS\n"
SHIPPED = "".join(f"# {line}\n" for line in WANTED.splitlines())


class Receiver:
    """A webhook that remembers what it was sent."""

    def __init__(self) -> None:
        messages = self.messages = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                messages.append({"path": self.path, **sent})
                self.send_response(200)
                self.end_headers()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"json://127.0.0.1:{self.server.server_port}/{SECRET}"

    def next(self, about: str) -> dict[str, str]:
        """The next message, which has this in its title."""
        message = wait_for(lambda: self.messages and self.messages.pop(0), f"a message on {about}")
        assert about in message["title"], message
        return message


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Checkout]:
    """A checkout whose prefect.yaml has the three lines that it is shipped with, without their #."""
    made = Checkout(tmp_path_factory.mktemp("the {{ team's }} checkout"))
    served = made.folder / "prefect.yaml"
    text = served.read_text()
    assert SHIPPED in text
    served.write_text(text.replace(SHIPPED, WANTED))
    try:
        started = made.services("up", TEAM_ADDRESS=receiver.address)
        assert started.returncode == 0, started.stderr
        yield made
    finally:
        made.services("down")


def ours(checkout: Checkout) -> dict[str, Any]:
    """Our automations on Prefect's server."""
    found = checkout.prefect("/automations/filter", {})
    return {each["name"]: each for each in found if each["name"].startswith("videomar: ")}


def blocks(checkout: Checkout) -> list[str]:
    return [
        each["name"] for each in checkout.prefect("/block_documents/filter", {}) if not each["is_anonymous"]
    ]


def test_missing_address_is_refused_before_anything_changes(checkout: Checkout) -> None:
    refused = checkout.services("up")
    assert refused.returncode == 1
    assert refused.stderr.startswith("services: TEAM_ADDRESS: got nothing, expected the address")
    assert len(refused.stderr.splitlines()) == 1


def test_failed_run_is_sent_with_its_reason_and_its_page(checkout: Checkout, receiver: Receiver) -> None:
    assert set(ours(checkout)) == {"videomar: failed", "videomar: promoted", "videomar: refused"}
    (checkout.folder / "source.txt").unlink()
    run = checkout.start("refresh/refresh")
    state = checkout.end_state(run)
    message = receiver.next("flow refresh failed")
    assert message["path"] == f"/{SECRET}"
    assert message["title"].startswith(f"{checkout.folder.name} on {socket.gethostname()}: ")
    assert "stage first" in message["message"]
    assert message["message"].startswith(state["message"])
    assert f"http://127.0.0.1:{checkout.ports[1]}/runs/flow-run/{run}" in message["message"]


def test_run_that_ends_well_is_not_sent(checkout: Checkout, receiver: Receiver) -> None:
    (checkout.folder / "source.txt").write_text("1")
    assert checkout.end_state(checkout.start("refresh/refresh"))["type"] == "COMPLETED"
    assert receiver.messages == []


def test_what_the_gate_decides_is_sent_once(checkout: Checkout, receiver: Receiver) -> None:
    write_outputs(checkout.folder)
    released = checkout.run("flows.release")
    assert released.returncode == 0, released.stderr
    promoted = receiver.next("videomar version 1 (checkpoint step")
    assert promoted["title"].endswith("promoted")
    assert promoted["message"].startswith("gate: promoted.")
    assert "/runs/flow-run/" in promoted["message"]
    assert checkout.run("flows.release").returncode == 0
    (checkout.folder / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    again = checkout.run("flows.release")
    assert again.returncode == 0, again.stderr
    refused = receiver.next("videomar version 2 (checkpoint step")
    assert refused["title"].endswith("refused")
    assert "equal to the champion" in refused["message"]
    assert receiver.messages == []


def test_champion_made_one_on_mlflows_page_is_judged_undone_and_sent(
    checkout: Checkout, receiver: Receiver
) -> None:
    checkout.mlflow("registered-models/alias", {"name": MODEL, "alias": CHAMPION, "version": "2"})
    refused = receiver.next("videomar version 2 (checkpoint step")
    assert refused["title"].endswith("refused")
    assert "made champion without videomar: refused by the gate: " in refused["message"]
    model = checkout.mlflow(f"registered-models/get?name={MODEL}")["registered_model"]
    aliases = {entry["alias"]: entry["version"] for entry in model["aliases"]}
    assert (aliases[CHAMPION], aliases["challenger"]) == ("1", "2")
    assert receiver.messages == []


def test_address_is_in_no_file_and_on_no_command_line(checkout: Checkout) -> None:
    files = [path for path in checkout.folder.rglob("*") if path.is_file()]
    assert any(path.name == "prefect.db" for path in files)
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    assert (checkout.folder / ".local/prefect").stat().st_mode & 0o077 == 0
    for service in checkout.noted()["services"]:
        for identity in checkout.processes(service):
            assert SECRET not in " ".join(psutil.Process(identity.pid).cmdline())


def test_automation_that_a_user_switched_off_stays_so_and_what_is_removed_goes(
    checkout: Checkout, receiver: Receiver
) -> None:
    """With `make down && make up`, which applies a change of prefect.yaml."""
    off = ours(checkout)["videomar: failed"]["id"]
    code = "import flows; from prefect.automations import Automation; "
    code += "Automation.read(name='videomar: failed').disable()"
    subprocess.run([sys.executable, "-c", code], cwd=checkout.folder, env=checkout.environment(), check=True)
    again(checkout, "events: [failed, promoted, refused]", "events: [failed, refused]", receiver.address)
    found = ours(checkout)
    assert {name: each["enabled"] for name, each in found.items()} == {
        "videomar: failed": False,
        "videomar: refused": True,
    }
    assert found["videomar: failed"]["id"] == off
    assert blocks(checkout) == ["videomar-notifications"]
    again(checkout, WANTED.replace("promoted, ", ""), "", receiver.address)
    assert ours(checkout) == {}
    assert blocks(checkout) == []


def again(checkout: Checkout, old: str, new: str, address: str) -> None:
    """`make down && make up` after a change of prefect.yaml."""
    served = checkout.folder / "prefect.yaml"
    assert old in served.read_text()
    served.write_text(served.read_text().replace(old, new))
    assert checkout.services("down").returncode == 0
    started = checkout.services("up", TEAM_ADDRESS=address)
    assert started.returncode == 0, started.stderr


def test_address_that_nobody_understands_is_refused_without_repeating_it(checkout: Checkout) -> None:
    served = checkout.folder / "prefect.yaml"
    served.write_text(served.read_text().replace("deployments:", f"{WANTED}deployments:"))
    assert checkout.services("down").returncode == 0
    refused = checkout.services("up", TEAM_ADDRESS=f"https://{SECRET}.example/hook")
    assert refused.returncode == 1
    assert "got an address that Apprise does not know, expected one like jsons://HOST/PATH" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert SECRET not in refused.stderr + Path(checkout.folder / ".local/logs/flows.log").read_text()

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import free_port
from videomar.errors import VideomarError
from videomar.services.definitions import prefect_api, services, tracking_uri
from videomar.services.notifications import read_notifications
from videomar.services.ports import choose_ports, read_ports, require_same_ports
from videomar.services.settings import read_settings

SECRETS = {
    "PREFECT_SERVER_API_AUTH_STRING": "user:word",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "a long password",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "key",
}


def test_defaults_are_loopback_and_the_usual_ports() -> None:
    settings = read_settings({})
    assert (settings.host, settings.mlflow_port, settings.prefect_port) == ("127.0.0.1", 5000, 4200)
    assert prefect_api(settings) == "http://127.0.0.1:4200/api"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org", "127.0.0.1.example.org"])
@pytest.mark.parametrize("left_out", SECRETS)
def test_hosts_that_others_reach_are_refused_without_every_password(host: str, left_out: str) -> None:
    known = {name: value for name, value in SECRETS.items() if name != left_out}
    with pytest.raises(VideomarError, match=f"VIDEOMAR_HOST: got {host}.*set {left_out} too"):
        read_settings({"VIDEOMAR_HOST": host, **known})


def test_ray_elsewhere_needs_a_token_too() -> None:
    given = {"VIDEOMAR_HOST": "0.0.0.0", "VIDEOMAR_RAY": "1", **SECRETS}
    with pytest.raises(VideomarError, match="set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH too"):
        read_settings(given)
    assert not read_settings({**given, "RAY_AUTH_TOKEN": "word"}).own_token
    assert read_settings({**given, "VIDEOMAR_RAY": "0"}).ray_port is None


def test_everything_that_is_missing_is_named_at_once() -> None:
    with pytest.raises(VideomarError) as error:
        read_settings({"VIDEOMAR_HOST": "0.0.0.0", "VIDEOMAR_RAY": "1"})
    assert all(name in str(error.value) for name in (*SECRETS, "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"))
    assert "\n" not in str(error.value)


def test_short_password_is_refused_before_anything_starts_and_not_repeated() -> None:
    with pytest.raises(VideomarError) as error:
        read_settings({**SECRETS, "MLFLOW_AUTH_ADMIN_PASSWORD": "sesame"})
    assert str(error.value) == "MLFLOW_AUTH_ADMIN_PASSWORD: got 6 characters, expected at least 12"


def test_ray_is_started_only_if_asked_for_and_anything_else_is_refused() -> None:
    assert [service.name for service in services(read_settings({}))] == ["mlflow", "prefect", "flows"]
    asked = read_settings({"VIDEOMAR_RAY": "1"})
    assert (asked.ray_host, asked.ray_port, asked.own_token) == ("127.0.0.1", 6379, True)
    assert [service.name for service in services(asked)][-1] == "ray"
    with pytest.raises(VideomarError, match="VIDEOMAR_RAY: got yes, expected 1 for a Ray head, or 0"):
        read_settings({"VIDEOMAR_RAY": "yes"})


def test_names_of_the_machine_are_known_to_mlflow_where_others_reach_it_and_the_users_word_counts() -> None:
    given = {"VIDEOMAR_HOST": "0.0.0.0", **SECRETS}
    (mlflow, prefect, _) = services(read_settings(given))
    assert f"{socket.gethostname()}:5000" in mlflow.environment["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert prefect.environment["PREFECT_SERVER_UI_API_URL"] == "/api"
    (mlflow, *_) = services(read_settings({**given, "MLFLOW_SERVER_ALLOWED_HOSTS": "mine:80"}))
    assert "MLFLOW_SERVER_ALLOWED_HOSTS" not in mlflow.environment
    (mlflow, *_) = services(read_settings({}))
    assert "MLFLOW_SERVER_ALLOWED_HOSTS" not in mlflow.environment


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_no_password(host: str) -> None:
    assert read_settings({"VIDEOMAR_HOST": host}).host == host


@pytest.mark.parametrize("port", ["0", "65536", "five", "-1"])
def test_impossible_port_is_refused(port: str) -> None:
    with pytest.raises(VideomarError, match=f"VIDEOMAR_MLFLOW_PORT: got {port}, expected a port"):
        read_settings({"VIDEOMAR_MLFLOW_PORT": port})


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program uses."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield int(other.getsockname()[1])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of its own, as the working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_taken_port_that_the_user_named_is_refused_with_a_way_out(taken: int, folder: Path) -> None:
    given = {"VIDEOMAR_PREFECT_PORT": str(taken)}
    settings = read_settings(given, {"mlflow": free_port()})
    with pytest.raises(VideomarError, match=f"VIDEOMAR_PREFECT_PORT: got port {taken} .*like `VIDEOMAR_PRE"):
        choose_ports(settings, given)
    assert read_ports() == {}


def test_taken_port_is_replaced_and_the_checkout_keeps_the_new_one(taken: int, folder: Path) -> None:
    other = free_port()
    chosen, lines = choose_ports(read_settings({}, {"mlflow": taken, "prefect": other}), {})
    assert chosen.mlflow_port > taken
    assert (chosen.prefect_port, chosen.ray_port) == (other, None)
    (line,) = lines
    assert line == f"mlflow: port {taken} is in use, so this checkout uses {chosen.mlflow_port} from now on"
    assert read_settings({}, read_ports()) == chosen


def test_port_that_the_user_named_once_is_that_of_the_next_start(folder: Path) -> None:
    """`make down && make up`, which doctor advises, must not move pages to another address."""
    named, other, ray = free_port(), free_port(), free_port()
    given = {"VIDEOMAR_MLFLOW_PORT": str(named), "VIDEOMAR_PREFECT_PORT": str(other)}
    with_ray = {**given, "VIDEOMAR_RAY": "1", "VIDEOMAR_RAY_PORT": str(ray)}
    choose_ports(read_settings(with_ray, read_ports()), with_ray)
    choose_ports(read_settings({}, read_ports()), {})
    again = read_settings({"VIDEOMAR_RAY": "1"}, read_ports())
    assert (again.mlflow_port, again.prefect_port, again.ray_port) == (named, other, ray)


def test_no_two_services_get_one_port_and_the_named_one_stays(folder: Path) -> None:
    port = free_port()
    given = {"VIDEOMAR_PREFECT_PORT": str(port)}
    chosen, _ = choose_ports(read_settings(given, {"mlflow": port}), given)
    assert chosen.prefect_port == port
    assert chosen.mlflow_port > port


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"mlflow": "5000", "prefect": 0, "other": 5000, "ray": true}']
)
def test_damaged_record_of_ports_counts_as_none(folder: Path, text: str) -> None:
    (folder / ".local").mkdir()
    (folder / ".local/ports.json").write_text(text)
    assert read_ports() == {}


def test_host_of_another_machine_is_not_called_a_taken_port(folder: Path) -> None:
    settings = read_settings({"VIDEOMAR_HOST": "192.0.2.1", **SECRETS})
    with pytest.raises(VideomarError, match=r"VIDEOMAR_HOST: got 192\.0\.2\.1 .*expected an address of this"):
        choose_ports(settings, {})


def test_another_port_for_a_service_that_runs_is_refused() -> None:
    running = {"mlflow": "http://[::1]:5000", "prefect": "http://127.0.0.1:4200", "flows": None}
    same = {"VIDEOMAR_MLFLOW_PORT": "5000", "VIDEOMAR_RAY_PORT": "7000"}
    require_same_ports(running, same)
    with pytest.raises(
        VideomarError, match="VIDEOMAR_PREFECT_PORT: got 4300, expected 4200, where prefect run"
    ):
        require_same_ports(running, {**same, "VIDEOMAR_PREFECT_PORT": "4300"})


def test_three_lines_say_who_is_notified_of_what(tmp_path: Path) -> None:
    file = tmp_path / "prefect.yaml"
    lines = "notifications:\n  events: [failed, refused]\n  to: {}\n"
    file.write_text(lines.format("TEAM"))
    found = read_notifications(file, {"TEAM": "json://host/word"})
    assert found is not None
    assert (found.events, found.address, found.block) == (("failed", "refused"), "json://host/word", None)
    with pytest.raises(
        VideomarError, match="TEAM: got nothing, expected the address .*; export it, or remove"
    ):
        read_notifications(file, {"TEAM": ""})
    file.write_text(lines.format("slack-webhook/team"))
    found = read_notifications(file, {})
    assert found is not None
    assert (found.address, found.block) == (None, "slack-webhook/team")
    file.write_text("name: videomar\n")
    assert read_notifications(file, {}) is None


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("notifications: TEAM", "got keys"),
        ("notifications: {to: TEAM}", r"got keys \['to'\], expected `events` and `to`"),
        ("notifications: {events: [failed], to: TEAM, also: 1}", "got keys"),
        ("notifications: {events: failed, to: TEAM}", "got events failed, expected a list"),
        ("notifications: {events: [], to: TEAM}", "got events"),
        ("notifications: {events: [started], to: TEAM}", "failed, promoted, refused"),
        ("notifications: [", "expected deployments"),
    ],
)
def test_mistake_in_the_three_lines_is_one_line(tmp_path: Path, text: str, rule: str) -> None:
    (tmp_path / "prefect.yaml").write_text(text)
    with pytest.raises(VideomarError, match=f"prefect.yaml: .*{rule}") as caught:
        read_notifications(tmp_path / "prefect.yaml", {"TEAM": "json://host"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "to", ["mailto://user:secret@host", "https://hooks.slack.com/services/secret", "[secret]"]
)
def test_address_in_the_file_is_refused_and_not_repeated(tmp_path: Path, to: str) -> None:
    (tmp_path / "prefect.yaml").write_text(f"notifications: {{events: [failed], to: '{to}'}}")
    with pytest.raises(VideomarError, match="expected the name of an environment variable") as caught:
        read_notifications(tmp_path / "prefect.yaml", {})
    assert "secret@" not in str(caught.value)
    assert "services/secret" not in str(caught.value)


def test_password_of_a_database_is_on_no_command_line_and_runs_go_through_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = "postgresql://user:secret@db/mlflow"
    settings = read_settings({"MLFLOW_BACKEND_STORE_URI": url})
    started = services(settings)
    assert not any("secret" in word for service in started for word in service.command)
    assert started[0].environment["MLFLOW_BACKEND_STORE_URI"] == url
    assert tracking_uri(settings) == "http://127.0.0.1:5000"
    assert tracking_uri(read_settings({})) is None

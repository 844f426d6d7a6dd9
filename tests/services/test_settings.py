import socket
from pathlib import Path

import pytest

from videomar.errors import VideomarError
from videomar.services.definitions import prefect_api, services, tracking_uri
from videomar.services.settings import read_settings, require_free_ports

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


def test_taken_port_is_named_with_a_way_out() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        settings = read_settings(
            {"VIDEOMAR_PREFECT_PORT": str(port), "VIDEOMAR_MLFLOW_PORT": str(_free_port())}
        )
        with pytest.raises(VideomarError, match=f"port {port} of 127.0.0.1: got .*VIDEOMAR_PREFECT_PORT="):
            require_free_ports(settings)


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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""What `make up` notes down is used where the user has not said otherwise."""

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from unittest.mock import patch

import pytest

from videomar import environment
from videomar.environment import PASSWORD, SERVICES, apply_settings, prepare_prefect, processor_kind

SIGN_INS = (
    *("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"),
    *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_AUTH_ADMIN_PASSWORD"),
)


class _Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with patch.dict(os.environ):
        for name in ("PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI", *SIGN_INS):
            os.environ.pop(name, None)
        yield


def note(**facts: object) -> None:
    SERVICES.parent.mkdir(exist_ok=True)
    SERVICES.write_text(json.dumps(facts))


def test_prefect_server_is_used_only_while_it_answers() -> None:
    server = HTTPServer(("127.0.0.1", 0), _Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    api = f"http://127.0.0.1:{server.server_address[1]}/api"
    note(prefect_api=api)
    with patch.dict(os.environ, HTTP_PROXY="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9"):
        prepare_prefect()
        assert os.environ["PREFECT_API_URL"] == api
    server.shutdown()
    server.server_close()
    os.environ.pop("PREFECT_API_URL", None)
    prepare_prefect()
    assert "PREFECT_API_URL" not in os.environ


def test_tracking_server_is_used_where_the_store_is_not_ours_unless_the_user_names_another() -> None:
    note(tracking_uri=None)
    apply_settings()
    assert "MLFLOW_TRACKING_URI" not in os.environ
    note(tracking_uri="http://127.0.0.1:5000")
    os.environ["MLFLOW_TRACKING_URI"] = "sqlite:///mine.db"
    apply_settings()
    assert os.environ["MLFLOW_TRACKING_URI"] == "sqlite:///mine.db"
    del os.environ["MLFLOW_TRACKING_URI"]
    apply_settings()
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"


@pytest.fixture
def password() -> str:
    """As `make up` leaves it."""
    PASSWORD.parent.mkdir(exist_ok=True)
    PASSWORD.write_text("sesame")
    return "sesame"


@pytest.mark.parametrize("own", [{"tracking_uri": "http://127.0.0.1:5000"}, {"tracking_uri": None}])
def test_password_goes_to_our_mlflow_and_to_no_other(password: str, own: dict[str, object]) -> None:
    note(**own, services={"mlflow": {"address": "http://127.0.0.1:5000"}})
    for other in ("https://mlflow.example", "sqlite:///mine.db", "http://127.0.0.1:5001"):
        os.environ["MLFLOW_TRACKING_URI"] = other
        apply_settings()
        assert not set(SIGN_INS) & set(os.environ)
    for ours in ("http://127.0.0.1:5000", "http://127.0.0.1:5000/"):
        os.environ["MLFLOW_TRACKING_URI"] = ours
        apply_settings()
        assert os.environ.pop("MLFLOW_TRACKING_USERNAME") == "admin"
        assert os.environ.pop("MLFLOW_TRACKING_PASSWORD") == password


def test_password_goes_to_our_prefect_and_to_no_other(password: str) -> None:
    note(prefect_api="http://127.0.0.1:4200/api")
    os.environ["PREFECT_API_URL"] = "https://prefect.example/api"
    prepare_prefect()
    assert not set(SIGN_INS) & set(os.environ)
    os.environ["PREFECT_API_URL"] = "http://127.0.0.1:4200/api"
    prepare_prefect()
    assert os.environ["PREFECT_API_AUTH_STRING"] == f"admin:{password}"
    assert "PREFECT_SERVER_API_AUTH_STRING" not in os.environ


def test_temporary_server_of_a_flow_gets_a_password_of_its_own() -> None:
    words = []
    for _ in range(2):
        with patch.dict(os.environ):
            prepare_prefect()
            words.append(os.environ["PREFECT_SERVER_API_AUTH_STRING"])
            assert os.environ["PREFECT_API_AUTH_STRING"] == words[-1]
    assert words[0] != words[1]
    assert min(map(len, words)) > 40
    os.environ["PREFECT_API_AUTH_STRING"] = "ute:sesame"  # of the user, who wants this one
    prepare_prefect()
    assert os.environ["PREFECT_SERVER_API_AUTH_STRING"] == "ute:sesame"


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00"])
def test_damaged_note_is_as_none(text: str) -> None:
    SERVICES.parent.mkdir()
    SERVICES.write_text(text)
    prepare_prefect()
    assert "PREFECT_API_URL" not in os.environ


@pytest.mark.parametrize(
    ("lower", "upper"), [(None, None), ("a.example", None), (None, "a.example"), ("a.example", "b.example")]
)
def test_loopback_never_goes_through_a_proxy(lower: str | None, upper: str | None) -> None:
    for name, value in (("no_proxy", lower), ("NO_PROXY", upper)):
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    apply_settings()
    apply_settings()
    wanted = [host for host in (lower, upper) if host] + ["localhost", "127.0.0.1", "::1"]
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == ",".join(wanted)


def test_a_machine_without_any_proxy_keeps_it_so() -> None:
    os.environ["no_proxy"] = "*"
    apply_settings()
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "*"


@pytest.mark.parametrize(
    ("cpuinfo", "capability", "kind"),
    [
        ("processor: 0\nvendor_id\t: AuthenticAMD\nflags: avx2", "AVX2", "AuthenticAMD AVX2"),
        ("vendor_id\t: GenuineIntel\nvendor_id\t: GenuineIntel", "AVX512", "GenuineIntel AVX512"),
        ("CPU implementer\t: 0x41", "DEFAULT", "arm64"),
        (None, "SVE256", "arm64 SVE256"),
    ],
)
def test_kind_of_processor_is_vendor_and_instruction_set(
    checkout: None, monkeypatch: pytest.MonkeyPatch, cpuinfo: str | None, capability: str, kind: str
) -> None:
    if cpuinfo is not None:
        Path("cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(environment, "_CPUINFO", Path("cpuinfo"))
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    assert processor_kind() == kind

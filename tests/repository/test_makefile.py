"""Names that users give reach commands as they are, whatever shells and make would do with them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ODD = [
    "a b",
    "a'b",
    'a"b',
    "a$b",
    "a$$b",
    "$(touch x)",
    "`touch x`",
    "a;touch x",
    "a&b",
    "[a]*?",
    "100%",
    "#1",
    "-n",
    "日本語",
]
ODD += ["a\\b", "a\nb", "(a)", "a, b", "~", "é" * 120]


@pytest.fixture(autouse=True)
def no_make_above(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make test` runs these tests, too."""
    for name in (
        "MAKEFLAGS",
        "MAKELEVEL",
        "MFLAGS",
        "VIDEOMAR_CLIPS",
        "VIDEOMAR_TO",
        "VIDEOMAR_SETUP_PYTHON",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with our Makefile, in which every command notes down its arguments."""
    folder = tmp_path / "check out"
    (folder / ".venv/bin").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "install.py").write_text("")
    program = folder / ".venv/bin/python"
    program.write_text(
        '#!/bin/sh\nfor word in "$@"; do printf "%s\\0" "$word"; done >> said\nprintf "\\001" >> said\n'
    )
    program.chmod(0o755)
    return folder


def calls(folder: Path) -> list[list[str]]:
    said = (folder / "said").read_text().split("\1")[:-1]
    return [call.split("\0")[:-1] for call in said]


@pytest.mark.parametrize("name", ODD)
def test_name_of_a_clip_folder_is_never_read_by_a_shell(checkout: Path, name: str) -> None:
    # On make's command line a newline ends the definition, so such a name can only come by the environment.
    command = ["make", "curate"] if "\n" in name else ["make", "curate", f"CLIPS={name}"]
    environment = {**os.environ, "CLIPS": name}
    subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True)
    assert calls(checkout)[0] == ["-m", "videomar.cli", "use-clips", "--", name]
    assert not (checkout / "x").exists()


@pytest.mark.parametrize("name", ["a b", "-a", "a'b", "a$b", "$(touch x)", "a;touch x", "#1"])
def test_name_of_a_remote_is_never_read_by_a_shell(checkout: Path, name: str) -> None:
    subprocess.run(["make", "remote", f"TO={name}"], cwd=checkout, check=True, capture_output=True)
    assert calls(checkout)[0][-2:] == ["store", name]
    assert not (checkout / "x").exists()


def test_remote_has_a_default_and_takes_addresses_as_they_are(checkout: Path) -> None:
    for words in ([], ["TO=s3://bucket/a b"], ["TO=/mnt/a b"]):
        subprocess.run(["make", "remote", *words], cwd=checkout, check=True, capture_output=True)
    wanted = [".local/dvc-remote", "s3://bucket/a b", "/mnt/a b"]
    assert [call[-1] for call in calls(checkout)] == wanted


def test_no_other_python_reaches_into_ours(checkout: Path) -> None:
    program = checkout / ".venv/bin/python"
    program.write_text("#!/bin/sh\nenv > seen\n")
    foreign = ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "VIRTUAL_ENV", "CONDA_PREFIX")
    environment = {**os.environ, **dict.fromkeys(foreign, "/elsewhere"), "PYTHONHOME": ""}
    subprocess.run(["make", "down"], cwd=checkout, env=environment, check=True, capture_output=True)
    seen = dict(line.split("=", 1) for line in (checkout / "seen").read_text().splitlines() if "=" in line)
    assert not set(foreign) & set(seen)
    assert seen["PYTHONUTF8"] == "1"


def test_no_python_that_serves_is_one_line(checkout: Path) -> None:
    (checkout / "bin").mkdir()
    for name in ("make", "sh", "sed"):
        (checkout / "bin" / name).symlink_to(str(shutil.which(name)))
    environment = {"PATH": str(checkout / "bin"), "HOME": str(checkout)}
    done = subprocess.run(["make", "setup"], cwd=checkout, env=environment, capture_output=True, text=True)
    assert done.returncode
    assert done.stderr.splitlines()[0].startswith(
        "setup: got none of python3.11 python3.12 python3.13 python3, "
    )


def test_a_python_that_was_named_is_taken_or_refused(checkout: Path) -> None:
    (checkout / "install.py").write_text("import sys; print(sys.executable)")
    named = checkout / "my python"
    named.symlink_to(sys.executable)
    done = subprocess.run(["make", "setup", f"PYTHON={named}"], cwd=checkout, capture_output=True, text=True)
    assert done.stdout.strip() == str(named)
    done = subprocess.run(["make", "setup", "PYTHON=/none"], cwd=checkout, capture_output=True, text=True)
    assert "setup: got none of /none, expected Python 3.11" in done.stderr


def test_make_alone_says_what_there_is(checkout: Path) -> None:
    done = subprocess.run(["make"], cwd=checkout, capture_output=True, text=True, check=True)
    assert "make run [CLIPS=DIR]" in done.stdout
    assert not (checkout / "said").exists()


@pytest.mark.parametrize("near", [True, False])
def test_stages_run_in_the_checkouts_environment_and_not_in_one_that_is_active(
    tmp_path: Path, near: bool
) -> None:
    deep = tmp_path / "a b" / ".dvc/tmp/exps/1"
    (deep / "stages").mkdir(parents=True)
    shutil.copy(ROOT / "stages/run", deep / "stages")
    for place in (tmp_path / "foreign", *([tmp_path / "a b/.venv"] if near else [])):
        (place / "bin").mkdir(parents=True)
        (place / "bin/python").write_text(
            f'#!/bin/sh\nprintf "%s" "{place} $PYTHONPATH $PYTHONSAFEPATH $*"\n'
        )
        (place / "bin/python").chmod(0o755)
    environment = {**os.environ, "VIRTUAL_ENV": str(tmp_path / "foreign")}
    environment |= {"PYTHONPATH": "/elsewhere", "PYTHONSAFEPATH": "1"}
    command = ["./stages/run", "ingest", "--raw", "c d"]
    done = subprocess.run(command, cwd=deep, env=environment, capture_output=True, text=True, check=True)
    place = tmp_path / ("a b/.venv" if near else "foreign")
    assert done.stdout == f"{place}   -m stages ingest --raw c d"

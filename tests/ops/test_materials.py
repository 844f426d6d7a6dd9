import json
import platform
import sys
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.pipeline_outputs import REPOSITORY
from videomar.cli import app as cli
from videomar.ops.materials import NOTES, read_pins, write_bill


def test_bill_names_each_pinned_package_and_no_unknown_licence_is_unmentioned(tmp_path: Path) -> None:
    lock = REPOSITORY / "requirements.lock"
    pins = {f"{name}=={version}" for name, version in read_pins(lock).items()}
    assert len(pins) > 250
    count, unknown = write_bill(lock, tmp_path / "bom.json")
    bill = json.loads((tmp_path / "bom.json").read_text())
    parts = {f"{part['name']}=={part['version']}": part for part in bill["components"]}
    assert set(parts) == pins
    assert count == len(pins)
    assert sorted(unknown) == sorted(part["name"] for part in parts.values() if "licenses" not in part)
    numpy = parts[f"numpy=={metadata.version('numpy')}"]
    assert "BSD" in numpy["licenses"][0]["license"]["name"]


@pytest.mark.skipif(
    (sys.platform, platform.machine(), sys.version_info[:2]) != ("linux", "x86_64", (3, 11)),
    reason="the bill in docs is that of Python 3.11 on Linux x86-64",
)
def test_bill_in_the_documentation_is_that_of_the_lock() -> None:
    """`videomar bom` writes it anew."""
    bill = json.loads((REPOSITORY / "docs/BOM.json").read_text())
    pins = read_pins(REPOSITORY / "requirements.lock")
    assert {part["name"]: part["version"] for part in bill["components"]} == pins
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert [part["name"] for part in bill["components"] if "licenses" not in part] == ["cuda-toolkit"]


def test_pins_are_those_for_this_python_and_system(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lines = [
        "a==1.0 \\",
        "    --hash=sha256:00",
        "b==2.0 ; sys_platform == 'win32' \\",
        "    --hash=sha256:01",
    ]
    lock.write_text(
        "\n".join([*lines, "c==3.0 ; python_full_version >= '3.11' \\", "    --hash=sha256:02", ""])
    )
    assert read_pins(lock) == {"a": "1.0", "c": "3.0"}


def test_what_is_risky_is_said(tmp_path: Path) -> None:
    write_bill(REPOSITORY / "requirements.lock", tmp_path / "bom.json")
    parts = {part["name"]: part for part in json.loads((tmp_path / "bom.json").read_text())["components"]}
    for name, note in NOTES.items():
        assert parts[name]["properties"] == [{"name": "videomar:note", "value": note}]


def test_licence_that_stands_only_in_a_file_is_read_there(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"huey=={metadata.version('huey')}\n")  # its file has no title
    assert write_bill(lock, tmp_path / "bom.json") == (1, [])
    (part,) = json.loads((tmp_path / "bom.json").read_text())["components"]
    assert part["licenses"] == [{"license": {"name": "MIT License"}}]


def test_package_without_a_licence_is_named(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("# made by hand\nno-such-package==1.0\n")
    assert write_bill(lock, tmp_path / "bom.json") == (1, ["no-such-package"])


def test_command_writes_the_file(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "requirements.lock").write_text("no-such-package==1.0\n")
    done = CliRunner().invoke(cli.app, ["bom", "--out", "bom.json"])
    assert done.stdout == "bom.json: 1 packages\nwithout a stated licence: no-such-package\n"

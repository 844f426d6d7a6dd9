import json
import platform
import sys
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.pipeline_outputs import REPOSITORY
from videomar.cli import app as cli
from videomar.errors import VideomarError
from videomar.ops.sbom import NOTES, Weakness, audit, read_pins, write_bill


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
    """`videomar bom` writes it again."""
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


def write(folder: Path, number: int, **part: object) -> None:
    """A record of OSV about one package."""
    package = {"ecosystem": part.pop("ecosystem", "PyPI"), "name": part.pop("name", "some-thing")}
    record = {"id": f"PYSEC-1-{number}", "affected": [{"package": package, **part}]}
    (folder / f"{number}.json").write_text(json.dumps(record))


def span(*events: tuple[str, str], kind: str = "ECOSYSTEM") -> list[dict[str, object]]:
    return [{"type": kind, "events": [{name: version} for name, version in events]}]


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ("0.9", False),
        ("1.0", True),
        ("1.9.10", True),
        ("1.10", False),
        ("1.10rc1", True),
        ("2.0", True),
        ("2.3", True),
        ("2.3.post1", False),
        ("2.3.1", False),
    ],
)
def test_versions_of_a_range_are_compared_as_versions(tmp_path: Path, version: str, affected: bool) -> None:
    events = [("last_affected", "2.3"), ("introduced", "2.0"), ("introduced", "1.0"), ("fixed", "1.10")]
    write(tmp_path, 1, ranges=span(*events))
    expected = [Weakness("Some_Thing", version, "PYSEC-1-1", ("1.10",))] if affected else []
    assert audit(tmp_path, {"Some_Thing": version, "other": "1.0"}) == (1, expected)


def test_only_what_is_meant_is_found(tmp_path: Path) -> None:
    always = span(("introduced", "0"))
    write(tmp_path, 1, ranges=always)
    write(tmp_path, 2, ranges=always, ecosystem="npm")
    write(tmp_path, 3, ranges=always, name="another")
    write(tmp_path, 4, ranges=span(("introduced", "0"), kind="GIT"))
    write(tmp_path, 5, versions=["0.9", "1.0.0"])
    write(tmp_path, 6, versions=["0.9"])
    write(tmp_path, 7, ranges=span(("introduced", "no version")))
    (tmp_path / "8.json").write_text(
        (tmp_path / "1.json").read_text().replace('"id"', '"withdrawn": "2026", "id"')
    )
    count, found = audit(tmp_path, {"some.thing": "1.0.0"})
    assert count == 8
    assert [weakness.advisory for weakness in found] == ["PYSEC-1-1", "PYSEC-1-5", "PYSEC-1-7"]


def test_folder_without_records_and_damaged_record_are_named(tmp_path: Path) -> None:
    with pytest.raises(VideomarError, match="got no JSON file, expected OSV records"):
        audit(tmp_path, {})
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(VideomarError, match=r"a\.json: got .*, expected an OSV record"):
        audit(tmp_path, {})


def test_command_names_package_advisory_and_remedy_and_fails(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "osv").mkdir()
    write(tmp_path / "osv", 1, ranges=span(("introduced", "0"), ("fixed", "1.2")))
    (tmp_path / "requirements.lock").write_text("some-thing==1.1\n")
    bad = CliRunner().invoke(cli.app, ["bom", "--out", "bom.json", "--audit", "osv"])
    assert "some-thing 1.1: PYSEC-1-1, fixed in 1.2" in bad.stdout
    assert bad.exit_code == 1
    (tmp_path / "requirements.lock").write_text("some-thing==1.2\n")
    good = CliRunner().invoke(cli.app, ["bom", "--out", "bom.json", "--audit", "osv"])
    assert "1 advisories read, none is about a pinned version" in good.stdout
    assert good.exit_code == 0

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from videomar.cli import app as cli
from videomar.errors import VideomarError
from videomar.ops.advisories import Weakness, audit


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

"""`videomar migrate`: a file of the old layout, brought to today's."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.old_layout import ROOT, SECTIONS, SHIPPED, old_text
from videomar.cli import app as cli
from videomar.config import load_own_params, load_params
from videomar.config.migration import migrate
from videomar.config.schema import RESOURCE_KEYS
from videomar.errors import ParamsError

PLACES = [(section, key) for section, keys in RESOURCE_KEYS.items() for key in keys]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """params.yaml of the old layout in the working folder."""
    monkeypatch.chdir(tmp_path)
    path = Path("params.yaml")
    path.write_text(old_text())
    return path


def test_migrated_file_says_the_same_and_keeps_every_comment_and_line(file: Path) -> None:
    migrate(file)
    assert load_own_params(file) == load_params(ROOT / "params.yaml")
    text = file.read_text()
    assert text.startswith(SECTIONS)
    for section, key in PLACES:
        assert f"    # above {section}.{key}\n    {key}: " in text
        assert f"  # beside {section}.{key}\n" in text


def test_each_moved_key_is_a_line_and_a_second_time_there_is_nothing_to_do(file: Path) -> None:
    done = CliRunner().invoke(cli.app, ["migrate"])
    assert done.exit_code == 0
    said = done.stdout.splitlines()
    assert sorted(said) == sorted(
        f"params.yaml: {section}.{key} is now resources.{section}.{key}" for section, key in PLACES
    )
    text = file.read_text()
    done = CliRunner().invoke(cli.app, ["migrate"])
    assert done.stdout == "params.yaml: nothing to do, every key is in its place\n"
    assert file.read_text() == text


def test_shipped_file_has_nothing_to_move() -> None:
    assert migrate(ROOT / "params.yaml") == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("encode: {num_workers: 3}\n", "encode: {}\n\nRESOURCES  encode:\n    num_workers: 3\n"),
        ("train:\n  num_workers: 3 # few\n", "RESOURCES  train:\n    num_workers: 3 # few\n"),
        (
            "train:\n  seed: 1\n  # few\n  num_workers: 3\n  # ours\n  asha: false\n# end\n",
            "train:\n  seed: 1\n  # ours\n  asha: false\n# end\n\nRESOURCES"
            "  train:\n    # few\n    num_workers: 3\n",
        ),
        (
            "suite:\n  threads: 3\n  seed: 1\nresources:\n  train: {num_workers: 2}\n",
            "suite:\n  seed: 1\nresources:\n  train: {num_workers: 2}\n  suite:\n    threads: 3\n",
        ),
    ],
)
def test_part_of_a_file_as_a_preset_has_it_is_moved(file: Path, before: str, after: str) -> None:
    file.write_text(before)
    migrate(file)
    about = SHIPPED[len(SECTIONS) :].lstrip("\n").split("\n")[0]
    expected = after.replace("RESOURCES", f"{about}\nresources:\n")
    assert file.read_text().lstrip("\n") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "train:\n  num_workers: 3\nresources:\n  train:\n    num_workers: 2\n",
            "resources.train.num_workers: train.num_workers exists as well; remove one",
        ),
        ("train:\n  num_workers:\n    3\n", "got resources that are written in another way"),
        ("train:\n  num_workers: &few 3\n  seed: *few\n", "got resources that are written in another way"),
        ("train: [", "no YAML"),
        ("- train\n", "got ['train'], expected sections of keys"),
    ],
)
def test_file_that_cannot_be_moved_stays_as_it_is(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(ParamsError) as caught:
        migrate(file)
    assert str(caught.value).startswith(f"params.yaml: {message}")
    assert file.read_text() == text

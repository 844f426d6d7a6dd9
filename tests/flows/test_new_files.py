import json
import os
from pathlib import Path

import pytest

from flows.serve import quiet_times
from flows.watch import NewFiles, take_snapshot
from tests.support.pipeline_outputs import REPOSITORY
from videomar.errors import VideomarError

QUIET_S = 60.0


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("samples: {source: clips}\n")
    for folder in ("clips/deep", "data/raw/deep"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "clips/deep/a.mp4").write_text("a")
    return tmp_path


@pytest.mark.parametrize("change", ["new", "by hand", "grown", "touched", "gone", "in a linked folder"])
def test_change_of_files_is_seen(checkout: Path, change: str) -> None:
    (checkout / "elsewhere").mkdir()
    (checkout / "clips/linked").symlink_to(checkout / "elsewhere")
    before, a = take_snapshot(), checkout / "clips/deep/a.mp4"
    match change:
        case "new":
            (checkout / "clips/b.mp4").touch()
        case "by hand":
            (checkout / "data/raw/deep/b.mp4").touch()
        case "grown":
            a.write_text("aa")
        case "touched":
            os.utime(a, (1, 1))
        case "gone":
            a.unlink()
        case _:
            (checkout / "elsewhere/b.mp4").touch()
    assert take_snapshot() != before


def test_what_the_pipeline_collects_and_dotfiles_are_not_new(checkout: Path) -> None:
    (checkout / "data/raw/mine.mp4").write_text("put there by hand")
    before = take_snapshot()
    (checkout / "data/raw/deep/a.mp4").write_text("a")
    (checkout / "data/raw/.collected.json").write_text(json.dumps(["deep/a.mp4"]))
    (checkout / "clips/.half").write_text("a")
    (checkout / "clips/loop").symlink_to(checkout / "clips")
    assert take_snapshot() == before


def test_nothing_is_due_until_files_stand_still(checkout: Path) -> None:
    new_files = NewFiles(checkout / "record.json", QUIET_S)
    assert not new_files.is_due(take_snapshot(), 0.0)
    assert not new_files.is_due(take_snapshot(), 1000.0), "what the first look found is not new"
    for second in (1000.0, 1030.0, 1060.0, 1090.0):
        (checkout / f"clips/{second}.mp4").touch()
        assert not new_files.is_due(take_snapshot(), second)
    assert not new_files.is_due(take_snapshot(), 1090.0 + QUIET_S - 1)
    assert new_files.is_due(take_snapshot(), 1090.0 + QUIET_S)
    new_files.mark_known(take_snapshot())
    assert not new_files.is_due(take_snapshot(), 5000.0)


def test_files_that_came_while_nobody_looked_are_new(checkout: Path) -> None:
    NewFiles(checkout / "record.json", QUIET_S).is_due(take_snapshot(), 0.0)
    (checkout / "clips/b.mp4").touch()
    later = NewFiles(checkout / "record.json", QUIET_S)
    assert not later.is_due(take_snapshot(), 7.0)
    assert later.is_due(take_snapshot(), 7.0 + QUIET_S)


def test_files_that_come_and_go_again_are_not_new(checkout: Path) -> None:
    new_files = NewFiles(checkout / "record.json", QUIET_S)
    new_files.is_due(take_snapshot(), 0.0)
    (checkout / "clips/b.mp4").touch()
    assert not new_files.is_due(take_snapshot(), 10.0)
    (checkout / "clips/b.mp4").unlink()
    assert not new_files.is_due(take_snapshot(), 10.0 + 2 * QUIET_S)


def test_another_source_is_not_new_files(checkout: Path) -> None:
    new_files = NewFiles(checkout / "record.json", QUIET_S)
    new_files.is_due(take_snapshot(), 0.0)
    (checkout / "other").mkdir()
    (checkout / "other/b.mp4").touch()
    (checkout / "params.yaml").write_text("samples: {source: other}\n")
    assert not new_files.is_due(take_snapshot(), 10.0)
    assert not new_files.is_due(take_snapshot(), 10.0 + QUIET_S)


def test_shipped_deployments_start_retrain_on_new_files_unless_switched_off(tmp_path: Path) -> None:
    text = (REPOSITORY / "prefect.yaml").read_text()
    assert quiet_times(REPOSITORY / "prefect.yaml") == {"retrain/nightly": 60.0}
    off = tmp_path / "prefect.yaml"
    off.write_text(text.replace("new_files: {active: true", "new_files: {active: false"))
    assert quiet_times(off) == {}


@pytest.mark.parametrize(
    "trigger", ["true", "{active: true}", "{active: 1, quiet_s: 60}", "{active: true, quiet_s: 0}", "[]"]
)
def test_mistake_in_new_files_is_one_line(tmp_path: Path, trigger: str) -> None:
    entry = f"{{name: nightly, entrypoint: flows.retrain.retrain, new_files: {trigger}}}"
    (tmp_path / "prefect.yaml").write_text(f"deployments: [{entry}]")
    with pytest.raises(VideomarError, match="prefect.yaml: got") as caught:
        quiet_times(tmp_path / "prefect.yaml")
    assert "\n" not in str(caught.value)

"""The command that trains the weights of the package: its work tree, its hours, its size."""

import json
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.support.scripts import load_script
from videomar.checkpoint.manifest import ModelShape
from videomar.config import load_own_params
from videomar.config.edit import with_changes
from videomar.encoders.causal import CausalTokenizer
from videomar.errors import VideomarError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def base() -> ModuleType:
    return load_script(ROOT / ".ci/train_base.py")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git checkout that has what the command reads of one."""
    folder = tmp_path / "check out"
    folder.mkdir()
    shutil.copy(ROOT / "params.yaml", folder)
    shutil.copytree(ROOT / "presets", folder / "presets")
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    for words in (["init", "--quiet"], ["add", "."], [*author, "commit", "--quiet", "--message", "one"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


def test_work_tree_has_the_preset_and_stays_when_the_checkout_moves_on(
    base: ModuleType, checkout: Path, tmp_path: Path
) -> None:
    tree = tmp_path / "basis"
    before = (checkout / "params.yaml").read_text()
    base.make_tree(checkout, tree)
    params = load_own_params(tree / "params.yaml")
    assert (
        params.model == with_changes(ROOT / "params.yaml", base.read_preset(ROOT / "presets", "base")).model
    )
    assert params.train.start_from is None
    assert (checkout / "params.yaml").read_text() == before
    own = (tree / "params.yaml").read_text() + "# a line of the user's\n"
    (tree / "params.yaml").write_text(own)
    base.make_tree(checkout, tree)
    assert (tree / "params.yaml").read_text() == own


def test_work_tree_that_was_left_half_made_is_made_again(
    base: ModuleType, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "basis"
    with monkeypatch.context() as patch:
        patch.setattr(base, "update_params", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            base.make_tree(checkout, tree)
    assert not tree.exists()
    base.make_tree(checkout, tree)
    assert (tree / base.RECORD).is_file()


def test_folder_of_something_else_and_a_checkout_without_git_are_refused(
    base: ModuleType, checkout: Path, tmp_path: Path
) -> None:
    with pytest.raises(VideomarError, match="got a folder with files, expected a new one"):
        base.make_tree(checkout, checkout)
    with pytest.raises(VideomarError, match="got '%', expected none of it in the path"):
        base.make_tree(checkout, tmp_path / "100%")
    (tmp_path / "plain").mkdir()
    with pytest.raises(VideomarError, match="got no commit, expected a git checkout"):
        base.make_tree(tmp_path / "plain", tmp_path / "basis")


def test_hours_become_steps_once(base: ModuleType, tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "metrics").mkdir()
    (tmp_path / ".local").mkdir()
    (tmp_path / base.RECORD).write_text("{}")
    for stage in ("samples", "ingest", "curate", "train_tokenizer", "encode", "train"):
        (tmp_path / f"metrics/{stage}.json").write_text('{"seconds": 360.0}')
    before = [stage.steps for stage in load_own_params(tmp_path / "params.yaml").train.curriculum]
    with pytest.raises(VideomarError, match=r"HOURS: got 0.5, expected more than the 1.00"):
        base.set_steps(tmp_path, 0.5, {"train": 2.0, "sample": 0.4, "evaluate": 0.1})
    base.set_steps(tmp_path, 7.0, {"train": 2.0, "sample": 0.4, "evaluate": 0.1})
    steps = [stage.steps for stage in load_own_params(tmp_path / "params.yaml").train.curriculum]
    assert steps == [3 * number for number in before]
    assert json.loads((tmp_path / base.RECORD).read_text())["factor"] == 3.0
    base.set_steps(tmp_path, 99.0, {})
    assert [stage.steps for stage in load_own_params(tmp_path / "params.yaml").train.curriculum] == steps


@pytest.mark.parametrize("text", ["0", "-3", "seven", "nan", "inf"])
def test_hours_that_are_none_are_refused(base: ModuleType, text: str) -> None:
    with pytest.raises(VideomarError, match=f"HOURS: got {text}, expected a number above 0"):
        base.parse_hours(text)
    assert base.parse_hours("7") == 7.0
    assert base.parse_hours("") is None


def test_weights_of_the_preset_are_small_enough_to_ship(base: ModuleType) -> None:
    params = with_changes(ROOT / "params.yaml", base.read_preset(ROOT / "presets", "base"))
    own = params.tokenizer
    with torch.device("meta"):
        model = ModelShape(params.model, own.channels, 384, params.text.max_tokens).build()
        tokenizer = CausalTokenizer(own)
    numbers = sum(weight.numel() for part in (model, tokenizer) for weight in part.state_dict().values())
    assert 4 * numbers < 15.5e6, "expected below 16 MB with the origin, the card and pictures"

"""A stage of a small pipeline with other parameters, in a copy beside the checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.worktree import Worktree
from videomar.errors import VideomarError
from videomar.processes import run_in_group

pytestmark = pytest.mark.slow
WHO = {f"GIT_{role}_{key}": "a@b" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
DVC_YAML = {
    "raw": {"cmd": "mkdir -p raw; cp source/* raw", "deps": ["source"], "outs": [{"raw": {"persist": True}}]},
    "encode": {"cmd": "cat raw/* > latents", "deps": ["raw"], "outs": ["latents"]},
    "train": {
        "cmd": "mkdir -p model; cat code.py latents params.yaml > model/weights; cp params.yaml table.csv",
        "deps": ["code.py", "latents"],
        "params": ["train"],
        "outs": [{"model": {"persist": True}}],
        "plots": [{"table.csv": {"cache": False}}],
    },
    "sample": {"cmd": "cp model/weights clips", "deps": ["model"], "outs": ["clips"]},
}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose pipeline is up to date, with changes that are not committed."""
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "source").mkdir()
    (folder / "source/a").write_text("clips\n")
    (folder / "code.py").write_text("old\n")
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": DVC_YAML}, sort_keys=False))
    (folder / "params.yaml").write_text("train: {rate: 1}  # why\nsample: {steps: 1}\n")
    (folder / ".gitignore").write_text("/.local/\n/own.yaml\n")
    (folder / ".dvcignore").write_text(".local\n")
    run(folder, "git init -q; python -m dvc init -q; git add .; git commit -qm first")
    (folder / "code.py").write_text("new\n")
    run(folder, "python -m dvc repro -q")
    return folder


@pytest.fixture
def checkout(pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, for one test to change, and to stand in."""
    shutil.copytree(pipeline, tmp_path / "checkout", symlinks=True)
    monkeypatch.chdir(tmp_path / "checkout")
    for name, value in (WHO | {"DVC_NO_ANALYTICS": "1"}).items():
        monkeypatch.setenv(name, value)
    set_own_params(2)
    return tmp_path / "checkout"


def run(folder: Path, commands: str) -> str:
    environment = {**os.environ, **WHO, "DVC_NO_ANALYTICS": "1"}
    words = commands.replace("python", sys.executable)
    done = subprocess.run(
        ["/bin/sh", "-ec", words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def set_own_params(rate: int) -> None:
    """The parameters of the copy."""
    text = Path("params.yaml").read_text()
    Path("own.yaml").write_text(text.replace("rate: 1", f"rate: {rate}"))


def copy() -> Worktree:
    return Worktree("train", Path("own.yaml"))


def train(made: Worktree) -> None:
    assert run_in_group([sys.executable, "-m", "dvc", "repro", "--single-item", "train"], made.folder) == 0


def test_results_are_an_experiment_and_the_checkout_stays_as_it_was(checkout: Path) -> None:
    before = run(checkout, "git status --short --untracked=all; cat params.yaml dvc.lock model/weights")
    made = copy()
    made.create()
    train(made)
    assert not made.is_saved()
    made.save()
    made.remove()
    assert copy().is_saved()
    assert not made.folder.exists()
    assert run(checkout, "git worktree list").count("\n") == 1
    assert (
        run(checkout, "git status --short --untracked=all; cat params.yaml dvc.lock model/weights") == before
    )

    run(checkout, f"python -m dvc exp apply {made.name}")
    own = "train: {rate: 2}  # why\nsample: {steps: 1}\n"
    assert (checkout / "params.yaml").read_text() == own
    assert (checkout / "model/weights").read_text() == f"new\nclips\n{own}"
    assert (checkout / "table.csv").read_text() == own
    status = run(checkout, "python -m dvc status --json")
    assert set(yaml.safe_load(status)) == {"sample"}, "nothing is trained again, and clips come next"


def test_stage_that_was_cut_off_goes_on_in_the_same_copy(checkout: Path) -> None:
    made = copy()
    made.create()
    (made.folder / "model").mkdir()
    (made.folder / "model/checkpoint").write_text("half way")
    again = copy()
    again.create()
    assert (again.folder / "model/checkpoint").read_text() == "half way"
    train(again)
    assert (again.folder / "model/checkpoint").is_file(), "the stage's output is kept"


def test_copy_that_was_cut_off_is_made_again(checkout: Path) -> None:
    (checkout / "added.py").write_text("not committed")
    run(checkout, "git add added.py")
    made = copy()
    made.create()
    assert (made.folder / "added.py").is_file()
    (made.folder / ".complete").unlink()
    (made.folder / "code.py").unlink()
    copy().create()
    assert (made.folder / "code.py").read_text() == "new\n"


def test_name_follows_what_the_stage_depends_on_and_nothing_else(checkout: Path) -> None:
    name = copy().name
    (checkout / "params.yaml").write_text("train: {rate: 1}\nsample: {steps: 9}\n")
    (checkout / ".dvcignore").write_text(".local\n# a tracked file\n")
    set_own_params(2)
    assert copy().name == name
    set_own_params(3)
    assert copy().name != name
    set_own_params(2)
    (checkout / "code.py").write_text("newer\n")
    other = copy().name
    assert other != name
    (checkout / "source/a").write_text("other clips\n")
    run(checkout, "python -m dvc repro -q encode")
    assert copy().name not in (name, other)


def test_checkout_without_a_commit_is_refused_in_one_line(tmp_path: Path, checkout: Path) -> None:
    shutil.rmtree(checkout / ".git")
    run(checkout, "git init -q")
    with pytest.raises(VideomarError, match="got no commit here, expected a git checkout") as caught:
        copy()
    assert "\n" not in str(caught.value)

"""A copy of the checkout beside it, for a stage with other parameters; what it makes is an experiment of DVC.

The copy is a work tree of the same git repository with the same DVC cache, so that nothing is stored twice,
and what is under way here is left alone.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from videomar.errors import VideomarError

COPIES = Path(".local/sweeps")


class SideCopy:
    """Where one stage of dvc.yaml runs with other parameters: the same ones find the same copy again.

    Remembers the state of the checkout when it was asked for.
    """

    def __init__(self, stage: str, params: Path) -> None:
        """Look at the checkout; `params` is the file that stands for params.yaml in the copy.

        Raises:
            VideomarError: the working folder is not at the top of a git repository with a commit.
        """
        self._stage, self._params = stage, params
        self._entry: dict[str, Any] = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"][
            stage
        ]
        self._tree = _tree_of_checkout()
        made = [out for entry in _locked().values() for out in entry.get("outs", [])]
        self._made = [out for out in made if out["path"] in self._entry["deps"]]
        numbers = yaml.safe_load(params.read_text(encoding="utf-8"))
        sections = {section: numbers[section] for section in self._entry["params"]}
        code = _run(["git", "ls-tree", self._tree, "--", *self._entry["deps"]])
        basis = json.dumps([self._entry["cmd"], code, self._made, sections], sort_keys=True)
        self.name = f"sweep-{hashlib.sha256(basis.encode()).hexdigest()[:8]}"
        self.folder = (COPIES / self.name).resolve()
        self._complete = self.folder / ".complete"

    def is_saved(self) -> bool:
        """Whether there is an experiment with just these results."""
        return bool(_run(["git", "for-each-ref", f"refs/exps/*/*/{self.name}"]))

    def make(self) -> None:
        """Make the copy, unless it is there: then the stage goes on from where it was."""
        if self._complete.is_file():
            return
        self.remove()
        add = ["git", "worktree", "add", "--quiet", "--no-checkout", "--detach", str(self.folder), "HEAD"]
        _run(add)
        _run(["git", "read-tree", "-u", "--reset", self._tree], self.folder)
        shutil.copy(self._params, self.folder / "params.yaml")
        if (local := Path(".dvc/config.local")).is_file():
            shutil.copy(local, self.folder / local)
        _dvc(self.folder, "cache", "dir", "--local", _dvc(Path(), "cache", "dir"))
        _dvc(self.folder, "checkout", *(out["path"] for out in self._made))
        self._complete.touch()

    def save(self) -> None:
        """Make an experiment of it."""
        outs = [out for kind in ("plots", "metrics") for out in self._entry.get(kind, [])]
        loose = [out if isinstance(out, str) else next(iter(out)) for out in outs]
        included = [word for path in loose for word in ("--include-untracked", path)]
        _dvc(self.folder, "exp", "save", "--name", self.name, *included, self._stage)

    def remove(self) -> None:
        """Remove the copy, or what is there of one."""
        self._complete.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        _run(["git", "worktree", "prune"])


def _tree_of_checkout() -> str:
    """Id of the tracked files, and dvc.lock, as they lie here now; git's own index stays as it is."""
    COPIES.mkdir(parents=True, exist_ok=True)
    index = {"GIT_INDEX_FILE": str((COPIES / "index").resolve())}
    _run(["git", "rev-parse", "--verify", "HEAD"])
    shutil.copy(_run(["git", "rev-parse", "--git-path", "index"]), COPIES / "index")
    for words in (["add", "--update"], ["add", "--force", "dvc.lock"]):
        _run(["git", *words], more=index)
    return _run(["git", "write-tree"], more=index)


def _locked() -> dict[str, Any]:
    """Entries of dvc.lock by stage."""
    return yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"]


def _dvc(folder: Path, *words: str) -> str:
    return _run([sys.executable, "-m", "dvc", *words], folder)


def _run(command: Sequence[str], folder: Path = Path(), more: Mapping[str, str] | None = None) -> str:
    """What a command prints.

    Raises:
        VideomarError: it ended with another code than 0.
    """
    environment = {**os.environ, **(more or {})}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        told = " ".join((done.stderr or done.stdout).split())[-300:]
        words = " ".join(command[:3] if command[0] == "git" else command[2:5])
        raise VideomarError(f"{words}: got {told}, expected a checkout with git, a commit and DVC; mend it")
    return done.stdout.strip()

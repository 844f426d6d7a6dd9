"""A git work tree beside the checkout, where a stage runs with other parameters and becomes a DVC experiment.

It belongs to the same git repository and uses the same DVC cache, so nothing is stored twice, and work in
progress in the checkout is not touched.
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


class Worktree:
    """A copy of the checkout in which one stage of dvc.yaml runs; equal parameters find the same copy again.

    Remembers the state of the checkout at its creation.
    """

    def __init__(self, stage: str, params: Path) -> None:
        """Read the state of the checkout; `params` is the file that replaces params.yaml in the copy.

        Raises:
            VideomarError: the working folder is not the top folder of a git repository with a commit.
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
        """Whether an experiment with exactly these results exists."""
        return bool(_run(["git", "for-each-ref", f"refs/exps/*/*/{self.name}"]))

    def create(self) -> None:
        """Create the copy unless it exists; in an existing one the stage resumes."""
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
        """Save the results as a DVC experiment."""
        outs = [out for kind in ("plots", "metrics") for out in self._entry.get(kind, [])]
        loose = [out if isinstance(out, str) else next(iter(out)) for out in outs]
        included = [word for path in loose for word in ("--include-untracked", path)]
        _dvc(self.folder, "exp", "save", "--name", self.name, *included, self._stage)

    def remove(self) -> None:
        """Remove the copy, also an incomplete one."""
        self._complete.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        _run(["git", "worktree", "prune"])


def _tree_of_checkout() -> str:
    """Id of a git tree with the present tracked files and dvc.lock; git's own index stays as it is."""
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
    """Run a command and return what it prints.

    Raises:
        VideomarError: it failed.
    """
    environment = {**os.environ, **(more or {})}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        output = " ".join((done.stderr or done.stdout).split())[-300:]
        words = " ".join(command[:3] if command[0] == "git" else command[2:5])
        raise VideomarError(f"{words}: got {output}, expected a checkout with git, a commit and DVC")
    return done.stdout.strip()

"""A second work tree of the checkout, in which a stage runs with other parameters.

It belongs to the same git repository and uses the same DVC cache, so nothing is stored twice, and the files
of the checkout itself are not touched. The results are saved as an experiment of DVC.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from videomar.config.layout import Layout
from videomar.errors import VideomarError
from videomar.provenance.checkout import git, run_git

COPIES = Layout().local / "sweeps"


class Worktree:
    """A work tree for one stage of dvc.yaml, named by all that the stage depends on.

    So a flow that starts again with the same parameters finds its work tree, or its saved experiment, again.
    Remembers the state of the checkout at its construction.
    """

    def __init__(self, stage: str, params: Path) -> None:
        """Read the state of the checkout.

        Args:
            stage: Name in dvc.yaml.
            params: File that is params.yaml in the work tree.

        Raises:
            VideomarError: the working folder is not at the top of a git repository with a commit.
        """
        self._stage, self._params = stage, params
        self._entry: dict[str, Any] = _stages(Layout().pipeline)[stage]
        self._tree = _tree_of_checkout()
        made = [out for entry in _stages(Layout().lock).values() for out in entry.get("outs", [])]
        needed = self._entry["deps"]
        self._made = [out for out in made if any(f"{path}/".startswith(f"{out['path']}/") for path in needed)]
        numbers = yaml.safe_load(params.read_text(encoding="utf-8"))
        sections = {section: numbers[section] for section in self._entry["params"]}
        code = run_git(Path(), "ls-tree", self._tree, "--", *self._entry["deps"])
        basis = json.dumps([self._entry["cmd"], code, self._made, sections], sort_keys=True)
        self.name = f"sweep-{hashlib.sha256(basis.encode()).hexdigest()[:8]}"
        self.folder = (COPIES / self.name).resolve()
        self._complete = self.folder / ".complete"

    def is_saved(self) -> bool:
        """Whether an experiment with these results exists."""
        return bool(run_git(Path(), "for-each-ref", f"refs/exps/*/*/{self.name}"))

    def create(self) -> None:
        """Make the work tree. One that is complete stays: the stage continues from its files."""
        if self._complete.is_file():
            return
        self.remove()
        options = ("--quiet", "--no-checkout", "--detach")
        run_git(Path(), "worktree", "add", *options, str(self.folder), "HEAD")
        run_git(self.folder, "read-tree", "-u", "--reset", self._tree)
        shutil.copy(self._params, Layout(self.folder).params)
        if (local := Path(".dvc/config.local")).is_file():
            shutil.copy(local, self.folder / local)
        _dvc(self.folder, "cache", "dir", "--local", _dvc(Path(), "cache", "dir"))
        _dvc(self.folder, "checkout", *(out["path"] for out in self._made))
        self._complete.touch()

    def save(self) -> None:
        """Save the results as an experiment of DVC."""
        outs = [out for kind in ("plots", "metrics") for out in self._entry.get(kind, [])]
        loose = [out if isinstance(out, str) else next(iter(out)) for out in outs]
        included = [word for path in loose for word in ("--include-untracked", path)]
        _dvc(self.folder, "exp", "save", "--name", self.name, *included, self._stage)

    def remove(self) -> None:
        """Remove the work tree, complete or not."""
        self._complete.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        run_git(Path(), "worktree", "prune")


def _tree_of_checkout() -> str:
    """Id of a git tree with the tracked files as they are on disk, and dvc.lock."""
    if git(Path(), "rev-parse", "--verify", "--quiet", "HEAD") is None:
        raise VideomarError("worktree: got no commit here, expected a git checkout with one; commit first")
    COPIES.mkdir(parents=True, exist_ok=True)
    # A copy of git's index, so that nothing is staged in the user's own.
    index = COPIES / "index"
    shutil.copy(run_git(Path(), "rev-parse", "--git-path", "index"), index)
    environment = {**os.environ, "GIT_INDEX_FILE": str(index.resolve())}
    for words in (["add", "--update"], ["add", "--force", Layout().lock.name]):
        run_git(Path(), *words, environment=environment)
    return run_git(Path(), "write-tree", environment=environment)


def _stages(file: Path) -> dict[str, Any]:
    """Entries of dvc.yaml or dvc.lock by stage."""
    return yaml.safe_load(file.read_text(encoding="utf-8"))["stages"]


def _dvc(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "dvc", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        got = " ".join((done.stderr or done.stdout).split())[-300:]
        raise VideomarError(f"dvc {words[0]} in {folder}: got {got}, expected success; see `dvc doctor`")
    return done.stdout.strip()

"""What a model was made from: hashes of files and the state of the git tree."""

import os
import subprocess
from pathlib import Path

from videomar.errors import VideomarError
from videomar.files import sha256_of


def made_from(folder: Path) -> dict[str, str]:
    """`git_state` of a working folder, and `lock_sha256`, the hash of its dvc.lock; `none` without one."""
    lock = folder / "dvc.lock"
    return {**git_state(folder), "lock_sha256": sha256_of(lock) if lock.is_file() else "none"}


def git_state(folder: Path) -> dict[str, str]:
    """`git_commit` and `git_dirty` (`true` or `false`) of the tree of `folder`; `none` outside of git.

    Raises:
        VideomarError: git is there and refuses to read the tree.
    """
    commit = git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    changes = git(folder, "status", "--porcelain")
    if changes is None:
        return {"git_commit": "none", "git_dirty": "none"}
    return {"git_commit": commit or "none", "git_dirty": "true" if changes else "false"}


def git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None without git, outside of a repository, or where there is nothing to say.

    Raises:
        VideomarError: it refuses, as it does in a folder of another user: lineage must not be lost quietly.
    """
    command, environment = ["git", *arguments], {**os.environ, "LC_ALL": "C", "LANGUAGE": "C"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    said = " ".join(done.stderr.split())
    if done.returncode == 0:
        return done.stdout.strip("\n")
    if not said or "not a git repository" in said:
        return None
    do = (
        f"`git config --global --add safe.directory '{folder.resolve()}'`" if "dubious" in said else "mend it"
    )
    raise VideomarError(
        f"git {arguments[0]} in {folder.resolve()}: got {said[:200]}, expected an answer; {do}"
    )

"""What a model was made from: hashes of files and the state of the git tree."""

import hashlib
import subprocess
from pathlib import Path


def sha256_of(*paths: Path) -> str:
    """Hash of the bytes of the files, in the order given, as 64 hex digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def made_from(folder: Path) -> dict[str, str]:
    """`git_state` of a working folder, and `lock_sha256`, the hash of its dvc.lock; `none` without one."""
    lock = folder / "dvc.lock"
    return {**git_state(folder), "lock_sha256": sha256_of(lock) if lock.is_file() else "none"}


def git_state(folder: Path) -> dict[str, str]:
    """`git_commit` and `git_dirty` (`true` or `false`) of the tree of `folder`; `none` outside of git."""
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    changes = _git(folder, "status", "--porcelain")
    if changes is None:
        return {"git_commit": "none", "git_dirty": "none"}
    return {"git_commit": commit or "none", "git_dirty": "true" if changes else "false"}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None where it fails, is missing, or there is nothing to say."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()

"""State of the checkout that made a result: its git commit, what is not committed, and its dvc.lock."""

import hashlib
import json
import os
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from videomar.config.layout import Layout
from videomar.errors import VideomarError
from videomar.files import sha256_of
from videomar.provenance.made_with import SUFFIX

_OURS = Layout()
# Outputs that may differ between equal results: costs, listings, and inputs that later outputs depend on.
_NO_RESULT = tuple(
    path.as_posix()
    for path in (_OURS.metrics, _OURS.plots, _OURS.listing, _OURS.named, _OURS.raw, _OURS.candidates)
)


def made_from(folder: Path) -> dict[str, str]:
    """`git_state` of a working folder, and `lock_sha256`, the hash of its dvc.lock; `none` without one."""
    lock = Layout(folder).lock
    return {**git_state(folder), "lock_sha256": sha256_of(lock) if lock.is_file() else "none"}


def git_state(folder: Path) -> dict[str, str]:
    """`git_commit` and `git_dirty` (`true` or `false`) of the tree of `folder`; `none` outside of git.

    Raises:
        VideomarError: git refuses to read the tree.
    """
    commit = git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    changes = git(folder, "status", "--porcelain")
    if changes is None:
        return {"git_commit": "none", "git_dirty": "none"}
    return {"git_commit": commit or "none", "git_dirty": "true" if changes else "false"}


def uncommitted_changes(folder: Path, recorded: Collection[str], lock: Path) -> list[str] | None:
    """Paths that differ from the commit, without those that a registered version keeps itself.

    A run of the pipeline writes dvc.lock, metrics and plots, which git tracks. They are no changes of the
    code, and dvc.lock lists them.

    Args:
        folder: Root of the tree.
        recorded: Files that are kept as evidence, such as params.yaml.
        lock: dvc.lock.

    Returns:
        Paths, or None outside of git.
    """
    status = git(folder, "status", "--porcelain", "-z", "--no-renames")
    if status is None:
        return None
    results = {lock.name, *recorded, *outputs_of(lock.read_text(encoding="utf-8"))}
    return sorted(path for line in status.split("\0") if (path := line[3:]) and path not in results)


def outputs_of(lock: str) -> dict[str, str]:
    """MD5 of each output that the text of a dvc.lock names, by path."""
    content = yaml.safe_load(lock)
    stages: Mapping[str, Any] = (content.get("stages") or {}) if isinstance(content, dict) else {}
    return {out["path"]: out.get("md5", "") for stage in stages.values() for out in stage.get("outs", [])}


def results_sha256(lock: Path) -> str:
    """Hash of the results in a dvc.lock.

    Hashes of code are not part of it: stages that ran again after a reworded comment, with equal results,
    make no other version.
    """
    outs = outputs_of(lock.read_text(encoding="utf-8")).items()
    results = [out for out in outs if not (out[0].startswith(_NO_RESULT) or out[0].endswith(SUFFIX))]
    return hashlib.sha256(json.dumps(sorted(results)).encode()).hexdigest() if results else sha256_of(lock)


def git(folder: Path, *arguments: str) -> str | None:
    """Output of git; None without git, outside of a repository, or where git has nothing to report.

    Raises:
        VideomarError: git refuses, as in a folder of another user: a missing commit must not go unnoticed.
    """
    try:
        done = _run(folder, arguments, os.environ)
    except OSError:
        return None
    if done.returncode and (not done.stderr.strip() or "not a git repository" in done.stderr):
        return None
    return _output(done, folder)


def run_git(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Run git in a folder and return its output.

    Args:
        folder: Working folder of git.
        arguments: Its command line.
        environment: Instead of that of this process.

    Raises:
        VideomarError: git fails.
    """
    return _output(_run(folder, arguments, os.environ if environment is None else environment), folder)


def _run(
    folder: Path, arguments: Sequence[str], environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    # In English, whatever the user's language: `git` reads the message.
    english = {**environment, "LC_ALL": "C", "LANGUAGE": "C"}
    return subprocess.run(
        ["git", *arguments], cwd=folder, env=english, capture_output=True, text=True, check=False
    )


def _output(done: subprocess.CompletedProcess[str], folder: Path) -> str:
    if done.returncode == 0:
        return done.stdout.strip("\n")
    message = " ".join(done.stderr.split())[-300:] or "no answer"
    todo = "look at the repository"
    if "dubious" in message:
        todo = f"`git config --global --add safe.directory '{folder.resolve()}'`"
    raise VideomarError(f"git {done.args[1]} in {folder.resolve()}: got {message}, expected success; {todo}")

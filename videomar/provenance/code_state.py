"""What a dvc.lock says was made, and whether the code that made it is the commit that it names."""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from videomar.files import sha256_of
from videomar.provenance.lineage import git
from videomar.provenance.made_with import SUFFIX

# Outputs that may differ between equal results: costs, listings, and what later outputs tell better.
_NO_RESULT = ("metrics/", "plots/", "data/clips.json", "data/named", "data/raw", "data/candidates.parquet")


def uncommitted_changes(folder: Path, recorded: Collection[str], lock: Path) -> list[str] | None:
    """Files that differ from the commit, but for those that a version keeps with itself.

    A run of the pipeline writes `dvc.lock`, metrics and plots, which are tracked: they are no changes of the
    code, and `dvc.lock` says which they are.

    Args:
        folder: Of the tree.
        recorded: Names of files that are kept as evidence, such as params.yaml.
        lock: dvc.lock.

    Returns:
        Paths, or None outside of git.
    """
    told = git(folder, "status", "--porcelain", "-z", "--no-renames")
    if told is None:
        return None
    results = {lock.name, *recorded, *outputs_of(lock.read_text(encoding="utf-8"))}
    return sorted(path for line in told.split("\0") if (path := line[3:]) and path not in results)


def results_sha256(lock: Path) -> str:
    """Hash of what the stages came to, whatever woke them: a reworded comment makes no other version."""
    outs = outputs_of(lock.read_text(encoding="utf-8")).items()
    results = [out for out in outs if not (out[0].startswith(_NO_RESULT) or out[0].endswith(SUFFIX))]
    return hashlib.sha256(json.dumps(sorted(results)).encode()).hexdigest() if results else sha256_of(lock)


def outputs_of(lock: str) -> dict[str, str]:
    """Sum of each output that a dvc.lock names, by its path."""
    outs = [out for stage in _stages(lock).values() for out in stage.get("outs", [])]
    return {out["path"]: out.get("md5", "") for out in outs}


def _stages(lock: str) -> dict[str, Any]:
    content = yaml.safe_load(lock)
    return (content.get("stages") or {}) if isinstance(content, dict) else {}

"""A checkout with git, DVC and a registry in which a tiny model is champion and reported."""

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import yaml

from tests.support.pipeline_outputs import REPOSITORY, write_outputs
from videomar.registry import release

PIPELINE = {
    "curate": {"cmd": "true", "deps": ["takedowns.csv"], "outs": ["data/ledger.parquet"]},
    "encode": {"cmd": "true", "deps": ["data/ledger.parquet"], "outs": ["data/latents"]},
    "train_tokenizer": {"cmd": "true", "outs": ["checkpoints/tokenizer"]},
    "train": {
        "cmd": "cp figures.json metrics/train.json",
        "deps": ["figures.json", "data/latents"],
        "params": ["gate"],
        "outs": [{"checkpoints/videomar": {"persist": True}}],
        "metrics": [{"metrics/train.json": {"cache": False}}],
    },
}
WHO = {
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@b",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@b",
}


def run(command: str) -> str:
    """What a command line prints, run in the working folder with the repository's code."""
    environment = {**os.environ, **WHO, "PYTHONPATH": str(REPOSITORY), "DVC_NO_ANALYTICS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        ["/bin/sh", "-ec", command], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout} {done.stderr}"
    return done.stdout


def make_checkout(root: Path) -> None:
    """Write everything below `root`, which is the working folder."""
    write_outputs(root)
    (root / ".venv").symlink_to(sys.prefix)
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": PIPELINE}, sort_keys=False))
    (root / "dvc.lock").unlink()
    (root / "takedowns.csv").write_text("video_sha256,video,reason,removed_at\n")
    shutil.copy(root / "metrics/train.json", root / "figures.json")
    (root / "requirements.lock").write_text(f"numpy=={metadata.version('numpy')}\n")
    ignored = ("/.venv", "/.local/", "/data/", "/checkpoints/", "/reports/", "/plots/")
    (root / ".gitignore").write_text("\n".join(ignored) + "\n")
    run("git init --quiet && .venv/bin/dvc init --quiet && .venv/bin/dvc commit --force --quiet")
    commit("first")
    number = release.register()
    release.decide(number)
    release.move_alias(number)
    release.report(number)


def commit(message: str) -> None:
    """Commit all files."""
    run(f"git add --all && git commit --quiet --message {message}")

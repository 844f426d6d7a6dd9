"""Train the weights that come with the package: `make base [HOURS=7] [TO=DIR]`.

The pipeline runs in a git work tree of its own (default: .local/base), with the present commit and the preset
`base`, so neither a later commit nor the checkout's own data get in its way. The same command again goes on
where the last one ended or was killed; when it is done, `make ship FROM=DIR` copies its champion.

With HOURS, the curriculum has as many steps as fit: this machine's speed is measured once, after the clips
are encoded, and the steps are written into the work tree's params.yaml, where they stay.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE))

from videomar.cli.project import BAD_IN_PATH  # noqa: E402
from videomar.config.edit import read_preset, round_trip, update_params  # noqa: E402
from videomar.config.layout import Layout  # noqa: E402
from videomar.errors import VideomarError  # noqa: E402
from videomar.files import write_json  # noqa: E402
from videomar.hub.shipped import FOLDER, ORIGIN  # noqa: E402
from videomar.processes import run_within  # noqa: E402
from videomar.provenance.checkout import git, run_git  # noqa: E402

PRESET, RECORD = "base", Path(".local/base.json")
"""The preset, and the file in the work tree that says it is one of ours, and what was measured."""
_WHERE = "base"
_HOUR_S = 3600.0
_BEFORE = ("samples", "ingest", "curate", "train_tokenizer", "encode")
"""Stages that have run when the steps are chosen; the metrics of later ones are still those of the commit."""
_SHOWN = ("sim_psnr_gain_db", "sim_i2v_psnr_gain_db", "real_psnr_gain_db", "real_i2v_psnr_gain_db")


def main() -> None:
    """Make the work tree if there is none, and run what is left of its pipeline."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", help="folder of the work tree; default: .local/base")
    parser.add_argument("--hours", type=str, help="time for all of it; default: the steps of the preset")
    given = parser.parse_args()
    hours = parse_hours(given.hours)
    folder = Path(given.to or HERE / ".local/base").resolve()
    make_tree(HERE, folder)
    _run(folder, "dvc", "repro", "encode")
    if hours is not None:
        set_steps(folder, hours, _planned_hours(folder))
    _run(folder, "dvc", "repro")
    _run(folder, "flows.release")
    print(*compare(folder), sep="\n")
    print(f"{_WHERE}: done; if it is better: make ship FROM={folder}")


def parse_hours(text: str | None) -> float | None:
    """Return the hours, None if none were given.

    Raises:
        VideomarError: it is no number above 0.
    """
    if not text:
        return None
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours < float("inf"):
        raise VideomarError(f"HOURS: got {text}, expected a number above 0; give hours of this machine")
    return hours


def make_tree(checkout: Path, folder: Path) -> None:
    """Make the work tree, whole or not at all; one that exists stays as it is.

    Raises:
        VideomarError: the folder holds something else, or the checkout is none of git.
    """
    if (folder / RECORD).is_file():
        print(f"{_WHERE}: goes on in {folder}")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise VideomarError(f"{folder}: got a folder with files, expected a new one; remove it, or set TO")
    if bad := sorted(set(re.findall(BAD_IN_PATH, str(folder)))):
        rule = "none of it in the path, because databases and scripts cannot handle it"
        raise VideomarError(f"{str(folder)!r}: got {' '.join(map(repr, bad))}, expected {rule}; set TO")
    commit = git(checkout, "rev-parse", "--verify", "--quiet", "HEAD")
    if commit is None:
        raise VideomarError(f"{checkout}: got no commit, expected a git checkout; the recipe is its commit")
    if git(checkout, "status", "--porcelain"):
        print(f"{_WHERE}: changes that are not committed are no part of it; it trains {commit[:12]}")
    draft = folder.with_name(f"{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    run_git(checkout, "worktree", "prune")
    # Twice: a draft that was killed may still be registered, and locked.
    run_git(checkout, "worktree", "add", "--force", "--force", "--quiet", "--detach", str(draft), commit)
    (draft / ".venv").symlink_to(sys.prefix, target_is_directory=True)
    update_params(draft / Layout().params, read_preset(draft / "presets", PRESET))
    (draft / RECORD).parent.mkdir(exist_ok=True)
    write_json(draft / RECORD, {"git_commit": commit, "preset": PRESET})
    if folder.is_dir():
        folder.rmdir()
    run_git(checkout, "worktree", "move", str(draft), str(folder))
    print(f"{_WHERE}: {folder}: a work tree of {commit[:12]} with the preset {PRESET}")


def set_steps(folder: Path, hours: float, planned: Mapping[str, float]) -> None:
    """Write the steps that fit into the hours into the work tree's params.yaml, once.

    Args:
        folder: The work tree, whose clips are encoded.
        hours: For all stages, those before included.
        planned: Hours of each stage with the steps as they are; empty if they are known already.

    Raises:
        VideomarError: no time is left for training.
    """
    record = json.loads((folder / RECORD).read_text("utf-8"))
    if "hours" in record:
        if record["hours"] != hours:
            was = f"the steps stay those of HOURS={record['hours']:g}, which training began with"
            print(f"{_WHERE}: {was}; for others set TO, or remove the folder")
        return
    metrics = [
        json.loads((folder / Layout().metrics / f"{stage}.json").read_text("utf-8")) for stage in _BEFORE
    ]
    spent = sum(float(each["seconds"]) for each in metrics) / _HOUR_S
    if (training := planned.get("train")) is None:
        raise VideomarError("plan: got no time of training, expected one; run again on an idle machine")
    after = sum(planned.get(stage, 0.0) for stage in ("sample", "evaluate"))
    left = hours - spent - after
    if left <= 0:
        rule = f"more than the {spent + after:.2f} that all but training takes"
        raise VideomarError(f"HOURS: got {hours:g}, expected {rule}; give more")
    path, factor = folder / Layout().params, left / training
    curriculum = round_trip().load(path.read_text("utf-8"))["train"]["curriculum"]
    update_params(path, {"train": {"curriculum": scaled(curriculum, factor)}})
    measured = {"hours": hours, "hours_before": spent, "hours_after": after, "planned": dict(planned)}
    write_json(folder / RECORD, {**record, **measured, "factor": factor})
    print(f"{_WHERE}: {left:.2f} hours of training are {factor:.2f} times the steps of the preset")


def scaled(curriculum: Sequence[dict[str, Any]], factor: float) -> Sequence[dict[str, Any]]:
    """Give each stage so many times its steps, in hundreds, and at least 100; return the stages."""
    for stage in curriculum:
        stage["steps"] = max(100, round(stage["steps"] * factor / 100) * 100)
    return curriculum


def compare(folder: Path) -> list[str]:
    """Return the new figures beside those of the model that is shipped today."""
    new = json.loads((folder / Layout().metrics / "evaluate.json").read_text("utf-8"))
    old = json.loads((FOLDER / ORIGIN).read_text("utf-8"))["metrics"] if (FOLDER / ORIGIN).is_file() else {}
    return [
        f"  {name}: {new[name]:+.2f} dB, shipped {old[name]:+.2f}, on its own test clips"
        if name in old
        else f"  {name}: {new[name]:+.2f} dB"
        for name in _SHOWN
        if name in new
    ]


def _planned_hours(folder: Path) -> dict[str, float]:
    """Hours of each stage by `videomar plan`; nothing where the steps are known."""
    if "hours" in json.loads((folder / RECORD).read_text("utf-8")):
        return {}
    command = [sys.executable, "-m", "videomar.cli", "plan", "--json"]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise VideomarError("plan: got no answer, expected the time of each stage; see above")
    stages = json.loads(done.stdout)["stages"]
    return {name: stage["hours"] for name, stage in stages.items() if stage["hours"] is not None}


def _run(folder: Path, *words: str) -> None:
    run_within(None, words[-1], [sys.executable, "-m", *words], folder)


if __name__ == "__main__":
    # The work tree's own modules, not those of this checkout.
    os.environ.pop("PYTHONPATH", None)
    try:
        main()
    except (VideomarError, OSError) as error:
        sys.exit(f"{_WHERE}: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit(f"{_WHERE}: stopped; the same command goes on from here")

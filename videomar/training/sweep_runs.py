"""One of several runs: a folder with checkpoints and identity of its own, which say how far it is."""

import json
import logging
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from videomar.checkpoint import folder as checkpoint
from videomar.config import Params
from videomar.files import read_log, write_json
from videomar.provenance.made_with import differing_keys
from videomar.training.run_folder import IDENTITY_FILE, archive_run, claim_run_folder, folder_owner
from videomar.training.state import run_summary
from videomar.training.sweep_comparison import FAILED, FINISHED, STOPPED, Outcome

STOPPED_FILE = "stopped.json"
_log = logging.getLogger(__name__)


class Run(NamedTuple):
    """A run that is to be trained, or has been."""

    name: str
    params: Params
    overrides: Mapping[str, Any]
    out: Path
    made_with: Mapping[str, Any]
    """See `identity.describe_run`."""

    @property
    def cpus(self) -> int:
        """Cores that it keeps busy."""
        return self.params.train.num_workers * self.params.train.threads_per_worker


def is_finished(run: Run) -> bool:
    """Whether the run's folder holds its last step, undamaged."""
    newest = checkpoint.newest_intact(run.out)
    if newest is None:
        return False
    manifest = checkpoint.read_manifest(newest)
    same = not differing_keys(run.made_with, manifest["made_with"])
    return same and len(manifest["progress"]["ends"]) == len(run.params.train.curriculum)


def note_stopped(run: Run) -> None:
    """Keep that the run was ended early because others were better: it is not taken up again."""
    write_json(run.out / STOPPED_FILE, run.made_with)


def was_stopped(run: Run) -> bool:
    """Whether the run, as it is asked for now, was ended early."""
    try:
        return not differing_keys(run.made_with, json.loads((run.out / STOPPED_FILE).read_text("utf-8")))
    except (FileNotFoundError, ValueError):
        return False


def archive_others(folder: Path, names: Collection[str]) -> None:
    """Set aside the runs in `folder` that are not asked for any more; one that is again is taken up there."""
    for file in sorted(folder.glob(f"*/{IDENTITY_FILE}")):
        theirs = folder_owner(file.parent)
        if file.parent.name not in names and theirs is not None:
            place = archive_run(file.parent, theirs)
            _log.warning("run %s is not asked for any more; it is set aside in %s", file.parent.name, place)


def outcome_of(run: Run, error: str = "") -> Outcome:
    """What became of a run that is not under way any more."""
    rows = read_log(run.out)
    figures = dict(rows[-1]) if rows else {}
    if checkpoint.latest(run.out):
        figures |= run_summary(run.out)
    state = FINISHED if is_finished(run) else STOPPED if was_stopped(run) else FAILED
    return Outcome(run.name, state, run.out, run.overrides, figures, error if state == FAILED else "")


def publish(run: Run, out: Path) -> None:
    """Make `out` the folder of this run as if it had been trained there; another run there is set aside.

    A process that is killed meanwhile leaves a folder that the next one mends.
    """
    claim_run_folder(out, run.made_with)
    if _newest_manifest(out) == _newest_manifest(run.out):
        return
    draft = out.with_name(f".{out.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(run.out, draft)
    shutil.rmtree(out)
    os.replace(draft, out)


def _newest_manifest(out: Path) -> Mapping[str, Any] | None:
    newest = checkpoint.newest_intact(out)
    return checkpoint.read_manifest(newest) if newest else None

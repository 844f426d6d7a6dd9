"""One of several runs: a folder with its own checkpoints and identity, which record how far it is.

All runs together are compared by a table with one row per run and by their curves: CSV files, a picture, and
on the terminal.
"""

import dataclasses
import json
import logging
import math
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from videomar import checkpoint
from videomar.files import atomic_write, read_log, write_json
from videomar.provenance.made_with import differing_keys
from videomar.training.launch import RunSpec
from videomar.training.run_folder import IDENTITY_FILE, archive_run, claim_run_folder, folder_owner
from videomar.training.state import run_summary

FINISHED, STOPPED, FAILED = "finished", "stopped early", "failed"
TABLE_FILE, CURVES_FILE, PICTURE_FILE = "runs.csv", "curves.csv", "curves.png"
STOPPED_FILE = "stopped.json"
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """A run to compare: what it trains and, once it is over, how it ended."""

    name: str
    spec: RunSpec
    overrides: Mapping[str, Any]
    """Its own values, by dotted key."""
    identity: Mapping[str, Any]
    """See `run_folder.describe_run`."""
    state: str = FAILED
    """How it ended, see `ended`."""
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Of the whole run, or the last row of the log if it did not finish."""
    error: str = ""

    @property
    def cpus(self) -> int:
        """Cores that it keeps busy."""
        return self.spec.params.train.fewest_workers * self.spec.params.train.threads_per_worker

    def is_finished(self) -> bool:
        """Return whether the run's folder holds its last step, undamaged."""
        newest = checkpoint.newest_intact(self.spec.out)
        if newest is None:
            return False
        manifest = checkpoint.read_manifest(newest)
        same = not differing_keys(self.identity, manifest["made_with"])
        return same and len(manifest["progress"]["ends"]) == len(self.spec.params.train.curriculum)

    def note_stopped(self) -> None:
        """Record that the run was stopped early because others were better, so that it is not resumed."""
        write_json(self.spec.out / STOPPED_FILE, self.identity)

    def was_stopped(self) -> bool:
        """Return whether the run, with its current parameters, was stopped early."""
        try:
            noted = json.loads((self.spec.out / STOPPED_FILE).read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return False
        return not differing_keys(self.identity, noted)

    def ended(self, error: str = "") -> "Run":
        """Return the run with state, metrics and error, once nothing trains it any more."""
        out = self.spec.out
        rows = read_log(out)
        metrics = dict(rows[-1]) if rows else {}
        if checkpoint.latest(out):
            metrics |= run_summary(out)
        state = FINISHED if self.is_finished() else STOPPED if self.was_stopped() else FAILED
        return dataclasses.replace(self, state=state, metrics=metrics, error=error if state == FAILED else "")

    def value(self, metric: str) -> float:
        """Return a metric to compare by; infinity if the run did not finish or has no such number."""
        found = self.metrics.get(metric, math.inf) if self.state == FINISHED else math.inf
        return found if math.isfinite(found) else math.inf


def archive_others(folder: Path, names: Collection[str]) -> None:
    """Archive the runs in `folder` that the parameters no longer name; each is restored if they do again."""
    for file in sorted(folder.glob(f"*/{IDENTITY_FILE}")):
        theirs = folder_owner(file.parent)
        if file.parent.name not in names and theirs is not None:
            archive = archive_run(file.parent, theirs)
            _log.warning("run %s is no longer in the parameters: archived in %s", file.parent.name, archive)


def publish(run: Run, out: Path) -> None:
    """Make `out` the folder of this run as if it had been trained there; another run there is archived.

    If the process is killed meanwhile, the next call completes the work.
    """
    claim_run_folder(out, run.identity)
    if _newest_manifest(out) == _newest_manifest(run.spec.out):
        return
    draft = out.with_name(f".{out.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(run.spec.out, draft)
    shutil.rmtree(out)
    os.replace(draft, out)


def _newest_manifest(out: Path) -> Mapping[str, Any] | None:
    newest = checkpoint.newest_intact(out)
    return checkpoint.read_manifest(newest) if newest else None


def write_comparison(folder: Path, runs: Sequence[Run], metric: str, best: int) -> list[Path]:
    """Write table, curves and picture; return these files.

    Args:
        folder: where they go.
        runs: all runs, at their ends.
        metric: column of the logs by which the runs are compared.
        best: number of the best run.
    """
    import pandas as pd
    from matplotlib.figure import Figure

    # As objects: a missing value must not turn the whole numbers of its column into fractions.
    table = pd.DataFrame([_row(run, metric, number == best) for number, run in enumerate(runs)], dtype=object)
    points = [point for run in runs for point in _curve(run, metric)]
    curves = pd.DataFrame(points, columns=["run", "step", "figure", "value"])
    paths = [folder / name for name in (TABLE_FILE, CURVES_FILE, PICTURE_FILE)]
    for path, frame in zip(paths, (table, curves), strict=False):
        with atomic_write(path) as draft:
            frame.to_csv(draft, index=False)
    picture = Figure(figsize=(8, 4.5), layout="constrained")
    axes = picture.subplots()
    for name, curve in curves.groupby("run", sort=False):
        axes.plot(curve["step"], curve["value"], marker=".", label=name)
    axes.set(xlabel="step", ylabel=metric)
    if points:
        axes.legend()
    picture.savefig(paths[2], dpi=120)
    return paths


def print_comparison(runs: Sequence[Run], metric: str, best: int) -> None:
    """Print the table, best run first."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("run", "", metric, "steps", "its own", title=f"training runs by {metric}, lowest first")
    for number, run in sorted(enumerate(runs), key=lambda item: item[1].value(metric)):
        row = _row(run, metric, number == best)
        value = f"{row['value']:.4f}" if isinstance(row["value"], float) else str(row["value"])
        cells = (
            run.name,
            "best" if number == best else run.state,
            value,
            str(row["steps"]),
            row["overrides"],
        )
        table.add_row(*(escape(cell) for cell in cells))
    Console().print(table)


def _row(run: Run, metric: str, is_best: bool) -> dict[str, Any]:
    own = ", ".join(f"{key}={json.dumps(value)}" for key, value in run.overrides.items())
    head = {"run": run.name, "state": run.state, "best": int(is_best), "figure": metric}
    values = {"value": run.metrics.get(metric, "")}
    values |= {name: run.metrics.get(name, "") for name in ("loss", "val_loss", "steps")}
    return head | values | {"overrides": own, "error": run.error}


def _curve(run: Run, metric: str) -> list[dict[str, Any]]:
    """Return the points of a run's curve; of the training loss if its log does not have the metric."""
    rows = read_log(run.spec.out)
    name = metric if any(metric in row for row in rows) else "loss"
    return [
        {"run": run.name, "step": row["step"], "figure": name, "value": row[name]}
        for row in rows
        if name in row
    ]

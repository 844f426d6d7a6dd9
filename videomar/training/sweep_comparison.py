"""Runs beside each other: a table of one row a run and their curves, as CSV, a picture, and on the screen."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from videomar.files import atomic_write, read_log

FINISHED, STOPPED, FAILED = "finished", "stopped early", "failed"
TABLE_FILE, CURVES_FILE, PICTURE_FILE = "runs.csv", "curves.csv", "curves.png"


class Outcome(NamedTuple):
    """What became of a run."""

    name: str
    state: str
    out: Path
    overrides: Mapping[str, Any]
    """What it has of its own, by dotted key."""
    figures: Mapping[str, float]
    """Of the run so far; the last of the log, where they are not of the whole run."""
    error: str = ""

    def value(self, figure: str) -> float:
        """A figure to be compared by; infinite where the run did not finish or has no such number."""
        found = self.figures.get(figure, math.inf) if self.state == FINISHED else math.inf
        return found if math.isfinite(found) else math.inf


def write_comparison(folder: Path, outcomes: Sequence[Outcome], figure: str, best: int) -> list[Path]:
    """Write table, curves and picture; returns these files.

    Args:
        folder: where they go.
        outcomes: of all runs.
        figure: of the logs, that the runs are compared by.
        best: number of the best run.
    """
    table = [_row(outcome, figure, number == best) for number, outcome in enumerate(outcomes)]
    curves = [row for outcome in outcomes for row in _curve(outcome, figure)]
    paths = [folder / name for name in (TABLE_FILE, CURVES_FILE, PICTURE_FILE)]
    _write(paths[0], table, list(table[0]))
    _write(paths[1], curves, ["run", "step", "figure", "value"])
    _draw(paths[2], curves, figure)
    return paths


def show(outcomes: Sequence[Outcome], figure: str, best: int) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("run", "", figure, "steps", "its own", title=f"training runs by {figure}, lowest first")
    numbered = sorted(enumerate(outcomes), key=lambda item: item[1].value(figure))
    for number, outcome in numbered:
        row = _row(outcome, figure, number == best)
        state = "best" if number == best else outcome.state
        cells = (outcome.name, state, _short(row["value"]), str(row["steps"]), row["overrides"])
        table.add_row(*(escape(cell) for cell in cells))
    Console().print(table)


def _row(outcome: Outcome, figure: str, is_best: bool) -> dict[str, Any]:
    own = ", ".join(f"{key}={json.dumps(value)}" for key, value in outcome.overrides.items())
    return {
        "run": outcome.name,
        "state": outcome.state,
        "best": int(is_best),
        "figure": figure,
        "value": outcome.figures.get(figure, ""),
        "loss": outcome.figures.get("loss", ""),
        "val_loss": outcome.figures.get("val_loss", ""),
        "steps": outcome.figures.get("steps", ""),
        "overrides": own,
        "error": outcome.error,
    }


def _curve(outcome: Outcome, figure: str) -> list[dict[str, Any]]:
    """Points of a run; of the training loss where the log does not have the figure."""
    rows = read_log(outcome.out)
    name = figure if any(figure in row for row in rows) else "loss"
    return [
        {"run": outcome.name, "step": row["step"], "figure": name, "value": row[name]}
        for row in rows
        if name in row
    ]


def _write(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    with atomic_write(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=columns)
        writer.writeheader()
        writer.writerows(rows)


def _draw(path: Path, curves: Sequence[Mapping[str, Any]], figure: str) -> None:
    from matplotlib.figure import Figure

    picture = Figure(figsize=(8, 4.5), layout="constrained")
    axes = picture.subplots()
    for name in dict.fromkeys(point["run"] for point in curves):
        points = [point for point in curves if point["run"] == name]
        axes.plot([p["step"] for p in points], [p["value"] for p in points], marker=".", label=name)
    axes.set(xlabel="step", ylabel=figure)
    if curves:
        axes.legend()
    picture.savefig(path, dpi=120)


def _short(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)

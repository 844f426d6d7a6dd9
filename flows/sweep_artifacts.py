"""What the Prefect pages show of a sweep: its runs in a table, their curves, where to read on."""

import csv
import json
from pathlib import Path

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.artifacts import mlflow_link
from flows.pictures import show_curves

_TABLE = "plots/train_runs.csv"
_RUNS = "checkpoints/videomar.runs"


def show_sweep(folder: Path, name: str) -> str:
    """Show what a sweep left in a folder; gives the best run and its figure in words."""
    with (folder / _TABLE).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    create_table_artifact(key="runs", table=rows, description="Runs of this sweep")
    show_curves(folder / _RUNS / "curves.png")
    run_id = json.loads((folder / _RUNS / "run.json").read_text("utf-8")).get("run_id")
    best = next(row for row in rows if row["best"] == "1")
    told = f"best of {len(rows)} runs: {best['run']} with {best['figure']} {float(best['value']):.4f}"
    lines = [
        f"# {name}",
        told,
        f"**Its own:** `{best['overrides']}`",
        f"**MLflow:** {mlflow_link(run_id or 'unknown')}",
        f"**Take it:** `dvc exp apply {name}` in the checkout changes params.yaml, dvc.lock and the model to "
        "these; the flow `retrain` then brings it before the gate.",
    ]
    create_markdown_artifact(key="sweep", markdown="\n\n".join(lines), description=told)
    return told

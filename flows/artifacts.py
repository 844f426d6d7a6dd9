"""What the Prefect pages show of a flow run: tables, the gate's decision, pictures, links."""

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact

from videomar.config.layout import Layout
from videomar.environment import read_services
from videomar.evaluation.generated import read_generated
from videomar.registry.champion import alias_history
from videomar.registry.versions import Version, version_of
from videomar.tracking.mlflow_store import experiment_id, open_client

_CLIPS, _FRAMES = 4, 6
_KINDS = ("truth", "continuation")
_MAX_WIDTH_PX = 1536


def show_stages(
    seconds: Mapping[str, float], before: Mapping[str, object], after: Mapping[str, object]
) -> None:
    """Show a table of stages: seconds taken, and whether the stage's entry in dvc.lock changed.

    Args:
        seconds: For each stage that was started; -1 if it did not finish.
        before: Entries of dvc.lock before the run.
        after: Entries of dvc.lock after the run.
    """
    rows = []
    for stage, taken in seconds.items():
        finished = taken >= 0
        result = "as before" if before.get(stage) == after.get(stage) else "new results"
        rows.append(
            {
                "stage": stage,
                "result": result if finished else "did not end",
                "seconds": f"{taken:.1f}" if finished else "",
            }
        )
    create_table_artifact(key="stages", table=rows, description="Stages of this run")


def show_release(number: str, decision: str, champion: str, report: Path) -> None:
    """Show the gate's decision, the champion, and links to the report and to MLflow."""
    version = version_of(number)
    lines = [f"# {version}", decision, f"**Champion:** {champion}", f"**Report:** `{report.resolve()}`"]
    lines.append(f"**MLflow:** {_mlflow_link(version.run_id)}")
    create_markdown_artifact(key="release", markdown="\n\n".join(lines), description=str(version))


def show_history() -> None:
    """Show a table of every move of the alias `champion`, the newest first."""
    if rows := alias_history().rows:
        create_table_artifact(key="champion-history", table=rows, description="Moves of the alias champion")


def show_metrics(
    version: Version, metrics: Mapping[str, float], folder: Path, differences: Sequence[str]
) -> None:
    """Show a table of a version's metrics, the folder of its clips, and what makes them incomparable."""
    rows = [{"figure": name, "value": value} for name, value in metrics.items()]
    comparable = (
        f"not comparable with metrics/evaluate.json: {'; '.join(differences)}"
        if differences
        else "comparable"
    )
    description = f"{version}; files in {folder.resolve()}; {comparable}"
    create_table_artifact(key="evaluation", table=rows, description=description)


def show_sweep(folder: Path, name: str) -> str:
    """Show the runs of a sweep, their curves and how to take the best; return the best run in words."""
    layout = Layout(folder)
    with (layout.plots / "train_runs.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    create_table_artifact(key="runs", table=rows, description="Runs of this sweep")
    with Image.open(layout.sweep_runs / "curves.png") as curves:
        _show_image(curves.convert("RGB"), "curves", "The runs' curves")
    run_id = json.loads((layout.sweep_runs / "run.json").read_text("utf-8")).get("run_id")
    best = next(row for row in rows if row["best"] == "1")
    summary = f"best of {len(rows)} runs: {best['run']} with {best['figure']} {float(best['value']):.4f}"
    lines = [
        f"# {name}",
        summary,
        f"**Its overrides:** `{best['overrides']}`",
        f"**MLflow:** {_mlflow_link(run_id or 'unknown')}",
        f"**Use it:** `dvc exp apply {name}` in the checkout replaces params.yaml, dvc.lock and the model by "
        "these; the flow `retrain` then has the gate judge them.",
    ]
    create_markdown_artifact(key="sweep", markdown="\n\n".join(lines), description=summary)
    return summary


def show_clips(generated: Path) -> None:
    """Show frames of the first held-out clips: each truth with the model's continuation below it."""
    clips = [kinds for kinds in read_generated(generated) if all(kind in kinds for kind in _KINDS)]
    if not clips:
        return
    rows = [_strip(kinds[kind].frames) for kinds in clips[:_CLIPS] for kind in _KINDS]
    width = max(row.width for row in rows)
    sheet = Image.new("RGB", (width, sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    scale = min(1.0, _MAX_WIDTH_PX / width)
    sheet = sheet.resize((round(width * scale), round(sheet.height * scale)))
    _show_image(sheet, "clips", "Held-out clips: the truth, and below it the model's continuation")


def _strip(frames: np.ndarray) -> Image.Image:
    """Some of the frames (F, H, W, 3), from the first to the last, side by side."""
    chosen = np.linspace(0, len(frames) - 1, min(_FRAMES, len(frames))).round().astype(int)
    return Image.fromarray(np.concatenate(list(frames[chosen]), axis=1))


def _show_image(image: Image.Image, key: str, description: str) -> None:
    """Show an image as a data: address, because the pages must work without a file server or a network."""
    file = io.BytesIO()
    image.save(file, "WEBP", quality=80)
    address = "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
    create_image_artifact(image_url=address, key=key, description=description)


def _mlflow_link(run_id: str) -> str:
    """Address of a run in the pages of `make up`, or its id while MLflow's server is down."""
    address = read_services().get("services", {}).get("mlflow", {}).get("address")
    if address is None:
        return f"run `{run_id}` (`make up` starts its pages)"
    # With the mode of training in the address, MLflow's navigation has its models.
    where = f"experiments/{experiment_id(open_client())}/runs/{run_id}"
    return f"{address}/#/{where}?workflowType=machine_learning"

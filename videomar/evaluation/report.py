"""The report: one HTML file that holds all it shows and asks nothing of a network.

Every text from outside (captions, file names, prompts, reasons) passes through the template's escaping.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from videomar.errors import DataError
from videomar.evaluation.charts import Line, line_chart, smooth
from videomar.evaluation.contents import read_contents
from videomar.evaluation.films import LABELS, Reel, ReelPlan, make_reel
from videomar.evaluation.metrics import GROUPS, ClipKinds, read_generated
from videomar.evaluation.tables import (
    figure_rows,
    gate_intervals,
    headline_rows,
    judged_groups,
    read_metrics,
    stage_costs,
)

PACKAGES = ("torch", "mlflow", "ray", "dvc", "prefect", "numpy", "pyarrow")

REELS = (
    ReelPlan(
        "Continuing a simulated clip",
        "Two latent frames (5 pixel frames) given.",
        "simulated",
        "continuation",
    ),
    ReelPlan(
        "One picture and a prompt, simulated",
        "The prompt decides how the picture moves. Beside it, the same picture with a wrong prompt.",
        "simulated",
        "image",
        ("image_wrong_prompt",),
    ),
    ReelPlan("Continuing a real clip", "Two latent frames (5 pixel frames) given.", "real", "continuation"),
    ReelPlan("One picture, real", "One picture and the clip's caption, if it has one.", "real", "image"),
)
TOKENIZER_REELS = tuple(
    ReelPlan(f"{name} clips", "", group, "tokenizer", repeat=False)
    for name, group in (("Simulated", "simulated"), ("Real", "real"))
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportSources:
    """Files of the pipeline that the report reads."""

    ledger: Path
    generated: Path
    metrics: Path
    """Folder of one JSON file a stage."""
    plots: Path
    """Folder of train.csv, tokenizer.csv and quality_by_frame.csv."""
    credits: Path
    """Text file whose lines name the makers of the clips shown; may be missing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """What the release flow knows about the candidate."""

    candidate: str
    champion: str
    """The champion after the decision, or why there is none."""
    decision: Mapping[str, Any] | None
    """`promote`, `reasons` and `figures` of the gate; None before it has decided."""
    lineage: Mapping[str, str]
    """Commit, hashes, dates: shown as they are."""


def write_report(out: Path, sources: ReportSources, release: Release) -> None:
    """Write the report to `out`.

    Raises:
        DataError: a file of the pipeline is missing or damaged.
    """
    metrics = read_metrics(sources.metrics)
    figures = metrics.get("evaluate", {})
    clips = read_generated(sources.generated)
    html = _template().render(
        release=release,
        headlines=headline_rows(figures),
        figures=figure_rows(figures),
        groups=judged_groups(figures),
        intervals=gate_intervals(release.decision),
        reels=_reels(clips, REELS),
        tokenizer_reels=_reels(clips, TOKENIZER_REELS),
        quality_charts=_quality_charts(_read_csv(sources.plots / "quality_by_frame.csv")),
        training_charts=_training_charts(_read_csv(sources.plots / "train.csv")),
        tokenizer_charts=_tokenizer_charts(_read_csv(sources.plots / "tokenizer.csv")),
        contents=read_contents(sources.ledger),
        stages=stage_costs(metrics),
        versions=installed_versions(),
        credits=sources.credits.read_text().splitlines() if sources.credits.is_file() else [],
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    temporary.write_text(html, encoding="utf-8")
    os.replace(temporary, out)


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that did the work."""
    installed = {dist.name.lower() for dist in metadata.distributions()}
    return {
        "python": python_version(),
        **{name: metadata.version(name) for name in PACKAGES if name in installed},
    }


def _template() -> Template:
    """The page, with escaping on and every missing name an error."""
    folder = FileSystemLoader(Path(__file__).parent)
    pages = Environment(
        loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return pages.get_template("report.html.jinja")


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file, expected a stage's curve; run `dvc repro`") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: got {error}, expected a stage's curve; run `dvc repro`") from None


def _reels(clips: Sequence[ClipKinds], plans: Sequence[ReelPlan]) -> list[Reel]:
    made = (make_reel(clips, plan) for plan in plans)
    return [reel for reel in made if reel is not None]


def _quality_charts(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Per group: continuation, and picture and prompt, by frame."""
    charts = []
    for group in (group for group in GROUPS if group in set(table["group"])):
        for kind, title in (("continuation", "continuation"), ("image", "from one picture")):
            rows = table[(table["group"] == group) & (table["kind"] == kind)]
            wrong = table[(table["group"] == group) & (table["kind"] == f"{kind}_wrong_prompt")]
            lines = [
                Line("tokenizer (ceiling)", "tokenizer", rows["frame"], rows["tokenizer_db"]),
                Line("model", "image", rows["frame"], rows["model_db"]),
                Line("wrong prompt", "image_wrong_prompt", wrong["frame"], wrong["model_db"]),
                Line(LABELS["repeat"], "repeat", rows["frame"], rows["repeat_db"]),
            ]
            charts.append({"title": f"{group}, {title}", "svg": line_chart(lines, "frame", "PSNR, dB")})
    return charts


def _training_charts(table: pd.DataFrame) -> list[Any]:
    marks = []
    if "stage" in table:
        marks = table.loc[table["stage"].ne(table["stage"].shift()), "step"].tolist()[1:]
    loss = [
        Line("each record", "faint", table["step"], table["loss"]),
        Line("running mean", "image", table["step"], smooth(table["loss"].tolist())),
    ]
    charts = [line_chart(loss, "step", "training loss", marks)]
    if "learning_rate" in table:
        rate = [Line("", "image", table["step"], table["learning_rate"])]
        charts.append(line_chart(rate, "step", "learning rate", marks))
    return charts


def _tokenizer_charts(table: pd.DataFrame) -> list[Any]:
    names = {"loss": "tokenizer loss", "psnr_db": "tokenizer PSNR, dB"}
    return [
        line_chart([Line("", "tokenizer", table["step"], table[column])], "step", name)
        for column, name in names.items()
        if column in table
    ]

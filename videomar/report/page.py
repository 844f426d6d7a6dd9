"""The report: one HTML file that holds all it shows and asks nothing of a network.

Every text from outside (captions, file names, prompts, reasons) passes through the template's escaping, and
none of it ever stands in the page's script.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from videomar.evaluation.fingerprint import read_details, why_incomparable
from videomar.evaluation.generated import ClipKinds, read_generated
from videomar.files import atomic_write
from videomar.report.compare import Comparison, compare_with_baselines, compare_with_champion
from videomar.report.contents import read_contents
from videomar.report.curves import quality_charts, read_curve, tokenizer_charts, training_charts
from videomar.report.facts import fingerprint_lines, phases_of, skipped_lines
from videomar.report.galleries import (
    PLANS,
    TOKENIZER_PLANS,
    Opponent,
    baseline_reels,
    duel_reels,
    example_reels,
    failure_reels,
    stretched_reels,
)
from videomar.report.panels import metric_panels
from videomar.report.score_table import read_scores
from videomar.report.strips import Reel
from videomar.report.tables import (
    gate_intervals,
    headline_rows,
    judged_groups,
    read_metrics,
    set_figures,
    stage_costs,
)

PACKAGES = ("torch", "mlflow", "ray", "dvc", "prefect", "numpy", "pyarrow")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportSources:
    """Files of the pipeline that the report reads."""

    ledger: Path
    generated: Path
    evaluation: Path
    """Scores by clip and kind."""
    facts: Path
    """The suite's JSON; may be missing."""
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
    opponent: Opponent | None = None
    """The champion that the candidate met; None where there was none: then it meets the baselines."""


@dataclass(frozen=True, slots=True)
class Duel:
    """The candidate against the champion, or against the baselines."""

    rival: str
    comparisons: list[Comparison]
    reels: list[Reel]
    """By the titles of comparisons, where there is one."""
    refused: list[str]
    """Why the two may not be compared; then nothing is."""


def write_report(out: Path, sources: ReportSources, release: Release) -> None:
    """Write the report to `out`.

    Raises:
        DataError: a file of the pipeline is missing or damaged.
    """
    html = _template().render(
        release=release, **_about_model(sources, release), **_about_pipeline(sources, release)
    )
    with atomic_write(out) as draft:
        draft.write_text(html, encoding="utf-8")


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that did the work."""
    installed = {dist.name.lower() for dist in metadata.distributions()}
    return {
        "python": python_version(),
        **{name: metadata.version(name) for name in PACKAGES if name in installed},
    }


def _about_model(sources: ReportSources, release: Release) -> dict[str, Any]:
    """The template's names for what the candidate can do."""
    clips, rows = read_generated(sources.generated), read_scores(sources.evaluation)
    facts, by_frame = read_details(sources.facts), read_curve(sources.plots / "quality_by_frame.csv")
    duel = _duel(clips, rows, facts, release.opponent)
    reels = example_reels(clips, PLANS) + stretched_reels(clips)
    tokenizer_reels = example_reels(clips, TOKENIZER_PLANS)
    failures = failure_reels(clips, rows)
    return {
        "duel": duel,
        "reels": reels,
        "tokenizer_reels": tokenizer_reels,
        "failures": failures,
        "strips": _strips([*duel.reels, *reels, *tokenizer_reels, *(each.reel for each in failures)]),
        "panels": metric_panels(rows),
        "quality_charts": quality_charts(by_frame),
        "has_bands": "model_low" in by_frame,
        "sets": set_figures(read_metrics(sources.metrics).get("evaluate", {}), facts),
        "skipped": skipped_lines(facts),
        "phases": phases_of(facts),
        "fingerprint": fingerprint_lines(facts),
    }


def _about_pipeline(sources: ReportSources, release: Release) -> dict[str, Any]:
    """The template's names for how the candidate came about."""
    metrics = read_metrics(sources.metrics)
    figures = metrics.get("evaluate", {})
    return {
        "headlines": headline_rows(figures),
        "groups": judged_groups(figures),
        "intervals": gate_intervals(release.decision),
        "training_charts": training_charts(read_curve(sources.plots / "train.csv")),
        "tokenizer_charts": tokenizer_charts(read_curve(sources.plots / "tokenizer.csv")),
        "contents": read_contents(sources.ledger),
        "stages": stage_costs(metrics),
        "versions": installed_versions(),
        "credits": sources.credits.read_text("utf-8").splitlines() if sources.credits.is_file() else [],
    }


def _duel(
    clips: list[ClipKinds], rows: pd.DataFrame, facts: Mapping[str, Any], opponent: Opponent | None
) -> Duel:
    if opponent is None:
        return Duel("the baselines", compare_with_baselines(rows), baseline_reels(clips, rows), [])
    refused = why_incomparable(facts, read_details(opponent.facts))
    if refused:
        return Duel(opponent.name, [], [], refused)
    compared = compare_with_champion(rows, opponent.rows)
    return Duel(opponent.name, compared, duel_reels(clips, rows, opponent), [])


def _strips(reels: Iterable[Reel]) -> dict[str, str]:
    """CSS class by the address of a strip, so that a film shown twice is in the page once."""
    films = (film for reel in reels for card in reel.cards for film in card.films)
    return {address: f"s{number}" for number, address in enumerate(dict.fromkeys(f.strip for f in films))}


def _template() -> Template:
    """The page, with escaping on and every missing name an error."""
    folder = FileSystemLoader(Path(__file__).parent / "templates")
    pages = Environment(
        loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return pages.get_template("report.html.jinja")

"""The report: one HTML file that contains all it shows and loads nothing over a network.

Every text from outside (captions, file names, prompts, reasons) passes through the template's escaping, and
none of it is ever part of the page's script.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from videomar.config.layout import Layout
from videomar.evaluation.fingerprint import read_details, why_incomparable
from videomar.evaluation.generated import ClipKinds, read_generated
from videomar.files import atomic_write
from videomar.report.baseline_table import baseline_tables
from videomar.report.charts import quality_charts, read_curve, tokenizer_charts, training_charts
from videomar.report.compare import compare_with_baselines, compare_with_champion, metric_panels
from videomar.report.family import Relative, family_table
from videomar.report.galleries import (
    PLANS,
    TOKENIZER_PLANS,
    Gallery,
    Opponent,
    baseline_galleries,
    duel_galleries,
    example_galleries,
    failure_galleries,
    stretched_galleries,
    world_galleries,
)
from videomar.report.ledger_sheet import summarise_ledger
from videomar.report.new_clips import NewClips, changed_by_new_clips
from videomar.report.score_table import long_table, of_same_truth, read_scores
from videomar.report.tables import (
    caption_lines,
    evaluation_phases,
    fingerprint_lines,
    gate_intervals,
    headlines,
    judged_clips,
    judged_groups,
    read_metrics,
    set_metrics,
    skipped_lines,
    stage_costs,
)

PACKAGES = ("torch", "mlflow", "ray", "dvc", "prefect", "numpy", "pyarrow")


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """What the release flow knows of the candidate."""

    candidate: str
    champion: str
    """The champion after the decision, or why there is none."""
    decision: Mapping[str, Any] | None
    """`promote`, `reasons` and `figures` of the gate; None before it has decided."""
    lineage: Mapping[str, str]
    """Commit, hashes and dates, shown as they are."""
    opponent: Opponent | None = None
    """The champion that the candidate met; None = none, and the candidate is compared with the baselines."""
    relatives: Sequence[Relative] = ()
    """Models that its weights come from, and one trained from nothing beside a fine-tuned one."""


def write_report(out: Path, layout: Layout, credits: Path, release: Release) -> None:
    """Write the report of a pipeline folder.

    Args:
        out: The HTML file.
        layout: Has the ledger, generated clips, scores, metrics and curves.
        credits: Text file that names the authors of the clips, one per line; may be missing.
        release: The candidate.

    Raises:
        DataError: a file of the pipeline is missing or damaged.
    """
    html = _template().render(
        release=release,
        credits=credits.read_text("utf-8").splitlines() if credits.is_file() else [],
        **_about_model(layout, release),
        **_about_pipeline(layout, release),
    )
    with atomic_write(out) as draft:
        draft.write_text(html, encoding="utf-8")


def changed_since_champion(layout: Layout, opponent: Opponent | None) -> NewClips | None:
    """What new clips changed, see `changed_by_new_clips`; None without a champion or a new video."""
    if opponent is None:
        return None
    rows, details = read_scores(layout.evaluation), read_details(layout.evaluation_details)
    comparable = not why_incomparable(details, read_details(opponent.details))
    theirs = long_table(of_same_truth(opponent.rows, rows) if comparable else opponent.rows.head(0))
    return changed_by_new_clips(opponent.since, long_table(rows), theirs)


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the main packages."""
    versions = {"python": python_version()}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _about_model(layout: Layout, release: Release) -> dict[str, Any]:
    """The template's variables about what the candidate can do."""
    clips, rows = read_generated(layout.generated), read_scores(layout.evaluation)
    details, by_frame = (
        read_details(layout.evaluation_details),
        read_curve(layout.plots / "quality_by_frame.csv"),
    )
    scores = long_table(rows)
    duel = _duel(clips, rows, scores, details, release.opponent)
    galleries = example_galleries(clips, PLANS) + stretched_galleries(clips) + world_galleries(clips)
    tokenizer_galleries = example_galleries(clips, TOKENIZER_PLANS)
    failures = failure_galleries(clips, scores)
    of_failures = [gallery for _, gallery in failures]
    return {
        "duel": duel,
        "new_clips": changed_since_champion(layout, release.opponent),
        "galleries": galleries,
        "tokenizer_galleries": tokenizer_galleries,
        "failures": failures,
        "strip_classes": _strip_classes([*duel["galleries"], *galleries, *tokenizer_galleries, *of_failures]),
        "panels": metric_panels(scores),
        "quality_charts": quality_charts(by_frame),
        "has_bands": "model_low" in by_frame,
        "sets": set_metrics(read_metrics(layout.metrics).get("evaluate", {}), details),
        "skipped": skipped_lines(details),
        "phases": evaluation_phases(details),
        "fingerprint": fingerprint_lines(details),
    }


def _about_pipeline(layout: Layout, release: Release) -> dict[str, Any]:
    """The template's variables about how the candidate was made."""
    metrics = read_metrics(layout.metrics)
    of_evaluation = metrics.get("evaluate", {})
    return {
        "headlines": headlines(of_evaluation),
        "baselines": baseline_tables(of_evaluation),
        "family": family_table(of_evaluation, release.relatives),
        "groups": judged_groups(of_evaluation),
        "judged": judged_clips(of_evaluation),
        "intervals": gate_intervals(release.decision),
        "training_charts": training_charts(read_curve(layout.plots / "train.csv")),
        "tokenizer_charts": tokenizer_charts(read_curve(layout.plots / "tokenizer.csv")),
        "ledger": summarise_ledger(layout.ledger),
        "captions": caption_lines(metrics, layout),
        "stages": stage_costs(metrics),
        "versions": installed_versions(),
    }


def _duel(
    clips: list[ClipKinds],
    rows: pd.DataFrame,
    scores: pd.DataFrame,
    details: Mapping[str, Any],
    opponent: Opponent | None,
) -> dict[str, Any]:
    """The candidate against the champion or the baselines: `rival`, `comparisons`, `galleries`, `refused`.

    `refused` says why the two may not be compared; then nothing is.
    """
    if opponent is None:
        compared, galleries = compare_with_baselines(scores), baseline_galleries(clips)
        return {"rival": "the baselines", "comparisons": compared, "galleries": galleries, "refused": []}
    refused = why_incomparable(details, read_details(opponent.details))
    if refused:
        return {"rival": opponent.name, "comparisons": [], "galleries": [], "refused": refused}
    champion = long_table(of_same_truth(opponent.rows, rows))
    compared = compare_with_champion(scores, champion)
    galleries = duel_galleries(clips, scores, champion, opponent)
    return {"rival": opponent.name, "comparisons": compared, "galleries": galleries, "refused": []}


def _strip_classes(galleries: Iterable[Gallery]) -> dict[str, str]:
    """CSS class by the address of a strip; each strip is in the page once, however often it is shown."""
    addresses = dict.fromkeys(
        strip.address for gallery in galleries for card in gallery.cards for strip in card.strips
    )
    return {address: f"s{number}" for number, address in enumerate(addresses)}


def _template() -> Template:
    """The page's template, with escaping on; a missing variable is an error."""
    folder = FileSystemLoader(Path(__file__).parent / "templates")
    pages = Environment(
        loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return pages.get_template("report.html.jinja")

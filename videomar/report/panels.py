"""Every metric of a task on a scale of its own, with the model and its baselines as dots: better is right."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from videomar.evaluation.metrics.catalogue import Metric
from videomar.report.score_table import (
    CHIEF,
    Task,
    badness,
    kinds_of,
    metrics_of,
    number,
    tasks_of,
    values_of,
)
from videomar.report.strips import label_of, part_of


@dataclass(frozen=True, slots=True)
class Mark:
    """Whose mean it is, and where it stands, percent from the left; text for the table."""

    label: str
    look: str
    text: str
    place: float


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One metric of one task."""

    name: str
    chief: bool
    unit: str
    explanation: str
    better: str
    marks: Sequence[Mark]
    """The model's last, so that it is drawn over the others."""
    text: str
    """The model's mean."""
    n: int
    """Clips in it."""


@dataclass(frozen=True, slots=True)
class Panel:
    """All metrics of one task."""

    title: str
    rows: Sequence[MetricRow]
    kinds: Sequence[tuple[str, str]]
    """Label and look of everything that has a mark, the model first."""

    def cell(self, row: MetricRow, look: str) -> str:
        """The table's text: a row's mean of the kind with that look; a dash where it has none."""
        return next((mark.text for mark in row.marks if mark.look == look), "–")


def metric_panels(rows: pd.DataFrame) -> list[Panel]:
    """A panel for each task that the model was asked."""
    return [_panel(rows, task) for task in tasks_of(rows)]


def _panel(rows: pd.DataFrame, task: Task) -> Panel:
    kinds = dict(kinds_of(rows, task))
    made = [_row(metric, kinds, task) for metric in metrics_of(rows)]
    metric_rows = [row for row in made if row is not None]
    looks = {mark.look: mark.label for row in metric_rows for mark in reversed(row.marks)}
    return Panel(task.title, metric_rows, [(label, look) for look, label in looks.items()])


def _row(metric: Metric, kinds: dict[str, pd.DataFrame], task: Task) -> MetricRow | None:
    """None where the model has no value of it."""
    values = {kind: values_of(table, metric) for kind, table in kinds.items()}
    means = pd.Series({kind: float(of_kind.mean()) for kind, of_kind in values.items() if len(of_kind)})
    if task.kind not in means:
        return None
    goodness = means if metric.better == "neither" else -badness(means, metric)
    low, span = float(goodness.min()), float(goodness.max() - goodness.min())
    marks = [
        Mark(
            label_of(kind),
            "model" if kind == task.kind else part_of(kind),
            number(mean),
            3 + 94 * (float(goodness[kind]) - low) / span if span > 0 else 50.0,
        )
        for kind, mean in means.items()
    ]
    text = marks[list(means.index).index(task.kind)].text
    ordered = sorted(marks, key=lambda mark: mark.look == "model")
    return MetricRow(
        metric.name,
        metric.key in CHIEF,
        metric.unit,
        metric.explanation,
        metric.better,
        ordered,
        text,
        len(values[task.kind]),
    )

"""Where a whole `make run` spent its time, from what it left in its checkout, and what was no stage's work.

    set-up | flows.reproduce -> DVC -> [stage: start, work] ... -> DVC | flows.release: Prefect, steps

A stage's start is that of its interpreter and its imports. What is left of `flows.reproduce` between stages
is DVC, which hashes, copies to its cache and writes dvc.lock. In training all but the time of the runs in
MLflow is overhead, too: Ray, its workers, MLflow's start. Encoding starts Ray once, for which the measured
seconds count.
"""

import contextlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from videomar.config.layout import Layout
from videomar.provenance.run_times import RELEASE, RUN, STEPS, Span, read_run_times

_ON_RAY = ("encode", "train")


class Row(NamedTuple):
    """A part of a run, in seconds."""

    part: str
    total_s: float
    overhead_s: float
    why: str = ""
    """What the overhead is."""


def rows_of(folder: Path, ray_s: float) -> list[Row]:
    """Parts of the longest noted run in a checkout, in their order; none where no whole run is noted.

    Args:
        folder: the checkout.
        ray_s: measured seconds of a start and a stop of Ray.
    """
    spans = read_run_times(folder)
    whole = {span.name: span for span in spans}
    if not {RUN, RELEASE} <= whole.keys():
        return []
    run, release, steps = whole[RUN], whole[RELEASE], whole.get(STEPS)
    # The release samples and evaluates a champion again, as steps of its own.
    stages = [span for span in spans if span.name != RUN and run.begin <= span.process <= span.end <= run.end]
    rows = [_stage_row(span, folder, ray_s) for span in stages]
    without = run.end - run.process - sum(row.total_s for row in rows)
    rows.append(Row("DVC and its schedule", without, without, "hashing, cache, dvc.lock, between all stages"))
    own = 0.0 if steps is None else steps.end - steps.begin
    total = release.end - release.process
    rows.append(Row("release", total, total - own, "imports, Prefect's server"))
    return rows


def _stage_row(span: Span, folder: Path, ray_s: float) -> Row:
    total, work = span.end - span.process, span.end - span.begin
    if span.name in _ON_RAY:
        tracked = _tracked_s(folder, span) if span.name == "train" else 0.0
        work = tracked or max(0.0, work - ray_s)
        return Row(span.name, total, total - work, "imports, Ray" + ", workers, MLflow" * bool(tracked))
    return Row(span.name, total, total - work, "imports")


def _tracked_s(folder: Path, span: Span) -> float:
    """Seconds in which runs of MLflow were open within a span; 0 if MLflow's store cannot be read."""
    with contextlib.suppress(sqlite3.Error):
        store = sqlite3.connect(
            f"{(Layout(folder).local / 'mlflow.db').resolve().as_uri()}?mode=ro", uri=True
        )
        with contextlib.closing(store):
            query = "select min(start_time), max(end_time) from runs where start_time > ? and end_time < ?"
            first, last = store.execute(query, (span.process * 1e3, span.end * 1e3)).fetchone()
            return (last - first) / 1e3 if first and last else 0.0
    return 0.0


def setup_s(folder: Path) -> float | None:
    """Seconds that the set-up of a checkout's environment took; None where that is not noted."""
    with contextlib.suppress(OSError, ValueError):
        return float((folder / ".venv/.seconds").read_text("utf-8"))
    return None


def share_of(rows: Sequence[Row]) -> float | None:
    """Share of the whole run, without set-up, that is overhead; None without rows."""
    return sum(row.overhead_s for row in rows) / sum(row.total_s for row in rows) if rows else None


def estimated(folder: Path, figures: Mapping[str, float]) -> dict[str, float]:
    """The same from a run's metrics and the measured starts, for a run that noted no times.

    It lacks what only a run with work has: DVC's copies, and the start of training's workers and of MLflow.
    """
    stages = {}
    for path in sorted(Layout(folder).metrics.glob("*.json")):
        seconds = json.loads(path.read_text("utf-8")).get("seconds")
        if seconds is not None:
            stages[path.stem] = float(seconds)
    if not stages or "dvc_repro_s" not in figures:
        return {}
    walls = {name: value for name, value in figures.items() if not name.endswith("_cpu_s")}
    imports = sum(value for name, value in walls.items() if name.startswith("import_"))
    ray = sum(name in stages for name in _ON_RAY) * (figures["ray_start_s"] + figures["ray_stop_s"])
    prefect = walls.get("prefect_s", 0.0)
    overhead = imports + ray + prefect + figures["make_run_s"]
    whole = sum(stages.values()) + overhead - ray
    return {
        "stages_s": round(sum(stages.values()), 1),
        "estimated_overhead_s": round(overhead, 1),
        "estimated_overhead_share": round(overhead / whole, 4),
    }


def table_of(rows: Sequence[Row], setup: float | None) -> str:
    """The rows as a table in Markdown, the set-up first."""
    whole = sum(row.total_s for row in rows)
    lines = ["| part | seconds | share | of it overhead, s | what that is |", "|---|---|---|---|---|"]
    if setup is not None:
        lines.append(f"| set-up, once | {setup:.0f} | | | packages downloaded and installed |")
    for row in [*rows, Row("whole run", whole, sum(row.overhead_s for row in rows))]:
        share = f"{row.total_s / whole:.1%}"
        lines.append(f"| {row.part} | {row.total_s:.1f} | {share} | {row.overhead_s:.1f} | {row.why} |")
    return "\n".join(lines)

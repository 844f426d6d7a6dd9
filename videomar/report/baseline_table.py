"""The model between its baselines and its ceilings, for a reader who has never seen these measures.

One table for each group of clips and task, from the metrics of stage `evaluate`: the report and README show
the same figures.
"""

from collections.abc import Mapping
from typing import Any

from videomar.evaluation.generated import GROUPS
from videomar.report.score_table import clips_of_shots

_TASKS = {"": "continued", "i2v_": "from one picture"}
_ROWS = {
    "repeat_": ("the last given picture, repeated", "the bar: a model that adds nothing"),
    "decoded_repeat_": (
        "the same through the tokenizer",
        "what a model loses that copies perfectly, but in latents",
    ),
    "flow_": ("the last given picture, moved on", "as a whole, at the velocity of the given pictures"),
    "": ("**the model**", "what it makes"),
    "ceiling_": ("the truth through the tokenizer", "the most that the model's latents can hold"),
    "ceiling_carry_": (
        "the truth through tokenizer and carry",
        "the most that comes out, with the given picture's detail carried on",
    ),
}
"""By prefix of a key: what is shown, and what it means; the model between baselines and ceilings."""
COLUMNS = {
    "gain_db": ("nearer to the truth than repeating, dB", "0 = as near as the repeated picture"),
    "clips_won": ("clips won", "share of clips nearer to the truth than the repeated picture"),
    "motion_retained": ("motion kept", "0 = frozen, 1 = as much as the truth"),
    "vgg": ("VGG16-HED distance", "to the truth as a network sees it; 0 = equal"),
}
_OF_REPEAT = {"gain_db": "0", "clips_won": "–", "motion_retained": "0"}
"""What the repeated picture has by definition."""
_NONE = "–"


def baseline_tables(metrics: Mapping[str, float]) -> list[dict[str, Any]]:
    """Tables with `title`, `count` of clips and shots, `columns` that have values, and `rows`.

    A row has `name`, `meaning`, whether it is the `model`'s, and `cells` with `text` and `interval`. Real
    clips come first, because they are what users bring. A row or a column without a value is left out.

    Args:
        metrics: metrics/evaluate.json.
    """
    tables = []
    for group in sorted(GROUPS, key=lambda name: name != "real"):
        for task, words in _TASKS.items():
            table = _table(metrics, GROUPS[group], task)
            if table["rows"]:
                tables.append({"title": f"{group.capitalize()} clips, {words}", **table})
    return tables


def baseline_markdown(metrics: Mapping[str, float]) -> list[str]:
    """The tables of real clips as lines of Markdown; empty without real clips."""
    lines = []
    for table in (table for table in baseline_tables(metrics) if table["title"].startswith("Real")):
        heads = [table["title"], *(name for name, _ in table["columns"])]
        lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for row in table["rows"]:
            texts = [f"{cell['text']} {cell['interval']}".strip() for cell in row["cells"]]
            lines.append(f"| {' | '.join([row['name'], *texts])} |")
        lines.append("")
    return lines


def _table(metrics: Mapping[str, float], prefix: str, task: str) -> dict[str, Any]:
    cells = {name: [_cell(metrics, f"{prefix}_{task}", name, column) for column in COLUMNS] for name in _ROWS}
    shown = [name for name, own in cells.items() if any(cell["text"] != _NONE for cell in own)]
    places = [at for at in range(len(COLUMNS)) if any(cells[name][at]["text"] != _NONE for name in shown[1:])]
    rows = [
        {
            "name": _ROWS[name][0],
            "meaning": _ROWS[name][1],
            "model": name == "",
            "cells": [cells[name][at] for at in places],
        }
        for name in shown
    ]
    clips, shots = (metrics.get(f"{prefix}_{what}") for what in ("clips", "shots"))
    return {
        "count": clips_of_shots(int(clips or 0), None if shots is None else int(shots)),
        "columns": [list(COLUMNS.values())[at] for at in places],
        "rows": rows if "" in shown else [],
    }


def _cell(metrics: Mapping[str, float], start: str, name: str, column: str) -> dict[str, str]:
    """A figure with its interval; an en dash where there is none. What is fixed by definition has none."""
    if name == "repeat_" and column in _OF_REPEAT:
        return {"text": _OF_REPEAT[column], "interval": ""}
    key = f"{start}{name}{'psnr_' if name == '' and column == 'gain_db' else ''}{column}"
    if key not in metrics:
        return {"text": _NONE, "interval": ""}
    form = "{:.0%}" if column == "clips_won" else "{:+.2f}" if column == "gain_db" else "{:.2f}"
    ends = [metrics[f"{key}{end}"] for end in ("_low", "_high") if f"{key}{end}" in metrics]
    text, *between = (form.format(each).replace("-", "−") for each in (metrics[key], *ends))
    return {"text": text, "interval": f"({' to '.join(between)})" if between and ends[0] < ends[1] else ""}

"""The figures of a run by step, as a CSV file that is complete at any moment."""

import csv
from collections.abc import Sequence
from pathlib import Path

from videomar.files import draft_of

LOG_FILE = "log.csv"


def read_log(out: Path) -> list[dict[str, float]]:
    """Figures of the steps of a run so far; none before the first is logged."""
    try:
        with (out / LOG_FILE).open(newline="", encoding="utf-8") as file:
            return [
                {key: _number(value) for key, value in row.items() if value} for row in csv.DictReader(file)
            ]
    except FileNotFoundError:
        return []


def write_rows(path: Path, rows: Sequence[dict[str, float]]) -> None:
    """Write rows with a header of all their keys; the file appears whole or not at all."""
    with draft_of(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


def _number(text: str) -> float:
    """The number as it was before it was written: whole ones stay whole."""
    return int(text) if text.isdecimal() else float(text)

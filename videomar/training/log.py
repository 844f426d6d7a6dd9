"""The figures of a run by step, as a CSV file that is complete at any moment."""

import csv
from collections.abc import Sequence
from pathlib import Path

LOG_FILE = "log.csv"


def summary(rows: list[dict[str, float]]) -> dict[str, float]:
    """Steps done, and the mean loss of the last tenth of them."""
    last = rows[-max(1, len(rows) // 10) :]
    return {"steps": last[-1]["step"], "loss": sum(row["loss"] for row in last) / len(last)}


def read_log(out: Path) -> list[dict[str, float]]:
    """Figures of the steps of a run so far; none before the first is logged."""
    try:
        with (out / LOG_FILE).open(newline="") as file:
            return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []


def write_rows(path: Path, rows: Sequence[dict[str, float]]) -> None:
    """Write rows with a header; the file appears whole or not at all."""
    draft = path.with_name(f".{path.name}")
    draft.parent.mkdir(parents=True, exist_ok=True)
    with draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    draft.replace(path)


def _number(text: str) -> float:
    """The number as it was before it was written: whole ones stay whole."""
    return int(text) if text.isdecimal() else float(text)

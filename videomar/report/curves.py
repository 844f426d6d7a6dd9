"""The report's curves: quality by frame with its bands, and the courses of both trainings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from videomar.errors import DataError
from videomar.evaluation.generated import GROUPS
from videomar.report.charts import Line, line_chart, smooth


def read_curve(path: Path) -> pd.DataFrame:
    """A stage's curve.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        return pd.read_csv(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file, expected a stage's curve; run `dvc repro`") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: got {error}, expected a stage's curve; run `dvc repro`") from None


def quality_charts(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Per group: continuation, and picture and prompt, by frame."""
    charts = []
    for group in (group for group in GROUPS if group in set(table["group"])):
        for kind, title in (("continuation", "continued"), ("image", "from one picture")):
            rows = table[(table["group"] == group) & (table["kind"] == kind)]
            wrong = table[(table["group"] == group) & (table["kind"] == f"{kind}_wrong_prompt")]
            lines = [
                Line("tokenizer (ceiling)", "tokenizer", rows["frame"], rows["tokenizer_db"]),
                Line("model", "model", rows["frame"], rows["model_db"], *_band(rows)),
                Line("wrong prompt", "wrong_prompt", wrong["frame"], wrong["model_db"]),
                Line("repeat last", "repeat", rows["frame"], rows["repeat_db"]),
            ]
            charts.append({"title": f"{group}, {title}", "svg": line_chart(lines, "frame", "PSNR, dB")})
    return charts


def training_charts(table: pd.DataFrame) -> list[Any]:
    """Loss and learning rate by step, with the starts of the curriculum's stages."""
    marks = []
    if "stage" in table:
        marks = table.loc[table["stage"].ne(table["stage"].shift()), "step"].tolist()[1:]
    loss = [
        Line("each record", "faint", table["step"], table["loss"]),
        Line("running mean", "model", table["step"], smooth(table["loss"].tolist())),
    ]
    charts = [line_chart(loss, "step", "training loss", marks)]
    if "learning_rate" in table:
        rate = [Line("", "model", table["step"], table["learning_rate"])]
        charts.append(line_chart(rate, "step", "learning rate", marks))
    return charts


def tokenizer_charts(table: pd.DataFrame) -> list[Any]:
    """Loss and reconstruction of the tokenizer by step."""
    names = {"loss": "tokenizer loss", "psnr_db": "tokenizer PSNR, dB"}
    return [
        line_chart([Line("", "tokenizer", table["step"], table[column])], "step", name)
        for column, name in names.items()
        if column in table
    ]


def _band(rows: pd.DataFrame) -> tuple[Sequence[float], Sequence[float]]:
    """Lower and upper ends of the model's interval, where the table has them."""
    if not {"model_low", "model_high"} <= set(rows.columns):
        return (), ()
    return rows["model_low"].tolist(), rows["model_high"].tolist()

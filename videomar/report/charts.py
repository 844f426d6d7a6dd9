"""The report's curves as inline SVG that takes its colours from the page: one drawing serves light and dark.

Drawn here and not by matplotlib, whose SVG repeats fonts and fixed colours on every element and ids in every
figure: the eight charts of a run took 97 kB and 0.3 s against 25 kB and 0.01 s, and still 57 kB after
the inline styles were cut out, without which no dark mode can colour them.

Axes: x and y in the data's own units; pixels only inside the drawing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from videomar.errors import DataError
from videomar.evaluation.generated import GROUPS

_WIDTH, _HEIGHT = 440, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 38
_MAX_POINTS = 600


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: its name in the legend, its look (a CSS class of the page), and its points."""

    name: str
    look: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    """A band around the curve, such as a bootstrap interval; none if empty."""


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
    """Title and chart by group: PSNR by frame of continuations, and of clips from one picture."""
    charts = []
    has_band = {"model_low", "model_high"} <= set(table.columns)
    for group in (group for group in GROUPS if group in set(table["group"])):
        for kind, title in (("continuation", "continued"), ("image", "from one picture")):
            rows = table[(table["group"] == group) & (table["kind"] == kind)]
            wrong = table[(table["group"] == group) & (table["kind"] == f"{kind}_wrong_prompt")]
            band = (rows["model_low"].tolist(), rows["model_high"].tolist()) if has_band else ()
            lines = [
                Line("tokenizer (ceiling)", "tokenizer", rows["frame"], rows["tokenizer_db"]),
                Line("model", "model", rows["frame"], rows["model_db"], *band),
                Line("wrong prompt", "wrong_prompt", wrong["frame"], wrong["model_db"]),
                Line("repeat last", "repeat", rows["frame"], rows["repeat_db"]),
            ]
            charts.append({"title": f"{group}, {title}", "svg": line_chart(lines, "frame", "PSNR, dB")})
    return charts


def training_charts(table: pd.DataFrame) -> list[Markup]:
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


def tokenizer_charts(table: pd.DataFrame) -> list[Markup]:
    """Loss and reconstruction of the tokenizer by step."""
    names = {"loss": "tokenizer loss", "psnr_db": "tokenizer PSNR, dB"}
    return [
        line_chart([Line("", "tokenizer", table["step"], table[column])], "step", name)
        for column, name in names.items()
        if column in table
    ]


def line_chart(lines: Sequence[Line], x_label: str, y_label: str, marks: Sequence[float] = ()) -> Markup:
    """The SVG of some curves with axes and a legend; a note if no curve has a point.

    Args:
        lines: Curves; points that are not finite are left out.
        x_label: Name and unit of the horizontal axis.
        y_label: Name and unit of the vertical axis.
        marks: Values of x for vertical lines, such as the start of a curriculum stage.
    """
    finite = [line for line in map(_finite, lines) if len(line.x)]
    if not finite:
        return Markup('<p class="none">no values</p>')
    x_values = [value for line in finite for value in line.x]
    y_values = [value for line in finite for value in (*line.y, *line.low, *line.high)]
    across, up = _x_scale(min(x_values), max(x_values)), _y_scale(min(y_values), max(y_values))
    drawing = [
        *_grid(across, up),
        *(_segment(across(mark), _TOP, across(mark), _HEIGHT - _BOTTOM, "mark") for mark in marks),
        *(_band(line, across, up) for line in finite if line.low),
        *(_curve(line, across, up) for line in finite),
        _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, x_label, "middle"),
    ]
    key = Markup('<span class="key {}">{}</span>')
    legend = [key.format(line.look, line.name) for line in finite if line.name]
    return Markup(
        '<figure class="chart"><figcaption>{}</figcaption>'
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg><div class="legend">{}</div></figure>'
    ).format(
        y_label,
        _WIDTH,
        _HEIGHT,
        f"{y_label} by {x_label}: " + ", ".join(line.name for line in finite),
        Markup("").join(drawing),
        Markup("").join(legend),
    )


def smooth(values: Sequence[float], share: float = 0.05) -> list[float]:
    """Running mean over a window of `share` of the points, which shows the course of a noisy curve."""
    window = max(1, int(len(values) * share))
    total = np.cumsum(np.concatenate([[0.0], np.asarray(values, np.float64)]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return ((total[ends] - total[starts]) / (ends - starts)).tolist()


def _finite(line: Line) -> Line:
    """The line without points that cannot be drawn, and with no more points than can be seen."""
    columns = [line.x, line.y, line.low, line.high] if len(line.low) else [line.x, line.y]
    points = [point for point in zip(*columns, strict=True) if all(map(math.isfinite, point))]
    points = points[:: max(1, len(points) // _MAX_POINTS)]
    return Line(
        line.name, line.look, *(list(column) for column in zip(*points, strict=True)) if points else ((), ())
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    """Maps the values of one axis to pixels. Remembers the ends of the axis and its ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]
    start_px: float
    end_px: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start_px + share * (self.end_px - self.start_px), 1)


def _x_scale(low: float, high: float) -> _Scale:
    """The axis of frames or steps: exactly as long as the data, with ticks at whole numbers only."""
    high = max(high, low + 1)
    ticks = tuple(tick for tick in _ticks(low, high) if low <= tick <= high and tick == round(tick))
    return _Scale(low, high, ticks, _LEFT, _WIDTH - _RIGHT)


def _y_scale(low: float, high: float) -> _Scale:
    """The axis of values: from one round number to another."""
    ticks = _ticks(low, high)
    return _Scale(ticks[0], ticks[-1], ticks, _HEIGHT - _BOTTOM, _TOP)


def _ticks(low: float, high: float) -> tuple[float, ...]:
    """Four to nine round numbers that enclose [low, high]."""
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(round(index * step, 12) for index in range(first, last + 1))


def _grid(across: _Scale, up: _Scale) -> list[Markup]:
    """Horizontal lines, and the numbers of both axes."""
    return [
        *(_segment(_LEFT, up(tick), _WIDTH - _RIGHT, up(tick), "grid") for tick in up.ticks),
        *(_text(_LEFT - 6, up(tick) + 4, f"{tick:g}", "end") for tick in up.ticks),
        *(_text(across(tick), _HEIGHT - _BOTTOM + 16, f"{tick:g}", "middle") for tick in across.ticks),
    ]


def _curve(line: Line, across: _Scale, up: _Scale) -> Markup:
    points = " ".join(f"{across(x)},{up(y)}" for x, y in zip(line.x, line.y, strict=True))
    return Markup('<polyline class="line {}" points="{}"/>').format(line.look, points)


def _band(line: Line, across: _Scale, up: _Scale) -> Markup:
    """The area between the ends of the interval: along the upper one and back along the lower one."""
    there = [f"{across(x)},{up(high)}" for x, high in zip(line.x, line.high, strict=True)]
    back = [f"{across(x)},{up(low)}" for x, low in zip(line.x, line.low, strict=True)]
    return Markup('<polygon class="band {}" points="{}"/>').format(line.look, " ".join(there + back[::-1]))


def _segment(x1: float, y1: float, x2: float, y2: float, look: str) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(look, x1, y1, x2, y2)


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(x, y, anchor, escape(text))

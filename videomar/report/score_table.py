"""Rows of evaluation.parquet as the report reads them: which tasks and which metrics they hold.

A task is one way of asking a model, of one group of clips; beside the model's own kind stand those of the
baselines, named after it, and those that serve every task (the tokenizer).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from videomar.errors import DataError
from videomar.evaluation.generated import GROUPS
from videomar.evaluation.metrics.catalogue import METRICS, Metric
from videomar.report.strips import part_of

CHIEF = ("psnr", "ssim", "feature_distance", "motion_retained", "flicker")
"""Keys of the metrics that stand first, and whose worst clips are shown."""
_TITLES = {"continuation": "continued", "image": "from one picture"}
_BASELINES = {"tokenizer", "untrained", "linear", "repeat", "wrong_prompt"}


@dataclass(frozen=True, slots=True)
class Task:
    """What the model was asked, of which clips."""

    group: str
    kind: str
    """Of the model's own clips."""

    @property
    def title(self) -> str:
        """For a reader."""
        return f"{self.group.capitalize()}, {_TITLES[self.kind]}"


def read_scores(path: Path) -> pd.DataFrame:
    """The rows of evaluation.parquet, each metric that was computed under its key.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        return with_psnr(pd.read_parquet(path))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file, expected scores; run `dvc repro evaluate`") from None
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: got {error}, expected scores; run `dvc repro evaluate`") from None


def with_psnr(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the metric `psnr`, which is that of all generated frames together."""
    return rows.assign(psnr=rows["psnr_db"])


def tasks_of(rows: pd.DataFrame) -> list[Task]:
    """The tasks of which the model has clips, simulated ones first."""
    there = set(zip(rows["group"], rows["kind"], strict=True))
    tasks = (Task(group, kind) for group in GROUPS for kind in _TITLES)
    return [task for task in tasks if (task.group, task.kind) in there]


def metrics_of(rows: pd.DataFrame) -> list[Metric]:
    """The catalogue's metrics of which some row has a value."""
    there = [metric for metric in METRICS if metric.key in rows]
    return [metric for metric in there if np.isfinite(_numbers(rows[metric.key])).any()]


def kinds_of(rows: pd.DataFrame, task: Task) -> Iterator[tuple[str, pd.DataFrame]]:
    """The model's clips, then each baseline's, by clip_id; repeat-last may stand in the model's own rows."""
    of_group = rows[rows["group"] == task.group]
    own = of_group[of_group["kind"] == task.kind].set_index("clip_id").sort_index()
    yield task.kind, own
    others = [kind for kind in sorted(set(of_group["kind"])) if _serves(kind, task)]
    for kind in others:
        yield kind, of_group[of_group["kind"] == kind].set_index("clip_id").sort_index()
    if not any(part_of(kind) == "repeat" for kind in others):
        yield "repeat", own[["repeat_psnr_db"]].assign(psnr=own["repeat_psnr_db"])


def values_of(rows: pd.DataFrame, metric: Metric) -> pd.Series:
    """The metric's finite values by clip; none where it was not computed."""
    if metric.key not in rows:
        return pd.Series(dtype=np.float64)
    values = pd.Series(_numbers(rows[metric.key]), index=rows.index)
    return values[np.isfinite(values)]


def badness(values: pd.Series, metric: Metric) -> pd.Series:
    """How bad values are: the larger the worse; all alike where the metric takes no side."""
    sides = {"higher": -values, "lower": values, "nearer 1": (values - 1).abs(), "neither": 0 * values}
    return sides[metric.better]


def number(value: float, signed: bool = False, beside: tuple[float, ...] = ()) -> str:
    """A value as text with a minus as long as a plus.

    Three digits behind the point below 1, two to 100, one above; the largest of the values `beside` which it
    stands decides for all.
    """
    size = max(map(abs, (value, *beside)))
    digits = 3 if size < 0.9995 else 2 if size < 99.995 else 1
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def _serves(kind: str, task: Task) -> bool:
    """Whether a kind is a baseline of the task: named after it, or after none."""
    named_after_it = kind.startswith(f"{task.kind}_") or not kind.startswith(tuple(_TITLES))
    return named_after_it and part_of(kind) in _BASELINES


def _numbers(column: pd.Series) -> NDArray[np.float64]:
    return pd.to_numeric(column, errors="coerce").to_numpy(np.float64)

"""Scores of clips as one long table: a row for each task, kind of clip, metric and clip.

A task is what the model is asked to do with one group of clips. Beside the model's own clips it has those of
the baselines: kinds named after it (`continuation_untrained`) and one that serves all tasks (`tokenizer`).
"""

from pathlib import Path

import numpy as np
import pandas as pd

from videomar.errors import DataError
from videomar.evaluation.bootstrap import SAME_TRUTH_DB, shots_of
from videomar.evaluation.generated import CEILINGS, GROUPS
from videomar.evaluation.metrics.catalogue import METRICS
from videomar.report.strips import part_of

CHIEF = ("psnr", "ssim", "vgg", "motion_retained", "flicker")
"""Keys of the metrics that are shown first, and whose worst clips are shown."""
_KINDS = {"continuation": "continued", "image": "from one picture"}
TASKS = {
    f"{group.capitalize()}, {words}": (group, kind) for group in GROUPS for kind, words in _KINDS.items()
}
"""Group of clips, and kind of the model's clips, by title."""
_BASELINES = {*CEILINGS, "untrained", "linear", "repeat", "decoded_repeat", "flow", "wrong_prompt"}
_CLIP = ["group", "kind", "clip_id", "shot"]


def read_scores(path: Path) -> pd.DataFrame:
    """The rows of evaluation.parquet.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file, expected scores; run `dvc repro evaluate`") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: got {error}, expected scores; run `dvc repro evaluate`") from None


def long_table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each finite value: task (title), look, metric (key), clip_id, shot, value.

    The look says whose clip it is, and is its CSS class: `model`, or the baseline's part of its kind. The
    rows of a task are in the order of looks, the model's first. Without recorded shots, each clip is one.

    Args:
        rows: evaluation.parquet.
    """
    shots = rows["clip_id"] if shots_of(rows) is None else rows["shot"]
    rows = rows.assign(psnr=rows["psnr_db"], shot=shots)
    keys = [metric.key for metric in METRICS if metric.key in rows]
    values = pd.concat([rows.melt(_CLIP, keys, "metric"), _repeated(rows)])
    values["value"] = pd.to_numeric(values["value"], errors="coerce")
    values = values[np.isfinite(values["value"])].sort_values("clip_id", kind="stable")
    tables = []
    for title, (group, own) in TASKS.items():
        of_group = values[values["group"] == group]
        present = set(of_group["kind"])
        kinds = sorted(kind for kind in present if _serves(kind, own) and f"{own}_{kind}" not in present)
        for kind in [own, *kinds]:
            look = "model" if kind == own else part_of(kind)
            tables.append(of_group[of_group["kind"] == kind].assign(task=title, look=look))
    return pd.concat(tables)[["task", "look", "metric", "clip_id", "shot", "value"]]


def of_same_truth(champion: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The champion's rows that were judged against the same truth as ours; repeat-last tells truths apart."""
    own = rows[[*_CLIP[:3], "repeat_psnr_db"]]
    both = champion[_CLIP[:3]].merge(own, "left", _CLIP[:3])["repeat_psnr_db"].to_numpy()
    return champion[np.abs(both - champion["repeat_psnr_db"].to_numpy()) <= SAME_TRUTH_DB]


def number(value: float, signed: bool = False, beside: tuple[float, ...] = ()) -> str:
    """A value as text with a minus as long as a plus.

    Three decimals below 1, two below 100, one above; the largest of the values `beside` it decides for all.
    """
    size = max(map(abs, (value, *beside)))
    digits = 3 if size < 0.9995 else 2 if size < 99.995 else 1
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return text.replace("-", "−") if value else text.replace("-", "+" if signed else "")


def number_of(count: int, what: str) -> str:
    """A count in words."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def clips_of_shots(clips: int, shots: int | None) -> str:
    """Both counts in words, as the reports show them; without shots that are not recorded."""
    if shots is None or shots == clips:
        return f"{clips} clips"
    return f"{clips} clips of {shots} {'shot' if shots == 1 else 'shots'}"


def _repeated(rows: pd.DataFrame) -> pd.DataFrame:
    """PSNR of repeating the last frame, for tasks whose rows contain no such clips."""
    tables = []
    for group, own in TASKS.values():
        of_group = rows[rows["group"] == group]
        if not {f"{own}_repeat", "repeat"} & set(of_group["kind"]):
            of_task = of_group[of_group["kind"] == own]
            psnr = {"metric": "psnr", "value": of_task["repeat_psnr_db"]}
            tables.append(of_task[_CLIP].assign(kind=f"{own}_repeat", **psnr))
    return pd.concat(tables) if tables else rows[_CLIP].head(0)


def _serves(kind: str, own: str) -> bool:
    """Whether a kind is a baseline of the task with that kind of its own: named after it, or after none.

    A ceiling that is named after the task takes the place of the one that is named after none.
    """
    named_after_it = kind.startswith(f"{own}_") or not kind.startswith(tuple(_KINDS))
    return named_after_it and part_of(kind) in _BASELINES

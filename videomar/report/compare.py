"""The model against its baselines and its rival: every metric on a scale of its own, better is right.

Comparisons draw the difference of each pair of clips and not only the mean: a lucky mean of few clips shows
as such.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from videomar.evaluation.aggregate import mean_band
from videomar.evaluation.generated import CEILINGS
from videomar.evaluation.metrics.catalogue import METRICS, Metric
from videomar.report.score_table import CHIEF, clips_of_shots, number
from videomar.report.strips import label_of


def metric_panels(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """For each task of a long table its title, rows of metrics, and labels of the looks in them."""
    panels = []
    for title, of_task in scores.groupby("task", sort=False):
        means = of_task.pivot_table("value", "metric", "look", sort=False)
        counts = of_task[of_task["look"] == "model"]["metric"].value_counts()
        shots = of_task[of_task["look"] == "model"].groupby("metric")["shot"].nunique()
        rows = [
            _metric_row(metric, means.loc[metric.key].dropna(), int(counts[metric.key]))
            | {"count": clips_of_shots(int(counts[metric.key]), int(shots[metric.key]))}
            for metric in METRICS
            if metric.key in counts
        ]
        shown = {look for row in rows for look in row["texts"]}
        looks = {look: label_of(look) for look in of_task["look"].unique() if look in shown}
        panels.append({"title": title, "rows": rows, "looks": looks})
    return [panel for panel in panels if panel["rows"]]


def _metric_row(metric: Metric, means: pd.Series, n: int) -> dict[str, Any]:
    """Means by look as texts and as marks, which stand percent from the left; `n` clips of the model."""
    goodness = metric.goodness(means)
    low, span = goodness.min(), goodness.max() - goodness.min()
    texts = {look: number(mean) for look, mean in means.items()}
    places = {look: 3 + 94 * (good - low) / span if span > 0 else 50.0 for look, good in goodness.items()}
    # The model's mark comes last, so that it is drawn over the others.
    marks = [
        {"look": look, "label": label_of(str(look)), "text": texts[look], "place": places[look]}
        for look in sorted(texts, key=lambda look: look == "model")
    ]
    return {"metric": metric, "chief": metric.key in CHIEF, "marks": marks, "texts": texts, "n": n}


def compare_with_champion(scores: pd.DataFrame, champion: pd.DataFrame) -> list[dict[str, Any]]:
    """By task the differences of all metrics that both long tables have, over the clips that both have."""
    theirs = champion[champion["look"] == "model"].assign(look="champion")
    ours = scores[scores["look"] == "model"]
    return _comparisons(pd.concat([ours, theirs]), tuple(metric.key for metric in METRICS))


def compare_with_baselines(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """By task the differences of the chief metrics to each baseline; ceilings are none."""
    return _comparisons(scores[~scores["look"].isin(CEILINGS)], CHIEF)


def pairs_of(scores: pd.DataFrame, champion: pd.DataFrame, task: str, metric: str) -> pd.DataFrame:
    """A metric of the clips that both models made: columns `model` and `champion` by clip_id."""
    found = [
        table[(table["task"] == task) & (table["look"] == "model") & (table["metric"] == metric)]
        for table in (scores, champion)
    ]
    ours, theirs = (table.set_index("clip_id")["value"] for table in found)
    return pd.DataFrame({"model": ours, "champion": theirs}).dropna()


def _comparisons(scores: pd.DataFrame, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    comparisons = []
    for title, of_task in scores.groupby("task", sort=False):
        rivals = [look for look in of_task["look"].unique() if look != "model"]
        # Our own rows come first: an earlier champion's may not name shots.
        shots = of_task.drop_duplicates("clip_id").set_index("clip_id")["shot"]
        table = of_task.pivot(index=["metric", "clip_id"], columns="look", values="value")
        rows = []
        for metric in METRICS:
            if metric.key not in keys or metric.key not in table.index or "model" not in table:
                continue
            of_metric = table.loc[metric.key]
            for rival in rivals:
                pairs = of_metric[["model", rival]].dropna()
                if len(pairs):
                    rows.append(_difference(metric, rival, pairs, shots[pairs.index]))
        comparisons.append({"title": title, "rows": rows})
    return [comparison for comparison in comparisons if comparison["rows"]]


def _difference(metric: Metric, rival: str, pairs: pd.DataFrame, shots: pd.Series) -> dict[str, Any]:
    """One metric of both models on the same clips; places are percent from the left, 50 = no difference."""
    own, other = pairs["model"], pairs[rival]
    gains = (metric.goodness(own) - metric.goodness(other)).to_numpy(np.float64)
    sideless = metric.better == "neither"
    low, high = _mean_interval(gains, shots.to_numpy(object))
    # Shown as differences of the metric itself, except for `nearer 1`: there of the distance to 1.
    ends = (-high, -low) if metric.better == "lower" else (low, high)
    value = float(gains.mean()) if metric.better == "nearer 1" else float((own - other).mean())
    texts = [number(each, signed=True, beside=(value, *ends)) for each in (value, *ends)]
    verdict = "better" if low > 0 else "worse" if high < 0 else "open"
    undecided = sideless or shots.nunique() < 2
    widest = max(float(np.abs(gains).max()), abs(low), abs(high), 1e-12)
    return {
        "metric": metric,
        "rival": label_of(rival),
        "chief": metric.key in CHIEF if rival == "champion" else metric.key == "psnr",
        "unit": "nearer to 1" if metric.better == "nearer 1" else metric.unit,
        "value": texts[0],
        "interval": f"{texts[1]} to {texts[2]}",
        "n": len(gains),
        "shots": shots.nunique(),
        "count": clips_of_shots(len(gains), shots.nunique()),
        "sideless": sideless,
        "wins": 0 if sideless else int((gains > 0).sum()),
        "verdict": "open" if undecided else verdict,
        "dots": [round(50 + 47 * float(gain) / widest, 2) for gain in gains],
        "left": 50 + 47 * low / widest,
        "width": 47 * (high - low) / widest,
    }


def _mean_interval(values: NDArray[np.float64], shots: NDArray[np.object_]) -> tuple[float, float]:
    """Bootstrap interval of the mean over clips, 95 %, by shots; of one shot the mean itself."""
    low, high = (float(end[0]) for end in mean_band(values[:, None], 0, shots))
    return (low, high) if np.isfinite(low) else (float(values.mean()),) * 2

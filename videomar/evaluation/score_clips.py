"""Scores of single clips: every metric of the catalogue, each on as many clips as its cost allows.

Only generated frames count: those from `context_frames` on. A clip's PSNR is that of the squared
error pooled over its generated frames.

Axes: F frames, H W rows and columns in pixels.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from videomar.errors import DataError
from videomar.evaluation.baselines import with_baselines
from videomar.evaluation.generated import (
    CEILINGS,
    Clip,
    ClipKinds,
    is_stretched,
    is_truth,
    named_by_size,
    psnr_by_frame,
    psnr_db,
    repeat_last,
    truth_kind,
)
from videomar.evaluation.metrics.backbone import Backbone
from videomar.evaluation.metrics.catalogue import METRICS, Metric
from videomar.evaluation.metrics.vgg import Vgg, judged_frames

CLIP_METRICS = tuple(metric for metric in METRICS if metric.per != "set")
COLUMNS = ("clip_id", "group", "kind", "shot", "psnr_db", "repeat_psnr_db", "gain_db")
_KINDS = ("continuation", "image")
_BASELINES = ("continuation_untrained", "continuation_linear", "continuation_repeat", "tokenizer")
_BENCH = (
    *(f"{kind}{end}" for kind in _KINDS for end in ("", "_repeat", "_decoded_repeat", "_flow")),
    *(f"{task}{ceiling}" for task in ("", "image_") for ceiling in CEILINGS),
)
"""Kinds that tables of baselines and ceilings show, and the metrics that decide there."""
_BENCH_METRICS = {"motion_retained", "vgg"}
_NETWORKS = {"backbone", "vgg"}
_OF_PIXELS = {"psnr"}
"""Computed for every clip, apart from the others."""
_OF_WORLDS = {"bodies_lost", "jumps"}
"""Of simulated clips that are longer or larger than trained, and have a truth."""


@dataclasses.dataclass(slots=True)
class ClipScorer:
    """Computes metrics of clips. Remembers which metrics were skipped, and why."""

    backbone: Backbone | None
    with_metrics: frozenset[str] = frozenset()
    """Ids of the clips that get metrics without a network; all others get only their PSNR."""
    with_networks: frozenset[str] = frozenset()
    """Ids of the clips that get metrics of the backbone, too."""
    vgg: Vgg | None = None
    on_bench: frozenset[str] = frozenset()
    """Ids of the clips of which baselines and ceilings get the metrics of the bench."""
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    """By metric: why it has no value for some or all clips."""

    def table(self, clips: Sequence[ClipKinds]) -> pd.DataFrame:
        """One row for each clip and kind, with a float column for each metric of the catalogue."""
        columns = [*COLUMNS, *(metric.key for metric in CLIP_METRICS)]
        rows = [row for kinds in clips for row in self.rows(kinds)]
        return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[4:], np.float64))

    def rows(self, kinds: ClipKinds) -> list[dict[str, Any]]:
        """One row for each kind of a clip but truths, `with_baselines` added: COLUMNS and metrics."""
        shown = named_by_size(with_baselines(kinds))
        self._look_ahead(shown)
        return [self._row(shown, clip) for kind, clip in sorted(shown.items()) if not is_truth(kind)]

    def _look_ahead(self, kinds: ClipKinds) -> None:
        """Show VGG16 the frames that count of all kinds of a clip at once: twice as fast as kind by kind."""
        if self.vgg is None or kinds["truth"].clip_id not in self.on_bench:
            return
        frames: list[NDArray[np.uint8]] = []
        for clip in (clip for kind, clip in kinds.items() if kind in _BENCH):
            judged = judged_frames(start_of(kinds, clip), len(clip.frames))
            frames += [*clip.frames[judged], *kinds["truth"].frames[judged]]
        if frames:
            self.vgg.features(np.stack(frames))

    def _row(self, kinds: ClipKinds, clip: Clip) -> dict[str, Any]:
        row: dict[str, Any] = dict.fromkeys([*COLUMNS, *(metric.key for metric in CLIP_METRICS)], np.nan)
        row |= {"clip_id": clip.clip_id, "group": clip.group, "kind": clip.kind, "shot": clip.shot}
        start, truth = start_of(kinds, clip), kinds[truth_kind(clip.kind)].frames
        if not is_stretched(clip.kind):
            row["psnr_db"] = psnr_db(clip.frames[start:], truth[start:])
            row["repeat_psnr_db"] = psnr_db(repeat_last(truth, start)[start:], truth[start:])
            row["gain_db"] = row["psnr_db"] - row["repeat_psnr_db"]
            row["psnr"] = row["psnr_db"]
        return row | {metric.key: self._score(metric, kinds, clip) for metric in self._metrics_for(clip)}

    def _metrics_for(self, clip: Clip) -> list[Metric]:
        """The metrics of a clip; those against the truth only if it has one."""
        of_model = clip.kind in _KINDS
        if truth_kind(clip.kind) != "truth":
            return [metric for metric in CLIP_METRICS if metric.key in _OF_WORLDS]
        keys: set[str] = set()
        if clip.clip_id in self.with_metrics and (of_model or clip.kind in _BASELINES):
            keys |= {metric.key for metric in CLIP_METRICS if not _NETWORKS & set(metric.needs)}
        if clip.clip_id in self.on_bench and clip.kind in _BENCH:
            keys |= _BENCH_METRICS if self.vgg is not None else _BENCH_METRICS - {"vgg"}
        if clip.clip_id in self.with_networks and of_model:
            keys |= {metric.key for metric in CLIP_METRICS if "backbone" in metric.needs}
        if is_stretched(clip.kind):
            keys = {metric.key for metric in CLIP_METRICS if not {"truth", *_NETWORKS} & set(metric.needs)}
        return [metric for metric in CLIP_METRICS if metric.key in keys - _OF_PIXELS - _OF_WORLDS]

    def _score(self, metric: Metric, kinds: ClipKinds, clip: Clip) -> float:
        """Mean of a metric over the generated frames of a clip; NaN, and a reason, if it has no value."""
        try:
            return _mean(metric, _inputs(metric, kinds, clip, {"backbone": self.backbone, "vgg": self.vgg}))
        except DataError as error:
            self.skipped[metric.key] = str(error)
        except cv2.error as error:
            self.skipped[metric.key] = f"{metric.key}: frames of {clip.frames.shape[1:3]}: {error.err}"
        return float("nan")


def start_of(kinds: ClipKinds, clip: Clip) -> int:
    """First frame that counts; for the ceilings that are named after no task it is that of the continuation.

    Clips longer than trained are judged beyond the trained length.
    """
    if clip.kind in CEILINGS:
        return kinds["continuation"].context_frames if "continuation" in kinds else 1
    if clip.kind.endswith("_longer"):
        return len(kinds["truth"].frames)
    return clip.context_frames


def choose(clips: Sequence[ClipKinds], count: int) -> frozenset[str]:
    """Ids of up to `count` clips of each group, evenly spread over the sorted ids."""
    chosen: set[str] = set()
    for group in sorted({kinds["truth"].group for kinds in clips}):
        ids = [kinds["truth"].clip_id for kinds in clips if kinds["truth"].group == group]
        chosen |= {ids[round(at)] for at in np.linspace(0, len(ids) - 1, min(count, len(ids)))}
    return frozenset(chosen)


def on_bench(clips: Sequence[ClipKinds], with_metrics: frozenset[str]) -> frozenset[str]:
    """Ids of all real clips, whose intervals need every shot, and of the simulated ones with metrics."""
    return with_metrics | {kinds["truth"].clip_id for kinds in clips if kinds["truth"].group == "real"}


def _inputs(metric: Metric, kinds: ClipKinds, clip: Clip, networks: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs of a metric: the generated frames and, before them, the last context frame as the given picture.

    The backbone gets whole clips, whose features it caches for other metrics and other kinds of the clip.
    """
    start, truth = start_of(kinds, clip), kinds[truth_kind(clip.kind)].frames
    shown = slice(0 if "backbone" in metric.needs else start - 1, None)
    # Clips without a truth of their size: the given picture as their first frame shows it.
    picture = clip.frames[0] if is_stretched(clip.kind) else truth[start - 1]
    inputs = {"clip": clip.frames[shown], "truth": truth[shown], "picture": picture, "fps": clip.fps}
    inputs |= {**networks, "num_context": (start if shown.start == 0 else 1)}
    missing = metric.missing(inputs)
    if missing:
        raise DataError(
            f"{metric.key}: got no {' and no '.join(missing)}, expected the packages with its weights; "
            "install what pyproject.toml names"
        )
    return inputs


def _mean(metric: Metric, inputs: dict[str, Any]) -> float:
    value = metric(inputs)
    if metric.per == "clip":
        return float(value)
    num_context = inputs["num_context"] - (metric.per == "step")
    generated: NDArray[np.float64] = value[num_context:]
    generated = generated[np.isfinite(generated)]
    return float(generated.mean()) if len(generated) else float("nan")


def frames_psnr(kinds: ClipKinds, kind: str) -> NDArray[np.float64]:
    """PSNR by frame (F,) of a kind of a clip; NaN where the clip has no such kind."""
    truth = kinds["truth"].frames
    return psnr_by_frame(kinds[kind].frames, truth) if kind in kinds else np.full(len(truth), np.nan)

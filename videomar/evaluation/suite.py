"""The suite: every metric that can be computed of the generated clips, with a fingerprint.

A metric that cannot be computed is named with its reason and never counts as a low score.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import pandas as pd
import torch

from videomar.compute.device import choose_device
from videomar.config import SuiteParams
from videomar.errors import DataError
from videomar.evaluation.aggregate import drift_metrics, frame_table, summarise
from videomar.evaluation.fingerprint import Fingerprint, clips_sha256, environment, with_maker
from videomar.evaluation.generated import ClipKinds, read_generated, read_metadata
from videomar.evaluation.metrics.backbone import load_backbone
from videomar.evaluation.metrics.extractors import Extractor
from videomar.evaluation.metrics.frechet import FrechetScore
from videomar.evaluation.metrics.vgg import Vgg
from videomar.evaluation.score_clips import CLIP_METRICS, ClipScorer, choose, on_bench
from videomar.evaluation.score_sets import frechet_results, named_extractor, seed_metrics
from videomar.files import atomic_write


def evaluate_clips(paths: Any, suite: SuiteParams) -> dict[str, float]:
    """Score generated.parquet and write the scores, their details and means by frame.

    Args:
        paths: `generated`; `sampled`, the metrics of the stage before, which may be missing; the outputs
            `out` (one row per clip and kind), `details` (JSON) and `plot` (CSV, means by frame).
        suite: Which clips get which metrics.

    Returns:
        Mean metrics of each group of clips, keyed `sim_...` and `real_...`, and their cost in seconds.
    """
    torch.set_num_threads(suite.threads)
    device = choose_device(suite.device, "resources.suite.device")
    cv2.setNumThreads(1)  # frames are small: waking threads costs more than it saves
    start = time.monotonic()
    clips, metadata = read_generated(paths.generated), read_metadata(paths.generated)
    io_seconds = time.monotonic() - start
    start = time.monotonic()
    with_metrics, with_networks = choose(clips, suite.metric_clips), choose(clips, suite.feature_clips)
    scorer = ClipScorer(
        load_backbone(device), with_metrics, with_networks, on_bench=on_bench(clips, with_metrics)
    )
    scorer.vgg = _vgg(device, scorer.skipped)
    rows = scorer.table(clips)
    frames = frame_table(clips, suite.seed)
    extractor, frechet = _frechet(clips, scorer, suite, device)
    seeds = max(1, len(metadata.get("seeds", ())))
    metrics = summarise(rows, suite.seed) | drift_metrics(frames)
    metrics |= seed_metrics(clips, scorer.backbone, seeds, scorer.skipped)
    metrics |= {key: score.value for key, score in frechet.items()}
    fingerprint = _fingerprint(clips, metadata, scorer, extractor, environment(device))
    seconds = {"metrics": time.monotonic() - start}
    start = time.monotonic()
    with atomic_write(paths.out) as draft:
        rows.to_parquet(draft, index=False)
    with atomic_write(paths.plot) as draft:
        frames.to_csv(draft, index=False)
    seconds |= {"io": io_seconds + time.monotonic() - start}
    shares = time_shares(seconds, paths.sampled)
    details = {
        "fingerprint": asdict(fingerprint),
        "frechet": {key: _as_json(score) for key, score in frechet.items()},
        "skipped": scorer.skipped,
        "counts": _counts(rows),
        "seconds": shares["seconds"],
        "shares": shares["shares"],
    }
    with atomic_write(paths.details) as draft:
        draft.write_text(json.dumps(details, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    named = {f"{name}_time_share": share for name, share in shares["shares"].items()}
    costs = {f"{name}_seconds": value for name, value in seconds.items()}
    return {**metrics, "metrics_skipped": float(len(scorer.skipped)), **costs, **named}


def time_shares(seconds: dict[str, float], sampled: Path) -> dict[str, dict[str, float]]:
    """Seconds of sampling, metrics, reading and writing over both stages, and their shares.

    Without the metrics of the stage before, only the seconds of this one, and no shares.
    """
    try:
        before = json.loads(sampled.read_text(encoding="utf-8"))
        both = {
            "sampling": float(before["sampling_seconds"]),
            "metrics": seconds["metrics"] + float(before["metrics_seconds"]),
            "io": seconds["io"] + float(before["io_seconds"]),
        }
    except (OSError, ValueError, KeyError):
        return {"seconds": seconds, "shares": {}}
    total = sum(both.values()) or 1.0
    return {"seconds": both, "shares": {name: value / total for name, value in both.items()}}


def _vgg(device: torch.device, skipped: dict[str, str]) -> Vgg | None:
    """The network of the VGG distance; None, and a reason, where its packages are not installed."""
    try:
        return Vgg(device)
    except DataError as error:
        skipped["vgg"] = str(error)
        return None


def _frechet(
    clips: Sequence[ClipKinds], scorer: ClipScorer, suite: SuiteParams, device: torch.device
) -> tuple[Extractor | None, dict[str, FrechetScore]]:
    try:
        extractor = named_extractor(suite.extractor, scorer.backbone, device)
    except DataError as error:
        scorer.skipped["frechet"] = str(error)
        return None, {}
    return extractor, frechet_results(clips, extractor, suite.seed, scorer.skipped)


def _fingerprint(
    clips: Sequence[ClipKinds],
    metadata: dict[str, Any],
    scorer: ClipScorer,
    extractor: Extractor | None,
    here: dict[str, Any],
) -> Fingerprint:
    truths = [kinds["truth"] for kinds in clips]
    largest = max((clip.frames.shape for clip in truths), default=(0, 0, 0, 3))
    weights = {"backbone": scorer.backbone.weights_sha256} if scorer.backbone is not None else {}
    if scorer.vgg is not None:
        weights["vgg"] = scorer.vgg.weights_sha256
    if extractor is not None:
        weights[extractor.name] = extractor.weights_sha256
    generated = (clip for kinds in clips for kind, clip in kinds.items() if kind != "truth")
    context = {clip.context_frames for clip in generated} - {0}
    return Fingerprint(
        weights=weights,
        clips=clips_sha256([(clip.clip_id, clip.caption, clip.frames.tobytes()) for clip in truths]),
        split=str(metadata.get("split", "not recorded")),
        num_clips=len(clips),
        num_frames=largest[0],
        context_frames=tuple(sorted(context)),
        size_px=(largest[1], largest[2]),
        fps=truths[0].fps if truths else 0.0,
        seeds=tuple(metadata.get("seeds", ())),
        **with_maker(here, metadata),
    )


def _as_json(score: FrechetScore) -> dict[str, Any]:
    more = {"clips_needed": score.clips_needed, "too_few_to_rank": score.too_few_to_rank, "text": str(score)}
    return asdict(score) | more


def _counts(rows: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Number of clips that have a value, by kind and metric."""
    columns = [metric.key for metric in CLIP_METRICS]
    counts = rows.groupby("kind")[columns].count()
    return {str(kind): {key: int(n) for key, n in row.items() if n} for kind, row in counts.iterrows()}

"""Several training runs, side by side and resumable as a whole; the best becomes the candidate.

Each run has a folder in `OUT.runs`, with its own checkpoints and identity: a run whose folder holds its last
step is not repeated, and one that was interrupted continues from its checkpoint.
"""

import dataclasses
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from videomar import checkpoint
from videomar.config import Params
from videomar.config.params import variants_of
from videomar.config.search import Variant
from videomar.errors import CheckpointError, DataError
from videomar.latents.dataset import LatentDataset, read_splits, shape_of
from videomar.tracking.run_log import RunLog, read_json
from videomar.tracking.runs import OUTBOX, RUN_FILE, TrackedRun, open_run, upload_pending
from videomar.tracking.uploader import PARENT_TAG
from videomar.training import launch
from videomar.training.launch import RunSpec
from videomar.training.run_folder import describe_run
from videomar.training.state import run_summary
from videomar.training.sweep_runs import (
    FAILED,
    FINISHED,
    STOPPED,
    Run,
    archive_others,
    print_comparison,
    publish,
    write_comparison,
)
from videomar.training.sweep_tune import train_side_by_side

ONLY = "train"
"""Name of the run where there is just one."""
_VALIDATION = "val_loss"
# Validation depends on these keys, so losses of runs that differ in one are not comparable.
_OTHER_LOSS = {
    "train.mask_ratio_min",
    "train.mask_ratio_mean",
    "train.mask_ratio_std",
    "train.seed",
    "train.time_distribution",
    "train.validation_clips",
    "model.head",
    "model.patch_size",
}
_PATIENCE_S = 20.0
_log = logging.getLogger(__name__)


def runs_folder(out: Path) -> Path:
    """Return the folder of the runs, and of the files that compare them."""
    return out.with_name(f"{out.name}.runs")


def train_runs(spec: RunSpec) -> dict[str, float]:
    """Train the runs that `train.runs` and `train.search` define, or just one; publish the best as `out`.

    `runs_folder(out)` has table, curves and picture. Runs other than the best keep their last checkpoint.

    Args:
        spec: the run that others are variants of; its `out` is the folder of the candidate's run.

    Returns:
        Metrics of the best run; with several, also how many `runs` there were, how many of them failed or
        were stopped early, and the number of the best, from 0 in the order of the table.

    Raises:
        CheckpointError: no run finished.
    """
    train, folder = spec.params.train, runs_folder(spec.out)
    variants = variants_of(spec.params)
    archive_others(folder, variants)
    if not variants:
        run = _run(ONLY, spec, {}, read_splits(spec.latents, spec.params).train)
        if run.is_finished():
            upload_pending(spec.out)
        else:
            launch.run(spec)
        metrics = run_summary(spec.out)
        finished = dataclasses.replace(run, state=FINISHED, metrics=metrics)
        write_comparison(folder, [finished], train.select_by, 0)
        return metrics
    runs = _runs(spec, variants)
    parent = _open_parent(folder, spec)
    try:
        tags = {**spec.tags, PARENT_TAG: str(read_json(folder / RUN_FILE)["name"])}
        runs = _train_missing(runs, spec.params, tags)
        best = _best(runs, train.select_by)
        publish(runs[best], spec.out)
        for run in runs:
            checkpoint.prune(run.spec.out, 1)
        parent.log_files("runs", write_comparison(folder, runs, train.select_by, best))
        parent.tag({"best_run": runs[best].name, "select_by": train.select_by})
        parent.log(len(runs), {f"best/{train.select_by}": runs[best].value(train.select_by)})
    except BaseException:
        parent.finish("FAILED")
        raise
    parent.finish()
    upload_pending(folder)
    print_comparison(runs, train.select_by, best)
    states = [run.state for run in runs]
    counts = {"runs": len(runs), "runs_failed": states.count(FAILED), "runs_stopped": states.count(STOPPED)}
    return {**run_summary(spec.out), **counts, "best_run": best}


def _run(name: str, spec: RunSpec, overrides: Mapping[str, object], dataset: LatentDataset) -> Run:
    identity = describe_run(shape_of(dataset, spec.params), dataset, spec.train)
    return Run(name, spec, overrides, identity)


def _runs(spec: RunSpec, variants: Mapping[str, tuple[Variant, Params]]) -> list[Run]:
    """Return the runs to compare.

    Raises:
        DataError: they are to be compared by a metric that none of them will have.
    """
    data = read_splits(spec.latents, spec.params)
    by_validation = spec.params.train.select_by == _VALIDATION
    if by_validation and data.val is None:
        rule = "a metric that all runs have: no clip is in split val, or train.validate_every is 0"
        raise DataError(f"train.select_by: got {_VALIDATION}, expected {rule}; set it to loss")
    runs = []
    for name, (variant, params) in variants.items():
        if by_validation and (other := sorted(_OTHER_LOSS & set(variant.overrides))):
            _log.warning("train.runs: run %s: validation differs in %s: compare with care", name, other)
        own = dataclasses.replace(spec, params=params, out=runs_folder(spec.out) / name)
        runs.append(_run(name, own, variant.overrides, data.train))
    return runs


def _train_missing(runs: Sequence[Run], params: Params, tags: Mapping[str, str]) -> list[Run]:
    """Train the runs that are not done; return all of them at their ends."""
    asha = params.train.asha
    waiting = [run for run in runs if not (run.is_finished() or (asha and run.was_stopped()))]
    errors = train_side_by_side(waiting, params.train, tags) if waiting else {}
    for run in waiting:
        if asha and not errors.get(run.name) and not run.is_finished():
            run.note_stopped()
            _close(run)
    for name, error in errors.items():
        if error:
            _log.warning("train.runs: run %s failed: %s", name, error)
    return [run.ended(errors.get(run.name, "")) for run in runs]


def _best(runs: Sequence[Run], metric: str) -> int:
    """Return the number of the finished run whose metric is lowest.

    Raises:
        CheckpointError: no run finished, or none has the metric.
    """
    finished = [run for run in runs if run.state == FINISHED]
    if not finished:
        reasons = "; ".join(f"{run.name}: {run.error or run.state}" for run in runs)
        raise CheckpointError(f"train.runs: got no run that finished ({reasons}), expected at least one")
    best = min(range(len(runs)), key=lambda number: runs[number].value(metric))
    if math.isinf(runs[best].value(metric)):
        known = sorted(set.intersection(*(set(run.metrics) for run in finished)))
        rule = f"a metric in the runs' logs ({', '.join(known)}); set it, no run is trained again"
        raise CheckpointError(f"train.select_by: got {metric}, expected {rule}")
    return best


def _open_parent(folder: Path, spec: RunSpec) -> TrackedRun:
    """Open the runs' parent in MLflow; it stays the same with more runs, or another choice of the best."""
    sections, free = launch.recorded(spec.params)
    tags = {**spec.tags, **free, "mlflow.runName": "runs side by side"}
    parent = open_run(folder / RUN_FILE, sections, tags)
    until = time.monotonic() + _PATIENCE_S
    while parent.run_id is None and time.monotonic() < until:  # a store that is away gets it later
        time.sleep(0.1)
    return parent


def _close(run: Run) -> None:
    """Record the end of a run that Tune has stopped, whose process had no time to."""
    name = read_json(run.spec.out / RUN_FILE).get("name")
    if name is not None:
        RunLog(run.spec.out / OUTBOX / name).append("status", status="KILLED")

"""Several training runs, side by side and resumable as a whole; the best becomes the candidate.

Each run has a folder in `OUT.runs`, with its own checkpoints and identity: a run whose folder holds its last
step is not begun again, and one that was cut off goes on from its checkpoint.
"""

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path

from videomar.checkpoint import folder as checkpoint
from videomar.config import Params, TrainParams
from videomar.config.params import variants_of
from videomar.errors import CheckpointError, DataError
from videomar.storage import Location
from videomar.tracking.outbox import Outbox, read_json
from videomar.tracking.runs import OUTBOX, RUN_FILE, TrackedRun, open_run, upload_pending
from videomar.tracking.uploader import PARENT_TAG
from videomar.training.inputs import read_splits, shape_of
from videomar.training.launch import Sampler, recorded, run_config, train_on_ray
from videomar.training.run_folder import describe_run
from videomar.training.state import run_summary
from videomar.training.sweep_comparison import FAILED, FINISHED, STOPPED, Outcome, show, write_comparison
from videomar.training.sweep_runs import (
    Run,
    archive_others,
    is_finished,
    note_stopped,
    outcome_of,
    publish,
    was_stopped,
)
from videomar.training.sweep_tune import train_side_by_side

ONLY = "train"
"""Name of the run where there is just one."""
_VALIDATION = "val_loss"
# What validation measures follows from these: losses of runs that differ in one are not of one kind.
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
    """Where the runs are, and the files that compare them."""
    return out.with_name(f"{out.name}.runs")


def train_runs(
    latents: Location, out: Path, params: Params, tags: dict[str, str], sampler: Sampler | None = None
) -> dict[str, float]:
    """Train what `train.runs` and `train.search` ask for, or just one run; `out` is then that of the best.

    `runs_folder(out)` has table, curves and picture. Runs other than the best keep their last checkpoint.

    Args:
        latents: folder of the latent cache, or its URL.
        out: folder of the candidate's run.
        params: sections `text`, `model` and `train` are used.
        tags: lineage for the MLflow runs.
        sampler: makes the clips that are recorded every `resources.train.preview_every` steps.

    Returns:
        Figures of the best run; with several, also how many `runs` there were, how many of them failed or
        were stopped early, and the number of the best, from 0 in the order of the table.

    Raises:
        CheckpointError: no run came to its end.
    """
    figure, folder = params.train.select_by, runs_folder(out)
    archive_others(folder, variants_of(params))
    if not variants_of(params):
        if is_finished(_only_run(latents, out, params)):
            upload_pending(out)
            figures = run_summary(out)
        else:
            figures = train_on_ray(latents, out, params, tags, sampler)
        write_comparison(folder, [Outcome(ONLY, FINISHED, out, {}, figures)], figure, 0)
        return figures
    runs = _runs(latents, folder, params)
    parent = _open_parent(folder, params, tags)
    try:
        config = run_config(latents, out, params, {**tags, PARENT_TAG: _box_name(folder)}, sampler)
        outcomes = _outcomes(runs, params.train, config)
        best = _best(outcomes, figure)
        publish(runs[best], out)
        for run in runs:
            checkpoint.prune(run.out, 1)
        parent.log_files("runs", write_comparison(folder, outcomes, figure, best))
        parent.tag({"best_run": runs[best].name, "select_by": figure})
        parent.log(len(runs), {f"best/{figure}": outcomes[best].value(figure)})
    except BaseException:
        parent.finish("FAILED")
        raise
    parent.finish()
    upload_pending(folder)
    show(outcomes, figure, best)
    states = [outcome.state for outcome in outcomes]
    counts = {"runs": len(runs), "runs_failed": states.count(FAILED), "runs_stopped": states.count(STOPPED)}
    return {**run_summary(out), **counts, "best_run": best}


def _only_run(latents: Location, out: Path, params: Params) -> Run:
    """The run of the parameters as they stand."""
    train = read_splits(latents, params).train
    return Run(ONLY, params, {}, out, describe_run(shape_of(train, params), train, params.train))


def _runs(latents: Location, folder: Path, params: Params) -> list[Run]:
    """The runs that are asked for.

    Raises:
        DataError: they are to be compared by a figure that none will have.
    """
    data = read_splits(latents, params)
    by_validation = params.train.select_by == _VALIDATION
    if by_validation and data.val is None:
        rule = "a figure that all runs have: there is no clip in split val, or train.validate_every is 0"
        raise DataError(f"train.select_by: got {_VALIDATION}, expected {rule}; set it to loss")
    runs = []
    for name, (variant, own) in variants_of(params).items():
        if by_validation and (other := sorted(_OTHER_LOSS & set(variant.overrides))):
            _log.warning("train.runs: run %s: validation differs in %s: compare with care", name, other)
        made_with = describe_run(shape_of(data.train, own), data.train, own.train)
        runs.append(Run(name, own, variant.overrides, folder / name, made_with))
    return runs


def _outcomes(runs: Sequence[Run], params: TrainParams, config: dict[str, object]) -> list[Outcome]:
    """Train what is not done yet; what has become of all."""
    waiting = [run for run in runs if not (is_finished(run) or (params.asha and was_stopped(run)))]
    errors = train_side_by_side(waiting, params, config) if waiting else {}
    for run in waiting:
        if params.asha and not errors.get(run.name) and not is_finished(run):
            note_stopped(run)
            _close(run)
    for name, error in errors.items():
        if error:
            _log.warning("train.runs: run %s failed: %s", name, error)
    return [outcome_of(run, errors.get(run.name, "")) for run in runs]


def _best(outcomes: Sequence[Outcome], figure: str) -> int:
    """Number of the finished run whose figure is lowest.

    Raises:
        CheckpointError: there is none.
    """
    finished = [outcome for outcome in outcomes if outcome.state == FINISHED]
    if not finished:
        said = "; ".join(f"{outcome.name}: {outcome.error or outcome.state}" for outcome in outcomes)
        raise CheckpointError(f"train.runs: got no run that came to its end ({said}), expected at least one")
    best = min(range(len(outcomes)), key=lambda number: outcomes[number].value(figure))
    if math.isinf(outcomes[best].value(figure)):
        known = sorted(set.intersection(*(set(outcome.figures) for outcome in finished)))
        rule = f"a figure of the runs' logs ({', '.join(known)}); set it, no run is trained again"
        raise CheckpointError(f"train.select_by: got {figure}, expected {rule}")
    return best


def _open_parent(folder: Path, params: Params, tags: dict[str, str]) -> TrackedRun:
    """The MLflow run that those of the runs lie below. More runs, or another choice, leave it the same."""
    sections, free = recorded(params)
    parent = open_run(folder / RUN_FILE, sections, {**tags, **free, "mlflow.runName": "runs side by side"})
    until = time.monotonic() + _PATIENCE_S
    while parent.run_id is None and time.monotonic() < until:  # a store that is away gets it later
        time.sleep(0.1)
    return parent


def _box_name(folder: Path) -> str:
    return str(read_json(folder / RUN_FILE)["name"])


def _close(run: Run) -> None:
    """Note the end of a run that Tune has ended, whose process had no time to."""
    name = read_json(run.out / RUN_FILE).get("name")
    if name is not None:
        Outbox(run.out / OUTBOX / name).append("status", status="KILLED")

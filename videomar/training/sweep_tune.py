"""Runs on Ray Tune, which decides when each begins and, with ASHA, which ones stop early."""

import contextlib
import dataclasses
import io
import logging
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from videomar.compute.cluster import compute_device, ray_cluster, refuse_missing_gpus
from videomar.config import TrainParams
from videomar.errors import VideomarError
from videomar.training.curriculum import max_steps
from videomar.training.launch import MAX_FAILURES, Report, RunSpec, fit, last_line, work
from videomar.training.progress import RunFollower
from videomar.training.sweep_runs import Run
from videomar.training.worker import Worker

_STORAGE = Path(".local/ray/runs")
_STEP = "step_of_last_stage"
_HALF = 2
_OWN_BYTES = 2.0**20
_log = logging.getLogger(__name__)


def train_side_by_side(runs: Sequence[Run], params: TrainParams, tags: Mapping[str, str]) -> dict[str, str]:
    """Train as many runs at once as there are cores for; return the errors of those that failed, by name.

    Args:
        runs: runs that are not done.
        params: how the best is chosen, and whether worse ones are stopped early.
        tags: recorded with every run in MLflow.
    """
    # By default Ray moves each run to its own folder, where relative paths mean something else.
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    shutil.rmtree(_STORAGE, ignore_errors=True)  # nothing in it is read again
    most, select_by = max(run.cpus for run in runs), params.select_by if params.asha else None
    specs = {
        run.name: dataclasses.replace(run.spec, tags={**tags, "mlflow.runName": run.name}) for run in runs
    }
    with ray_cluster(max(2, os.cpu_count() or 1, most)):
        import ray
        from ray import tune

        for spec in specs.values():
            refuse_missing_gpus(spec.params.train.device, spec.params.train.fewest_workers)
        at_once = max(1, int(ray.cluster_resources()["CPU"]) // most)
        trial = tune.with_resources(
            tune.with_parameters(_trial, specs=specs, select_by=select_by),
            _resources(runs, most),
        )
        _log.warning("train.runs: %d runs, %d at once", len(runs), min(at_once, len(runs)))
        tuner = tune.Tuner(
            trial,
            param_space={"run": tune.grid_search(list(specs))},
            tune_config=tune.TuneConfig(max_concurrent_trials=at_once, scheduler=_scheduler(params)),
            run_config=tune.RunConfig(
                name="runs",
                storage_path=str(_STORAGE.resolve()),
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                verbose=0,
            ),
        )
        follower = RunFollower([spec.followed(name) for name, spec in specs.items()])
        with follower, contextlib.redirect_stdout(io.StringIO()):  # Tune prints its own tables
            results = tuner.fit()
        ended = [results[number] for number in range(len(results))]
        return {str((result.config or {})["run"]): _error(result) for result in ended}


def _resources(runs: Sequence[Run], cpus: int) -> dict[str, float]:
    """Return what the process of each run needs; where a run has several workers, they ask for it."""
    if any(run.spec.params.train.fewest_workers > 1 for run in runs):
        return {"CPU": 0.0, "memory": _OWN_BYTES}  # Tune refuses a trial that needs nothing
    on_gpu = any(compute_device(run.spec.params.train.device) == "cuda" for run in runs)
    return {"CPU": float(cpus), "GPU": float(on_gpu)}


def _trial(config: dict[str, Any], specs: dict[str, RunSpec], select_by: str | None) -> None:
    """Train one run in a process of Tune, from its newest checkpoint."""
    from ray import tune

    spec = specs[config["run"]]
    train = spec.params.train
    try:
        if train.fewest_workers > 1:
            fit(spec, train.fewest_workers, f"videomar-{config['run']}")
        else:
            worker = Worker(device=torch.device(compute_device(train.device)))
            work(spec, worker, _reporter(train, select_by) if select_by else None)
    except VideomarError as error:  # raised, it would be tried again, and fail again with the same numbers
        tune.report({"error": " ".join(str(error).split())})


def _reporter(params: TrainParams, select_by: str) -> Report:
    """Return what reports the compared metric to Tune, in the last stage: earlier ones use other clips."""
    from ray import tune

    last = len(params.curriculum) - 1
    before = sum(stage.steps for stage in params.curriculum[:last])

    def report(step: int, metrics: dict[str, float]) -> None:
        if metrics.get("stage") == last and math.isfinite(metrics.get(select_by, math.nan)):
            tune.report({select_by: metrics[select_by], _STEP: max(1, step - before)})

    return report


def _scheduler(params: TrainParams) -> Any:
    """Return None (first come, first served), or ASHA with its first decision at the first validation."""
    if not params.asha:
        return None
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler(
        time_attr=_STEP,
        metric=params.select_by,
        mode="min",
        grace_period=params.validate_every or params.log_every,
        reduction_factor=_HALF,
        max_t=max_steps(params) + 1,
    )


def _error(result: Any) -> str:
    """Return one line about a run that failed, or nothing."""
    if result.error is not None:
        return last_line(result.error)
    return str((result.metrics or {}).get("error", ""))

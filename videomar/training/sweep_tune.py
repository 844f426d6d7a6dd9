"""Runs on Ray Tune, which says when each begins and, with ASHA, which end early; folders say the rest."""

import contextlib
import io
import logging
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from videomar.cluster import compute_device, ray_cluster, refuse_missing_gpus
from videomar.config import TrainParams
from videomar.errors import VideomarError
from videomar.files import read_log
from videomar.training.curriculum import max_steps
from videomar.training.launch import MAX_FAILURES, fit, work
from videomar.training.messages import Retelling, messages_of
from videomar.training.progress import is_due, line
from videomar.training.sweep_runs import Run
from videomar.training.worker import Worker

_STORAGE = Path(".local/ray/runs")
_STEP = "step_of_last_stage"
_HALF = 2
_POLL_S = 5.0
_OWN_BYTES = 2.0**20
_log = logging.getLogger(__name__)


def train_side_by_side(runs: Sequence[Run], params: TrainParams, config: Mapping[str, Any]) -> dict[str, str]:
    """Train as many at once as there are cores for; returns the errors of those that failed, by name.

    Args:
        runs: those that are not done.
        params: how the best is chosen, and whether the worse ones are stopped.
        config: what all have in common, see `launch.run_config`.
    """
    # Ray would move each run to a folder of its own, where relative paths mean something else.
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    shutil.rmtree(_STORAGE, ignore_errors=True)  # nothing there is ever read again
    most, select_by = max(run.cpus for run in runs), params.select_by if params.asha else None
    told = Retelling({messages_of(run.out): f"run {run.name}: " for run in runs})
    configs = {run.name: {**config, **_own(run, config["tags"])} for run in runs}
    with ray_cluster(max(2, os.cpu_count() or 1, most)):
        import ray
        from ray import tune

        for run in runs:
            refuse_missing_gpus(run.params.train.device, run.params.train.num_workers)
        at_once = max(1, int(ray.cluster_resources()["CPU"]) // most)
        trial = tune.with_resources(
            tune.with_parameters(_trial, configs=configs, select_by=select_by),
            _resources(runs, most),
        )
        _log.warning("train.runs: %d runs, %d at once", len(runs), min(at_once, len(runs)))
        tuner = tune.Tuner(
            trial,
            param_space={"run": tune.grid_search(list(configs))},
            tune_config=tune.TuneConfig(max_concurrent_trials=at_once, scheduler=_scheduler(params)),
            run_config=tune.RunConfig(
                name="runs",
                storage_path=str(_STORAGE.resolve()),
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                verbose=0,
            ),
        )
        silent = contextlib.redirect_stdout(io.StringIO())  # Tune prints tables of its own
        with told, _Progress(runs), silent:
            results = tuner.fit()
        return {_name(results[n]): _error(results[n]) for n in range(len(results))}


def _own(run: Run, tags: Mapping[str, str]) -> dict[str, Any]:
    """What a run's processes are told otherwise than those of the others."""
    place = {"out": str(run.out.resolve()), "messages": messages_of(run.out)}
    return {**place, "params": run.params, "tags": {**tags, "mlflow.runName": run.name}}


def _resources(runs: Sequence[Run], cpus: int) -> dict[str, float]:
    """What the process of each run needs; the workers of a run of several ask for it themselves."""
    if any(run.params.train.num_workers > 1 for run in runs):
        return {"CPU": 0.0, "memory": _OWN_BYTES}  # Tune does not take nothing at all
    on_gpu = any(compute_device(run.params.train.device) == "cuda" for run in runs)
    return {"CPU": float(cpus), "GPU": float(on_gpu)}


class _Progress:
    """Context in which a line is said of each run now and then, as their logs tell: others train them."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs, self._ended = runs, threading.Event()
        self._first: dict[str, tuple[float, float]] = {}
        self._said: dict[str, Mapping[str, float]] = {}

    def __enter__(self) -> None:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        over = False
        while not over:
            over = self._ended.wait(_POLL_S)
            for run in self._runs:
                for row in read_log(run.out)[-1:]:
                    self._say(run, row)

    def _say(self, run: Run, row: Mapping[str, float]) -> None:
        now, said, train = time.monotonic(), self._said.get(run.name), run.params.train
        step, since = self._first.setdefault(run.name, (row["step"], now))
        if said != row and is_due(row, said, train):
            self._said[run.name] = row
            rate = (row["step"] - step) / (now - since) if now > since else 0.0
            sys.stderr.write(f"run {run.name}: {line(row, train, rate)}\n")


def _trial(config: dict[str, Any], configs: dict[str, dict[str, Any]], select_by: str | None) -> None:
    """What a process of Tune does: one run, from where its folder says that it is."""
    from ray import tune

    own = configs[config["run"]]
    train: TrainParams = own["params"].train
    try:
        if train.num_workers > 1:
            fit({**own, "name": f"videomar-{config['run']}"})
        else:
            worker = Worker(device=torch.device(compute_device(train.device)))
            work(own, worker, _reporter(train, select_by) if select_by else None)
    except VideomarError as error:  # to try again would be in vain: the same comes of the same numbers
        tune.report({"error": " ".join(str(error).split())})


def _reporter(params: TrainParams, select_by: str) -> Callable[[int, dict[str, float]], None]:
    """Tells Tune the figure by which runs are compared, in the last stage: before, it is of other clips."""
    from ray import tune

    last = len(params.curriculum) - 1
    before = sum(stage.steps for stage in params.curriculum[:last])

    def report(step: int, figures: dict[str, float]) -> None:
        if figures.get("stage") == last and math.isfinite(figures.get(select_by, math.nan)):
            tune.report({select_by: figures[select_by], _STEP: max(1, step - before)})

    return report


def _scheduler(params: TrainParams) -> Any:
    """None (first come, first served), or ASHA with its first decision at the first validation."""
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


def _name(result: Any) -> str:
    return result.config["run"]


def _error(result: Any) -> str:
    """One line about a run that did not come to its end; empty for the others."""
    if result.error is not None:
        lines = [line.strip() for line in str(result.error).splitlines() if line.strip()]
        return lines[-1] if lines else type(result.error).__name__
    return str((result.metrics or {}).get("error", ""))

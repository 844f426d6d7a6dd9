"""Flow `sweep`: training runs side by side with parameters of the flow's run, as an experiment of DVC."""

import os
import shutil
from pathlib import Path
from typing import Any

from prefect import State, flow
from prefect.states import Completed
from pydantic import PositiveFloat, PositiveInt

from flows.artifacts import show_sweep
from flows.pipeline import checkout_lock, run_stage, run_stages
from flows.worktree import COPIES, Worktree
from videomar.config import load_own_params
from videomar.config.edit import update_params
from videomar.config.layout import Layout
from videomar.errors import VideomarError
from videomar.tracking.mlflow_store import tracking_uri

_TRAIN = "train"


@flow(name="sweep")
def sweep(
    runs: list[dict[str, Any]],
    search: dict[str, Any],
    num_samples: PositiveInt,
    select_by: str,
    hours_per_stage: PositiveFloat,
) -> State[Any]:
    """Train several models from the data of this checkout, without changing its parameters or model.

    Args:
        runs: As `train.runs`: [{"name": "fast", "train": {"learning_rate": 0.004}, "model": {"depth": 6}}].
        search: As `train.search`: {"train": {"learning_rate": {"low": 0.0001, "high": 0.01, "log": true}}}.
        num_samples: Number of random draws if `search` holds a range.
        select_by: Metric of the runs' logs; the lowest value wins.
        hours_per_stage: Time limit of a stage.
    """
    if not (runs or search):
        raise VideomarError("sweep: got neither runs nor search, expected one of them; see `train.runs`")
    with checkout_lock("sweep"):
        params = Layout(COPIES).params
        COPIES.mkdir(parents=True, exist_ok=True)
        shutil.copy(Layout().params, params)
        section = {"runs": runs, "search": search, "num_samples": num_samples, "select_by": select_by}
        update_params(params, {_TRAIN: section})
        load_own_params(params)  # a run that is impossible costs no stage before it
        run_stages(Path().resolve(), hours_per_stage, until=_TRAIN)
        copy = Worktree(_TRAIN, params)
        if copy.is_saved():
            copy.remove()  # left by a run that died after saving
            return Completed(name="Skipped", message=f"experiment {copy.name} has exactly these runs")
        os.environ["MLFLOW_TRACKING_URI"] = tracking_uri()  # the store of the checkout, not one in the copy
        copy.create()
        run_stage(_TRAIN, copy.folder, hours_per_stage)
        copy.save()
        best = show_sweep(copy.folder, copy.name)
        copy.remove()
        return Completed(message=f"{best}; `dvc exp apply {copy.name}` makes it the candidate")

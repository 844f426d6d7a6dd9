"""The curriculum: which stage a step belongs to, and that stage's parameters.

A stage ends after its steps, or when validation reaches its target. So a run remembers where its stages
ended, and everything else is a function of the step and these ends.
"""

import dataclasses
import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from videomar.config import CurriculumStage, TrainParams
from videomar.errors import DataError
from videomar.latents.dataset import BatchSpec, LatentDataset, Splits

_log = logging.getLogger(__name__)
STEPS, TARGET = "steps", "target"


class StageEnd(NamedTuple):
    """Where a stage ended."""

    step: int
    """Steps of the run done by then."""
    why: str
    """`steps` (all its steps were made) or `target` (its target validation loss was reached)."""


class Position(NamedTuple):
    """Where a step is in the curriculum."""

    number: int
    stage: CurriculumStage
    start: int
    """First step of the stage."""
    planned: int
    """Number of the step if no stage had ended early; the learning-rate schedule counts by it."""
    optimizer_steps: int
    """Steps since the optimizer was last reset."""
    ema_steps: int
    """Steps since the moving average was last reset."""


def max_steps(params: TrainParams) -> int:
    """Return the steps of all stages together, if none reaches its target early."""
    return sum(stage.steps for stage in params.curriculum)


def position_at(step: int, ends: Sequence[StageEnd], params: TrainParams) -> Position:
    """Return the position of a step in a run whose stages so far ended at `ends`."""
    number = len(ends)
    starts = [0, *(end.step for end in ends)]
    before = sum(stage.steps for stage in params.curriculum[:number])
    # The first stage and every stage that resets start a new count; all others continue the one before.
    resets = {
        name: max(
            start
            for start, stage in zip(starts, params.curriculum, strict=False)
            if start == 0 or getattr(stage, name) == "reset"
        )
        for name in ("optimizer", "ema")
    }
    return Position(
        number,
        params.curriculum[number],
        starts[-1],
        before + step - starts[-1],
        step - resets["optimizer"],
        step - resets["ema"],
    )


def stage_params(stage: CurriculumStage, params: TrainParams) -> TrainParams:
    """Return the parameters with the stage's own values in place."""
    return dataclasses.replace(
        params,
        objective=stage.objective or params.objective,
        learning_rate=params.learning_rate if stage.learning_rate is None else stage.learning_rate,
    )


def stop_reason(position: Position, done: int, val_loss: float | None) -> str | None:
    """Return why the stage ends after `done` steps of the run, or None if it continues."""
    target = position.stage.target_loss
    if target is not None and val_loss is not None and val_loss <= target:
        return TARGET
    return STEPS if done - position.start >= position.stage.steps else None


def draw_of(stage: CurriculumStage, params: TrainParams) -> BatchSpec:
    """Return how batches of a stage are drawn; its batch size is a number by now."""
    return BatchSpec(
        batch_size=int(stage.batch_size),
        simulated_share=params.simulated_share,
        seed=params.seed,
        num_latent_frames=stage.num_latent_frames,
        size_px=stage.size_px,
        moments=params.draw_latents,
    )


def val_of(data: Splits, stage: CurriculumStage, params: TrainParams) -> LatentDataset | None:
    """Return the held-out clips that a stage is validated on; None = it has no validation."""
    if data.val is None or not params.validate_every:
        return None
    return data.val if len(data.val.usable(stage.num_latent_frames, stage.size_px)) else None


def check_served(dataset: LatentDataset, params: TrainParams) -> None:
    """Check before step 0 that the cache holds clips for every stage, and warn of clips that none draws.

    Raises:
        DataError: no clip is long enough for a stage, or none has its size.
    """
    for number, stage in enumerate(params.curriculum):
        draw = draw_of(stage, params)
        try:
            dataset.batch_at(0, draw, 0, draw.batch_size)
        except DataError as error:
            raise DataError(f"train.curriculum: stage {number}: {error}") from None
    stills = {dataset.clip_ids[row] for row in np.flatnonzero(dataset.lengths == 1)}
    if stills and all(stage.num_latent_frames != 1 for stage in params.curriculum):
        _log.warning(
            "train.curriculum: no stage draws the %d still pictures of split train; "
            "put one with num_latent_frames: 1 first",
            len(stills),
        )

"""The curriculum as data: which stage a step lies in, and what that stage asks of it.

A stage ends after its steps, or when validation reaches its target. So where stages end is part of what a run
remembers, and all else follows from the step and these ends.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from videomar.config import CurriculumStage, TrainParams
from videomar.errors import DataError
from videomar.latents.dataset import Draw, LatentDataset

STEPS, TARGET = "steps", "target"


class StageEnd(NamedTuple):
    """Where a stage ended."""

    step: int
    """Steps of the run that were done by then."""
    why: str
    """`steps` (it had its steps) or `target` (its validation loss was reached)."""


class Place(NamedTuple):
    """Where a step lies in the curriculum."""

    number: int
    stage: CurriculumStage
    start: int
    """First step of the stage."""
    planned: int
    """Number that the step would have had if no stage had ended early: the schedule's clock."""
    optimizer_steps: int
    """Steps since the optimizer was last reset."""
    ema_steps: int
    """Steps since the moving average was last reset."""


def max_steps(params: TrainParams) -> int:
    """Steps of all stages together, if none reaches its target before."""
    return sum(stage.steps for stage in params.curriculum)


def place_at(step: int, ends: Sequence[StageEnd], params: TrainParams) -> Place:
    """Place of a step of a run whose stages so far ended at `ends`."""
    number = len(ends)
    starts = [0, *(end.step for end in ends)]
    before = sum(stage.steps for stage in params.curriculum[:number])
    resets = {
        name: max(
            start
            for start, stage in zip(starts, params.curriculum, strict=False)
            if start == 0 or getattr(stage, name) == "reset"
        )
        for name in ("optimizer", "ema")
    }
    return Place(
        number,
        params.curriculum[number],
        starts[-1],
        before + step - starts[-1],
        step - resets["optimizer"],
        step - resets["ema"],
    )


def asked_of(stage: CurriculumStage, params: TrainParams) -> TrainParams:
    """The parameters, with what the stage has of its own."""
    return dataclasses.replace(
        params,
        objective=stage.objective or params.objective,
        learning_rate=params.learning_rate if stage.learning_rate is None else stage.learning_rate,
    )


def why_ended(place: Place, done: int, val_loss: float | None) -> str | None:
    """Why the stage ends after `done` steps of the run; None where it goes on."""
    target = place.stage.target_loss
    if target is not None and val_loss is not None and val_loss <= target:
        return TARGET
    return STEPS if done - place.start >= place.stage.steps else None


def draw_of(stage: CurriculumStage, params: TrainParams) -> Draw:
    """How the clips of a stage's batches are drawn; its batch size is a number by now."""
    return Draw(
        batch_size=int(stage.batch_size),
        simulated_share=params.simulated_share,
        seed=params.seed,
        num_latent_frames=stage.num_latent_frames,
        size_px=stage.size_px,
        moments=params.draw_latents,
    )


def check_served(dataset: LatentDataset, params: TrainParams) -> None:
    """Refuse a curriculum that asks for clips the cache does not hold, before it is begun.

    Raises:
        DataError: no clip is long enough for a stage, or none has its size.
    """
    for number, stage in enumerate(params.curriculum):
        draw = draw_of(stage, params)
        try:
            dataset.batch_at(0, draw, 0, draw.batch_size)
        except DataError as error:
            raise DataError(f"train.curriculum: stage {number}: {error}") from None

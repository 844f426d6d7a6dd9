"""How long each side of a comparison trains: equal steps, or equal seconds at the pace of its own steps."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from videomar.config import TrainParams
from videomar.model.videomar import VideoMAR

PROBE_EVERY = 4
"""Steps from one look at the clock to the next."""


class Budget(NamedTuple):
    """How long each rung trains: so many steps, or so many seconds; without both, as its parameters say."""

    steps: int | None = None
    seconds: float | None = None

    def times(self, longer: float) -> "Budget":
        """Return a budget that is so many times as long."""
        steps = None if self.steps is None else max(1, round(self.steps * longer))
        return Budget(steps, None if self.seconds is None else self.seconds * longer)


def with_steps(params: TrainParams, total: int) -> TrainParams:
    """Return the parameters with a curriculum of so many steps, in the same proportions."""
    share = total / sum(stage.steps for stage in params.curriculum)
    return _with_counts(params, [stage.steps * share for stage in params.curriculum])


def with_seconds(params: TrainParams, pace: Sequence[float], seconds: float) -> TrainParams:
    """Return the parameters with a curriculum of so many seconds; `pace` = seconds a step, by stage."""
    planned = sum(each * stage.steps for each, stage in zip(pace, params.curriculum, strict=True))
    return _with_counts(params, [stage.steps * seconds / planned for stage in params.curriculum])


def _with_counts(params: TrainParams, counts: Sequence[float]) -> TrainParams:
    steps = [max(1, round(count)) for count in counts]
    curriculum = tuple(
        dataclasses.replace(stage, steps=count) for stage, count in zip(params.curriculum, steps, strict=True)
    )
    warmup = min(params.warmup_steps, sum(steps) // 10)
    return dataclasses.replace(params, curriculum=curriculum, warmup_steps=warmup)


class PaceClock:
    """A tracker that remembers when steps of the first stage were logged, by a clock in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._times: list[float] = []

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Remember the time of a step of the first stage."""
        if metrics["stage"] == 0:
            self._times.append(self._now())

    def seconds_a_step(self) -> float:
        """Median over the logged steps."""
        return statistics.median(after - before for before, after in pairwise(self._times)) / PROBE_EVERY

    def tag(self, values: dict[str, str]) -> None:
        """Record nothing."""

    def log_preview(self, step: int, model: VideoMAR) -> None:
        """Record nothing."""

    def flush(self) -> None:
        """Return at once."""

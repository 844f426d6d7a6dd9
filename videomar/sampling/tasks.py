"""The clips to generate from each held-out clip: a list of tasks, the same for every model.

Axes: B batch, C channels, T latent frames, H W latent rows and columns.
"""

from typing import NamedTuple

from torch import Tensor, cat

from videomar.config import SampleParams, SuiteParams
from videomar.errors import DataError

IMAGE, CONTINUATION = 1, 2
LONGER, LONG = 2, 4
"""Latent steps of a stretched clip, as many times those of a clip."""
LARGER = 1.5
_KINDS = {IMAGE: "image", CONTINUATION: "continuation"}


class Task(NamedTuple):
    """One way to generate held-out clips."""

    kind: str
    """Its unique name in tables and files."""
    context: int
    """Latent frames that the model is given."""
    maker: str = "trained"
    """`trained`, `untrained`, or `linear`: latents continued in a straight line."""
    right_prompt: bool = True
    seed: int = 0
    """Which of the suite's seeds, counted from 0."""
    extra: bool = False
    """Whether it is limited to the few extra clips."""
    stretch: str = ""
    """`longer` or `larger` than trained; such clips have no truth. `long` or `large`: of simulated clips,
    whose world goes on, so that they have one."""

    @property
    def of_worlds(self) -> bool:
        """Whether it is limited to simulated clips whose scene is known."""
        return self.stretch in ("long", "large")

    def length(self, frames: int) -> int:
        """Latent frames to generate up to, for clips of so many."""
        return {"longer": LONGER, "long": LONG}.get(self.stretch, 1) * (frames - 1) + 1

    @property
    def scale(self) -> float:
        """Rows and columns of its pictures, as many times those of the clips."""
        return LARGER if self.stretch in ("larger", "large") else 1.0

    def number(self, suite: SuiteParams) -> int:
        """Clips that are generated, at most."""
        if self.of_worlds:
            return min(suite.simulated_clips, suite.long_clips)
        return suite.extra_clips if self.extra else suite.simulated_clips + suite.real_clips


def tasks_of(suite: SuiteParams) -> list[Task]:
    """All tasks; those that the gate reads come first."""
    seeds = range(suite.seeds)
    others = [frames for frames in suite.context_frames if frames not in _KINDS]
    return [
        *(Task(of_seed("continuation", seed), CONTINUATION, seed=seed) for seed in seeds),
        Task("continuation_untrained", CONTINUATION, maker="untrained"),
        Task("continuation_linear", CONTINUATION, maker="linear"),
        *(Task(of_seed("image", seed), IMAGE, seed=seed) for seed in seeds),
        *(
            Task(of_seed("image_wrong_prompt", n), IMAGE, right_prompt=False, seed=n, extra=n > 0)
            for n in seeds
        ),
        *(Task(f"continuation_{frames}", frames) for frames in others),
        Task("image_longer", IMAGE, extra=True, stretch="longer"),
        Task("image_larger", IMAGE, extra=True, stretch="larger"),
        Task("image_long", IMAGE, stretch="long"),
        Task("image_large", IMAGE, stretch="large"),
    ]


def window_of(sampling: SampleParams, length: int, trained: int) -> int:
    """Latent frames that a new frame of a clip of `length` attends to, itself included; 0 = all.

    Clips longer than trained have the trained length, or more where the sink needs it.
    """
    if sampling.window_frames or length <= trained:
        return sampling.window_frames
    return max(trained, sampling.sink_frames + 2)


def of_seed(kind: str, seed: int) -> str:
    """Name of a kind when it is made from the given seed; the first seed adds nothing."""
    return f"{kind}_seed{seed}" if seed else kind


def extrapolate_latents(context: Tensor, num_frames: int) -> Tensor:
    """Continue a context (C, T, H, W) in a straight line, last + k (last - before).

    The baseline of constant change. A single context frame has no direction and is repeated. Axes before C
    are allowed.

    Args:
        context: Latents, T at least 1.
        num_frames: Latent frames of the result, context included.
    """
    given = context.shape[-3]
    if not 1 <= given <= num_frames:
        raise DataError(
            f"extrapolation: got {given} context frames for {num_frames}, expected 1 to {num_frames}"
        )
    last = context.narrow(-3, given - 1, 1)
    step = last - context.narrow(-3, max(0, given - 2), 1)
    steps = [last + k * step for k in range(1, num_frames - given + 1)]
    return cat([context, *steps], dim=-3)

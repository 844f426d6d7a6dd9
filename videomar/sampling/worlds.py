"""Simulated clips whose scene is known: their truth at any length and size.

The file beside a simulated video names the scene that it shows, and the simulator goes on with it.

Axes: F frames, H W rows and columns in pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas
import torch
from torch import Tensor

from videomar.media.cover import cover

if TYPE_CHECKING:
    from videomar.sources.simulate import Scene

_FARTHEST = 10.0
"""Grey levels, root mean square over a picture, that a clip may differ from its scene; an encoder loses 2."""
_FINER = 2
"""Scenes are drawn so many times as large and scaled: as smooth as clips of the default size."""


class World(NamedTuple):
    """The scene of a clip."""

    scene: "Scene"
    first: int
    """Frame of the scene that the clip begins with."""

    def frames(self, num_frames: int, size: tuple[int, int]) -> Tensor:
        """Draw the first frames of the clip at a size (height, width): (F, H, W, 3) uint8."""
        from videomar.sources.simulate import render  # here: a bare GPU machine lacks what it draws with

        height, width = size
        drawn = render(self.scene, _FINER * max(size), self.first + num_frames)[self.first :]
        return torch.from_numpy(np.stack([cover(frame, (width, height)) for frame in drawn]))


def worlds_of(
    rows: pandas.DataFrame, pictures: Sequence[Tensor], raw: Path, fps: float, count: int
) -> dict[int, World]:
    """Find the scenes of simulated clips, by the clip's index: up to `count`, spread evenly.

    Clips of another frame rate than the simulator's have none, nor those that do not look like their scene.

    Args:
        rows: Held-out clips, of the ledger.
        pictures: Of the same clips, (F, H, W, 3) uint8 each.
        raw: Folder of the videos.
        fps: Frames a second of the clips.
        count: Maximum number.
    """
    of_source = [number for number, group in enumerate(rows["group"]) if group == "simulated"]
    if not (of_source and count):
        return {}
    from videomar.sources.simulate import FPS, scene_of  # here: a bare GPU machine lacks what it draws with

    if fps != FPS:
        return {}
    found: dict[int, World] = {}
    for number in of_source:
        known = scene_of(raw / rows["video"][number], float(rows["start_s"][number]))
        if known is not None:
            world, clip = World(*known), pictures[number]
            drawn = world.frames(1, (clip.shape[1], clip.shape[2]))[0]
            if float((drawn.float() - clip[0].float()).square().mean().sqrt()) <= _FARTHEST:
                found[number] = world
    numbers = list(found)
    at = np.linspace(0, len(numbers) - 1, min(count, len(numbers))).round().astype(int)
    return {numbers[index]: found[numbers[index]] for index in np.unique(at)}

"""Sizes and lengths of clips: which shape the clips of a video get, and how one is cut. Pure.

Axes: F frames, H W rows and columns in pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from videomar.config import IngestParams

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, order=True, slots=True)
class ClipShape:
    """What decides the pixels of a clip, in addition to its video and its start."""

    height_px: int
    width_px: int
    fps: float
    num_frames: int


@dataclass(frozen=True, order=True, slots=True)
class View:
    """How a clip is cut from its video, where not as ingest cuts it, from the middle of the picture."""

    fps: float
    """Frames of the clip in a second of its video: half the usual number shows it at twice the speed."""
    zoom: float = 1.0
    """Sides of the largest box of the clip's proportions, in sides of the box that is shown."""
    left: float = 0.5
    """Where the box is in the picture: 0 = at its left edge, 1 = at its right edge."""
    top: float = 0.5
    """The same from the upper edge to the lower one."""
    mirrored: bool = False
    """Whether left and right change places."""


def clip_size(width: int, height: int, params: IngestParams) -> tuple[int, int]:
    """Return the width and height of the clips of a video or picture of that size, pixels.

    Their ratio is the nearest of `aspect_ratios`, by the logarithm; of two equally near, the first.
    """

    def distance(ratio: Fraction) -> Fraction:
        stretch = ratio * height / width
        return max(stretch, 1 / stretch)  # exact, and in the order of the logarithm's absolute value

    ratio = min((Fraction(text.replace(":", "/")) for text in params.aspect_ratios), key=distance)
    return size_of_area(ratio, params.size_px, params.side_multiple_px)


def size_of_area(ratio: Fraction, size_px: int, multiple_px: int) -> tuple[int, int]:
    """Return width and height, of about that ratio and about the area of a square of `size_px`, pixels.

    Each side is rounded to the nearest multiple of `multiple_px`.
    """
    sides = size_px * math.sqrt(ratio), size_px * math.sqrt(1 / ratio)
    width, height = (multiple_px * max(1, round(side / multiple_px)) for side in sides)
    return width, height


def ledger_shapes(rows: "pandas.DataFrame", params: IngestParams) -> list[ClipShape]:
    """Return the shape of each clip of a ledger, as ingest chose it."""
    columns = (rows[name].tolist() for name in ("clip_height_px", "clip_width_px", "num_frames"))
    return [
        ClipShape(int(height), int(width), params.fps, int(frames))
        for height, width, frames in zip(*columns, strict=True)
    ]


def at_sizes(shape: ClipShape, sizes_px: Sequence[int], params: IngestParams) -> list[ClipShape]:
    """Return a clip's shape, of base size `ingest.size_px`, at each of these base sizes, its ratio kept."""
    shapes = []
    for size_px in sizes_px:
        width, height = shape.width_px, shape.height_px
        if size_px != params.size_px:
            width, height = size_of_area(Fraction(width, height), size_px, params.side_multiple_px)
        shapes.append(replace(shape, height_px=height, width_px=width))
    return shapes

"""Sizes of clips against a plain search in floating point, and shapes that the ledger remembers."""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest

from videomar.config import IngestParams
from videomar.errors import ParamsError
from videomar.media.shapes import ClipShape, at_sizes, clip_size, size_of_area

RATIOS = ("1:1", "16:9", "9:16", "4:3", "3:4", "21:9")


def with_ratios(params: IngestParams, *ratios: str) -> IngestParams:
    return dataclasses.replace(params, size_px=64, side_multiple_px=8, aspect_ratios=ratios)


def test_clips_have_the_aspect_ratio_nearest_to_their_videos(ingest_params: IngestParams) -> None:
    params = with_ratios(ingest_params, *RATIOS)
    for width, height in np.random.default_rng(0).integers(16, 4000, (500, 2)).tolist():
        logs = [abs(math.log(Fraction(ratio.replace(":", "/")) * height / width)) for ratio in RATIOS]
        nearest = RATIOS[int(np.argmin(logs))]
        assert clip_size(width, height, params) == size_of_area(Fraction(nearest.replace(":", "/")), 64, 8)


@pytest.mark.parametrize("ratios", [("4:3", "3:4"), ("3:4", "4:3")])
def test_of_two_ratios_as_near_the_first_is_taken(
    ratios: tuple[str, ...], ingest_params: IngestParams
) -> None:
    width, height = clip_size(500, 500, with_ratios(ingest_params, *ratios))
    assert (width > height) == (ratios[0] == "4:3")


def test_square_clips_have_the_size_as_it_is_written(ingest_params: IngestParams) -> None:
    for size_px in range(4, 1000, 4):
        params = dataclasses.replace(ingest_params, size_px=size_px)
        assert clip_size(1920, 1080, params) == (size_px, size_px)


@pytest.mark.parametrize("size_px", [64, 128, 256])
@pytest.mark.parametrize("ratio", RATIOS)
def test_sides_are_multiples_and_the_area_is_about_that_of_the_square(ratio: str, size_px: int) -> None:
    wanted = Fraction(ratio.replace(":", "/"))
    width, height = size_of_area(wanted, size_px, 8)
    assert width % 8 == height % 8 == 0
    assert abs(width - size_px * math.sqrt(wanted)) <= 4
    assert abs(height - size_px / math.sqrt(wanted)) <= 4


def test_clip_at_a_smaller_size_keeps_its_proportions_and_its_length(ingest_params: IngestParams) -> None:
    params = dataclasses.replace(ingest_params, size_px=256, side_multiple_px=8)
    shape = ClipShape(192, 344, 8.0, 17)
    large, small = at_sizes(shape, (256, 128), params)
    assert large == shape
    assert small == ClipShape(96, 168, 8.0, 17)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aspect_ratios": ("16x9",)}, r"ingest.aspect_ratios: got \['16x9'\]"),
        ({"aspect_ratios": ()}, "ingest.aspect_ratios: got "),
        ({"aspect_ratios": ("1:0",)}, "ingest.aspect_ratios: got "),
        ({"side_multiple_px": 5}, "ingest.size_px: got 32, expected a multiple of ingest.side_multiple_px 5"),
        ({"side_multiple_px": 0}, "ingest.side_multiple_px: got 0"),
        ({"shorter_clips": (9,)}, r"ingest.shorter_clips: got \[9\], expected .* below num_frames 9"),
        ({"shorter_clips": (3, 5)}, "ingest.shorter_clips: got "),
        ({"shorter_clips": (1,)}, "ingest.shorter_clips: got "),
    ],
)
def test_shapes_that_cannot_be_are_refused(
    changes: dict[str, object], message: str, ingest_params: IngestParams
) -> None:
    with pytest.raises(ParamsError, match=message):
        dataclasses.replace(ingest_params, **changes)  # type: ignore[arg-type]

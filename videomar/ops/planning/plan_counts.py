"""The clips of the next run, and the sizes of their latents.

Axes: C channels, T latent frames, h w latent rows and columns.
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import torch

from videomar.config import CurriculumStage, Params
from videomar.curation.ledger import kept_clips, read_ledger
from videomar.errors import DataError, ParamsError
from videomar.latents.keys import cached_sizes
from videomar.latents.views import have_views
from videomar.media.probe import UnreadableError, VideoInfo, probe
from videomar.media.shapes import ClipShape, at_sizes, clip_size, ledger_shapes, size_of_area
from videomar.sources.listing import list_videos

# Reading a header takes 0.05 s: of larger folders a sample is read.
_HEADERS = 100
LatentShape = tuple[int, int, int, int]
"""(C, T, h, w)"""


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of a stage. None: does not apply, or unknown."""

    stage: str
    clips: int | None = None
    tokens: int | None = None
    bytes: int | None = None
    peak_memory_gb: float | None = None
    hours: float | None = None
    steps: int | None = None
    step_s: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """All stages, and what their numbers rest on."""

    costs: list[Cost]
    assumptions: list[str]
    advice: list[str] = field(default_factory=list)
    """What does not fit into the memory of a GPU, and what would."""
    memory: dict[str, dict[str, float]] = field(default_factory=dict)
    """Parts of the memory of a GPU by stage, 10^9 bytes."""


class PlannedStrides(NamedTuple):
    """Channels and strides of a tokenizer, which has them as attributes too."""

    channels: int
    time_stride: int
    space_stride: int


class Videos(NamedTuple):
    """The raw files."""

    total: int
    frames: float
    """Frames of all videos, estimated if not every header was read."""
    read: list[tuple[Path, VideoInfo]]
    """Videos whose headers were read."""


class PlannedClips(NamedTuple):
    """The clips of the next run."""

    shapes: list[ClipShape]
    """Shapes of all kept clips, in pixels at the largest size."""
    counted: bool
    """Whether they are from the ledger; else from the lengths of the videos."""
    scale: float = 1.0
    """How many clips each of the shapes stands for."""
    views: Sequence[ClipShape] = ()
    """Shapes of the views of clips, which only the latents and the network have to do with."""

    @property
    def total(self) -> int:
        """Number of clips."""
        return round(len(self.shapes) * self.scale)


def read_headers(raw: Path) -> Videos:
    """Read the headers of the videos in a folder, or of a sample of them."""
    paths = [raw / name for name in list_videos(raw)] if raw.is_dir() else []
    chosen = paths[:: max(1, len(paths) // _HEADERS)]
    read: list[tuple[Path, VideoInfo]] = []
    for path in chosen:
        try:
            read.append((path, probe(path)))
        except UnreadableError:
            continue
    frames = sum(info.duration_s * info.fps for _, info in read)
    return Videos(len(paths), frames * len(paths) / max(1, len(chosen)), read)


def find_clips(ledger: Path, videos: Videos, params: Params) -> PlannedClips:
    """Return the clips of the ledger; without one, as many as fit into the videos.

    Raises:
        DataError: there is neither a ledger nor a video.
    """
    if ledger.is_file():
        # A ledger of an earlier version cannot be read.
        with contextlib.suppress(DataError):
            clips = kept_clips(read_ledger(ledger))
            viewed = ledger_shapes(clips[have_views(clips)], params.ingest) * params.encode.views
            return PlannedClips(ledger_shapes(clips, params.ingest), True, views=viewed)
    if not videos.read:
        rule = "a ledger or videos to count clips of; run `make curate`, or put videos into data/raw"
        raise DataError(f"plan: got neither {ledger} nor a readable video, expected {rule}")
    return fitting_clips(videos, params)


def fitting_clips(videos: Videos, params: Params) -> PlannedClips:
    """Return as many clips as fit into the videos, none rejected."""
    ingest = params.ingest
    shapes: list[ClipShape] = []
    for _, info in videos.read:
        width, height = clip_size(info.width, info.height, ingest)
        if info.still:
            shapes += [ClipShape(height, width, ingest.fps, 1)] * ingest.still_pictures
            continue
        fitting = (info.duration_s * ingest.fps - ingest.num_frames) / ingest.stride_frames
        shapes += [ClipShape(height, width, ingest.fps, ingest.num_frames)] * max(0, 1 + math.floor(fitting))
    # The sample stands for the videos whose headers were not read.
    count = round(len(shapes) * videos.total / len(videos.read))
    spread_out = [shapes[number % len(shapes)] for number in range(count)]
    real = sum(path.parent.name != "simulated" for path, _ in videos.read) / len(videos.read)
    return PlannedClips(spread_out, False, views=_views_of(spread_out, real, params))


def made_with(clips: PlannedClips, params: Params) -> bool:
    """Whether clips of a ledger have the sizes and lengths that section `ingest` asks for."""
    ingest = params.ingest
    lengths = {ingest.num_frames, *ingest.shorter_clips, *([1] if ingest.still_pictures else [])}
    return all(
        shape.num_frames in lengths
        and abs(math.sqrt(shape.height_px * shape.width_px) - ingest.size_px) <= ingest.side_multiple_px
        for shape in clips.shapes
    )


def assumed_clips(count: int, params: Params) -> PlannedClips:
    """Return so many real clips, in equal parts of each of `ingest.aspect_ratios`."""
    ingest = params.ingest
    shapes = []
    for text in ingest.aspect_ratios:
        ratio = Fraction(text.replace(":", "/"))
        width, height = size_of_area(ratio, ingest.size_px, ingest.side_multiple_px)
        shapes.append(ClipShape(height, width, ingest.fps, ingest.num_frames))
    return PlannedClips(shapes, False, count / len(shapes), _views_of(shapes, 1.0, params))


def _views_of(shapes: Sequence[ClipShape], real: float, params: Params) -> list[ClipShape]:
    """Shapes of the views of clips whose splits are not known, a share of which are real."""
    moving = [shape for shape in shapes if shape.num_frames > 1]
    share = params.encode.views * real * (1 - params.curate.val_share - params.curate.test_share)
    return [moving[number % len(moving)] for number in range(round(share * len(moving)))]


def latent_shape(shape: ClipShape, strides: PlannedStrides) -> LatentShape:
    """Shape of a clip's latents."""
    frames = 1 + (shape.num_frames - 1) // strides.time_stride
    rows, columns = (side // strides.space_stride for side in (shape.height_px, shape.width_px))
    return strides.channels, frames, rows, columns


def cached_shapes(
    clips: PlannedClips, params: Params, strides: PlannedStrides
) -> list[tuple[int, LatentShape]]:
    """Base size and latent shape of everything that is encoded: clips and views at each of their sizes."""
    sizes = cached_sizes(params)
    return [
        (size, latent_shape(shape, strides))
        for clip in (*clips.shapes, *clips.views)
        for size, shape in zip(sizes, at_sizes(clip, sizes, params.ingest), strict=True)
    ]


def latent_bytes(shapes: Sequence[tuple[int, LatentShape]], params: Params) -> int:
    """Bytes of the latents. Captions and the table around them are a few percent more."""
    itemsize = getattr(torch, params.encode.dtype).itemsize
    return sum(math.prod(shape) for _, shape in shapes) * itemsize * (2 if params.encode.moments else 1)


def tokens_of(shape: LatentShape, patch_size: int, stage: CurriculumStage | None = None) -> int:
    """Tokens of a clip, as far as a curriculum stage uses it."""
    frames = min(shape[1], stage.num_latent_frames or shape[1]) if stage else shape[1]
    return frames * shape[2] * shape[3] // patch_size**2


def shapes_of_stage(shapes: Sequence[tuple[int, LatentShape]], stage: CurriculumStage) -> list[LatentShape]:
    """Latent shapes that a curriculum stage draws from: those of its size, not yet cut to its length.

    Still pictures, of one latent frame, are for stages of one latent frame alone.

    Raises:
        ParamsError: nothing is encoded at that size.
    """
    sizes = sorted({size for size, _ in shapes})
    wanted = stage.size_px or sizes[-1]
    if wanted not in sizes:
        rule = f"a size that is encoded, {' or '.join(map(str, sizes))}; add it to encode.smaller_sizes_px"
        raise ParamsError(f"train.curriculum: got a stage of {wanted} pixels, expected {rule}")
    sized = [shape for size, shape in shapes if size == wanted]
    used = [shape for shape in sized if shape[1] > 1 or stage.num_latent_frames == 1]
    if not used:
        rule = "1, because all clips are still pictures; add videos"
        raise ParamsError(f"plan: got a stage of {stage.num_latent_frames} latent frames, expected {rule}")
    return used


def refuse_partial_tokens(shapes: Sequence[tuple[int, LatentShape]], params: Params) -> None:
    """Refuse sizes of clips that do not fill whole tokens, which the network would refuse.

    Raises:
        ParamsError: one does not.
    """
    patch = params.model.patch_size
    for size, (_, _, rows, columns) in {*shapes}:
        if not rows or not columns or rows % patch or columns % patch:
            got = f"{rows} x {columns} latent positions at size {size}"
            rule = (
                f"multiples of model.patch_size {patch}; change it, ingest.size_px or the tokenizer's strides"
            )
            raise ParamsError(f"plan: got {got}, expected {rule}")


def sum_stages(costs: Sequence[Cost], runs: int) -> Cost:
    """Return the whole stage `train`: all curriculum stages of all runs, one after the other."""

    def total(name: str) -> float | None:
        values = [getattr(cost, name) for cost in costs]
        return None if None in values else sum(values) * runs

    def whole(name: str) -> int | None:
        found = total(name)
        return None if found is None else round(found)

    peaks = [cost.peak_memory_gb for cost in costs if cost.peak_memory_gb is not None]
    return Cost(
        "train",
        whole("clips"),
        whole("tokens"),
        None,
        max(peaks, default=None),
        total("hours"),
        whole("steps"),
    )

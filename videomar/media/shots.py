"""Where clips begin and end: shots, and windows inside them. Pure.

Axes: F frames, H W rows and columns in pixels.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scenedetect import ContentDetector, FrameTimecode

from videomar.config import IngestParams

# Times are kept to the millisecond: they are part of a clip's id.
_TICK_S = 0.001


@dataclass(frozen=True, slots=True)
class Shot:
    """A stretch of one video without a cut; `end_s` is where the next begins."""

    start_s: float
    end_s: float
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Clip:
    """A window of one shot."""

    start_s: float
    end_s: float
    caption: str
    reason: str | None
    """`too_short` where the shot holds no whole window, else null."""
    num_frames: int
    """At the clips' frame rate; 0 where the shot holds no whole window."""


def find_cuts(frames: NDArray[np.uint8], shot_threshold: float) -> list[int]:
    """Indices of the frames, of (F, H, W, 3), that differ too much from the one before for one shot."""
    # Every jump counts, however soon after the last: a clip across a flash is worse than a clip the fewer.
    detector = ContentDetector(threshold=shot_threshold, min_scene_len=1)
    cuts: list[int] = []
    for index, frame in enumerate(frames):
        found = detector.process_frame(FrameTimecode(index, fps=1.0), np.ascontiguousarray(frame[..., ::-1]))
        cuts.extend(cut.frame_num for cut in found)
    return cuts


def trim_shots(shots: list[Shot], end_s: float) -> list[Shot]:
    """Shots as far as the video lasts: captions may have been written for a longer one."""
    return [
        Shot(shot.start_s, min(shot.end_s, end_s), shot.caption) for shot in shots if shot.start_s < end_s
    ]


def video_end(times: NDArray[np.float64]) -> float:
    """When the last frame is over, seconds: it lasts as long as the usual frame."""
    return float(times[-1] + (np.median(np.diff(times)) if len(times) > 1 else 0.0))


def split_into_clips(shots: list[Shot], params: IngestParams) -> list[Clip]:
    """Windows of `num_frames` at `fps`, `stride_frames` apart, never across the end of a shot.

    A shot too short for one has windows of the longest of `shorter_clips` that it holds; one too short for
    all is one clip with the reason `too_short`.
    """
    clips: list[Clip] = []
    for shot in shots:
        found = (_windows(shot, frames, params) for frames in (params.num_frames, *params.shorter_clips))
        too_short = Clip(round(shot.start_s, 3), round(shot.end_s, 3), shot.caption, "too_short", 0)
        clips += next(filter(None, found), [too_short])
    return clips


def _windows(shot: Shot, num_frames: int, params: IngestParams) -> list[Clip]:
    """All windows of so many frames in a shot."""
    length_s, stride_s = num_frames / params.fps, params.stride_frames / params.fps
    spare_s = shot.end_s - shot.start_s - length_s + _TICK_S
    count = int(spare_s / stride_s) + 1 if spare_s >= 0 else 0
    starts = [shot.start_s + index * stride_s for index in range(count)]
    return [
        Clip(round(start, 3), round(start + length_s, 3), shot.caption, None, num_frames) for start in starts
    ]


def clip_id(video_sha256: str, start_s: float, end_s: float) -> str:
    """Name of a clip from its content's place: 16 hexadecimal digits."""
    key = f"{video_sha256} {round(start_s * 1000)} {round(end_s * 1000)}"
    return hashlib.sha256(key.encode()).hexdigest()[:16]

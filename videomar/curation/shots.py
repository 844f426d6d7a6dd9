"""The clips of a video: windows inside its shots, found in one pass over its frames.

A shot goes from cut to cut, or is a span with a caption. Where the stream's own times jump, both end. Clips
of a shot begin `stride_frames` apart and never cross its end:

    frames   |----------- shot -----------|------ shot ------|--|
    clips    [--------]                   [--------]          x   too_short
                 [--------]                   [--------]
                     [--------]

Held at a time are the frames that clips show from the start of the next clip on, reduced to what clips need
of them: memory grows neither with the length of the video nor with its size or frame rate.

Axes: F frames, H W rows and columns in pixels.
"""

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from videomar.config import IngestParams
from videomar.media.clip_reader import FrameWindow, Need, Reduced
from videomar.media.cuts import find_cuts
from videomar.media.decode import FrameBlock

# Times are kept to the millisecond: they are part of a clip's id.
_TICK_S = 0.001
# A frame is chosen for a time on the grid that is rounded, and a tick added to it: between these.
_EARLY_S, _LATE_S = 0.0004, 0.002

_Taken = TypeVar("_Taken")


@dataclass(frozen=True, slots=True)
class Shot:
    """A stretch of one video without a cut; `end_s` is where the next begins."""

    start_s: float
    end_s: float
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Captions:
    """What the captions of a video say, as far as there are any."""

    whole: str
    """About the video as a whole; may be empty."""
    spans: list[Shot]
    """Spans with captions of their own, which replace shot detection; may be empty."""


@dataclass(frozen=True, slots=True)
class ClipSpan:
    """A window of one shot."""

    start_s: float
    end_s: float
    caption: str
    reason: str | None
    """`too_short` where the shot holds no whole window, else null."""
    num_frames: int
    """At the clips' frame rate; 0 where the shot holds no whole window."""
    shot_s: float = 0.0
    """Where its shot begins, which clips of one shot have in common."""


def split_into_clips(shots: list[Shot], params: IngestParams) -> list[ClipSpan]:
    """Windows of `num_frames` at `fps`, `stride_frames` apart, never across the end of a shot.

    A shot too short for one has windows of the longest of `shorter_clips` that it holds; one too short for
    all is one clip with the reason `too_short`.
    """
    clips: list[ClipSpan] = []
    for shot in shots:
        found = (_windows(shot, frames, params) for frames in (params.num_frames, *params.shorter_clips))
        whole = round(shot.start_s, 3), round(shot.end_s, 3)
        too_short = ClipSpan(*whole, shot.caption, "too_short", 0, whole[0])
        clips += next(filter(None, found), [too_short])
    return clips


def _windows(shot: Shot, num_frames: int, params: IngestParams) -> list[ClipSpan]:
    """All windows of so many frames in a shot."""
    length_s, stride_s = num_frames / params.fps, params.stride_frames / params.fps
    spare_s = shot.end_s - shot.start_s - length_s + _TICK_S
    count = int(spare_s / stride_s) + 1 if spare_s >= 0 else 0
    shot_s = round(shot.start_s, 3)
    starts = [shot.start_s + index * stride_s for index in range(count)]
    return [
        ClipSpan(round(start, 3), round(start + length_s, 3), shot.caption, None, num_frames, shot_s)
        for start in starts
    ]


def trim_shots(shots: list[Shot], end_s: float) -> list[Shot]:
    """Shots as far as the video lasts: captions may have been written for a longer one."""
    return [
        Shot(shot.start_s, min(shot.end_s, end_s), shot.caption) for shot in shots if shot.start_s < end_s
    ]


def video_end(times: NDArray[np.float64]) -> float:
    """When the last frame is over, seconds: it lasts as long as the usual frame."""
    return float(times[-1] + (np.median(np.diff(times)) if len(times) > 1 else 0.0))


def clip_id(video_sha256: str, start_s: float, end_s: float) -> str:
    """Name of a clip, from its video's content and its span: 16 hexadecimal digits."""
    key = f"{video_sha256} {round(start_s * 1000)} {round(end_s * 1000)}"
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def scan_clips(
    path: Path,
    blocks: Iterable[FrameBlock],
    captions: Captions,
    params: IngestParams,
    take: Callable[[ClipSpan, FrameWindow], _Taken],
    reduce: Callable[[NDArray[np.uint8], Need], Reduced] = lambda frame, _: (frame.copy(),),
) -> list[_Taken]:
    """Return what `take` makes of every clip of a video, each as soon as its last frame has arrived.

    The clips are those that `find_cuts` and `split_into_clips` would find in the whole video.

    Args:
        path: The video, for messages.
        blocks: Its frames and their times, see `open_video`.
        captions: Spans in it replace shot detection.
        params: `shot_threshold` and the shape of clips.
        take: Called with a clip and the frames around it; not for a second clip of one span.
        reduce: Makes of a frame what `take` needs of it. A frame of `Need.GLANCE` is in no clip, but may be
            in a shot that turns out to be too short for one.

    Raises:
        UnreadableError: what the blocks raise, or `too_long: ...` where one clip does not fit into memory.
    """
    scan = _Scan(FrameWindow(path, reduce), captions, params, take)
    for block in blocks:
        scan.add(block)
    return scan.finish()


@dataclass(slots=True)
class _Open:
    """A shot that goes on, as far as it is known.

    Attributes:
        shot: Its start and caption; infinite where its end is not known.
        order: Its place among the shots.
        taken: How many of its clips are done.
    """

    shot: Shot
    order: int
    taken: int = 0


class _Scan(Generic[_Taken]):
    """Remembers the open shots, the frames that their next clips need, and the times of all frames."""

    def __init__(
        self,
        window: FrameWindow,
        captions: Captions,
        params: IngestParams,
        take: Callable[[ClipSpan, FrameWindow], _Taken],
    ) -> None:
        self.params, self.take, self.window = params, take, window
        # Whether a shorter clip is wanted of a shot that goes on is known when it ends.
        self.whole_clips = replace(params, shorter_clips=())
        self.caption = captions.whole
        self.finds_shots = not captions.spans
        spans = captions.spans or [Shot(0.0, math.inf, captions.whole)]
        self.open = [_Open(shot, order) for order, shot in enumerate(spans)]
        self.num_shots = len(spans)
        self.shortest_s = min((params.num_frames, *params.shorter_clips)) / params.fps
        self.before: NDArray[np.uint8] | None = None  # the last frame, to compare the next with
        self.all_times: list[NDArray[np.float64]] = []
        # By span: two captions of the same span would be two clips of one id; the first stands.
        self.results: dict[tuple[float, float], tuple[int, _Taken]] = {}

    def add(self, block: FrameBlock) -> None:
        """Take the clips that end in a block."""
        frames, times = block.frames, block.times
        self.all_times.append(times)
        cuts = set(block.cuts)
        if self.finds_shots:
            before = frames[:0] if self.before is None else self.before
            found = find_cuts(np.concatenate([before, frames]), self.params.shot_threshold)
            cuts |= {cut - len(before) for cut in found}
            self.before = frames[-1:].copy()
        shots = self._shots_within(times, sorted(float(times[cut]) for cut in cuts))
        self.window.append(block, partial(self._need, shots))
        for cut in sorted(cuts):
            self._cut(float(times[cut]))
        now_s = float(times[-1])
        for item in self.open:
            self._take_complete(item, now_s)
        for item in [item for item in self.open if item.shot.end_s <= now_s]:
            self._close(item, item.shot)
        self._drop_frames(now_s)

    def _shots_within(self, times: NDArray[np.float64], cuts_s: list[float]) -> list[Shot]:
        """The parts between cuts of all open shots, as far as frames of these times may be in them."""
        shots = [item.shot for item in self.open if item.shot.start_s < times[-1] + _LATE_S]
        edges = [-math.inf, *cuts_s, math.inf]
        parts = [
            Shot(max(shot.start_s, after), min(shot.end_s, before))
            for shot in shots
            for after, before in pairwise(edges)
        ]
        return [part for part in parts if part.start_s < part.end_s]

    def _need(
        self, shots: list[Shot], begins: NDArray[np.float64], ends: NDArray[np.float64]
    ) -> NDArray[np.int_]:
        """What clips of these shots need of frames from `begins` to `ends`, seconds (n,): a little too much.

        Clips begin on a grid, `1 / fps` apart from the start of the shot, but their starts are rounded.
        """
        needs = np.zeros(len(begins), np.int_)
        for shot in shots:
            inside = (ends > shot.start_s - _LATE_S) & (begins < shot.end_s + _LATE_S)
            step = np.maximum(np.ceil((begins - _LATE_S - shot.start_s) * self.params.fps), 0)
            shown = inside & (shot.start_s + step / self.params.fps < ends - _EARLY_S)
            needs[shown] = Need.WHOLE
            # The shot may end before it holds a clip, whatever its caption promises.
            young = inside & (begins < shot.start_s + self.shortest_s + _LATE_S)
            needs[young] = np.maximum(needs[young], Need.GLANCE)
        return needs

    def finish(self) -> list[_Taken]:
        """Take the clips that the end of the video completes; return what was taken of all."""
        end_s = video_end(np.concatenate(self.all_times))
        for item in list(self.open):
            # A detected shot stands even where its one frame lasts no time; a captioned one may lie beyond.
            detected = [Shot(item.shot.start_s, end_s, self.caption)]
            for shot in detected if self.finds_shots else trim_shots([item.shot], end_s):
                self._close(item, shot)
        return [taken for _, taken in self.results.values()]

    def _cut(self, cut_s: float) -> None:
        """The shots that are open end here, and what is left of each begins again."""
        for item in [item for item in self.open if item.shot.start_s < cut_s < item.shot.end_s]:
            self._close(item, replace(item.shot, end_s=cut_s))
            order = self.num_shots if self.finds_shots else item.order
            self.open.append(_Open(replace(item.shot, start_s=cut_s), order))
            self.num_shots += 1

    def _take_complete(self, item: _Open, now_s: float) -> None:
        """Take the clips of a shot that end before a time, wherever the shot may end later."""
        while True:
            # As if the shot began with its next clip: otherwise a long one is split again for each of them.
            end_s = min(item.shot.end_s, now_s) - _TICK_S
            rest = Shot(self._next_start(item), end_s, item.shot.caption)
            clip = split_into_clips([rest], self.whole_clips)[0]
            if clip.reason is not None:
                return
            self._take(item, clip)

    def _close(self, item: _Open, shot: Shot) -> None:
        """Take the clips that are left of a shot whose end is known."""
        for clip in split_into_clips([shot], self.params)[item.taken :]:
            self._take(item, clip)
        self.open = [other for other in self.open if other is not item]

    def _take(self, item: _Open, clip: ClipSpan) -> None:
        item.taken += 1
        clip = replace(clip, shot_s=round(item.shot.start_s, 3))
        span = clip.start_s, clip.end_s
        if span not in self.results or item.order < self.results[span][0]:
            self.results[span] = item.order, self.take(clip, self.window)

    def _next_start(self, item: _Open) -> float:
        return item.shot.start_s + item.taken * (self.params.stride_frames / self.params.fps)

    def _drop_frames(self, now_s: float) -> None:
        """Drop the frames that no clip to come shows."""
        needed_s = min([now_s, *(self._next_start(item) for item in self.open)])
        # The frame on show at that time, and one more for times that were rounded down.
        times = self.window.times
        self.window.keep_from(max(0, int(np.searchsorted(times, needed_s + _TICK_S, side="right")) - 2))

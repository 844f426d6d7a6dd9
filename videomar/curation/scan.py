"""Clips of a video of any length in one pass: each is taken as its last frame arrives, then forgotten.

Held at a time are the frames from the start of the next clip on, so memory does not grow with the video. The
clips are those that `find_cuts` and `split_into_clips` give over the whole video.

Axes: F frames, H W rows and columns in pixels.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from videomar.config import IngestParams
from videomar.curation.captions import Captions
from videomar.media.decode import check_memory
from videomar.media.decoders import Block
from videomar.media.shots import Clip, Shot, find_cuts, split_into_clips, trim_shots, video_end

_TICK_S = 0.001

_Taken = TypeVar("_Taken")


def scan_clips(
    path: Path,
    blocks: Iterable[Block],
    captions: Captions,
    params: IngestParams,
    take: Callable[[Clip, Block], _Taken],
) -> list[_Taken]:
    """What `take` makes of every clip of a video.

    Args:
        path: The video, for messages.
        blocks: Of `stream_video`.
        captions: Spans in it take the place of shot detection.
        params: `shot_threshold` and the shape of clips.
        take: Called with a clip and the frames and times around it; not for a second clip of one span.

    Raises:
        UnreadableError: what the stream raises, or `too_long: ...` where one clip does not fit into memory.
    """
    scan = _Scan(path, captions, params, take)
    for block in blocks:
        if block[1][0] == 0:
            scan = _Scan(path, captions, params, take)
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
        self, path: Path, captions: Captions, params: IngestParams, take: Callable[[Clip, Block], _Taken]
    ) -> None:
        self.path, self.params, self.take = path, params, take
        # Of a shot that goes on, nobody knows yet whether a shorter clip is wanted.
        self.whole_clips = replace(params, shorter_clips=())
        self.caption = captions.whole
        self.finds_shots = not captions.spans
        spans = captions.spans or [Shot(0.0, math.inf, captions.whole)]
        self.open = [_Open(shot, order) for order, shot in enumerate(spans)]
        self.num_shots = len(spans)
        self.frames, self.times = np.empty((0, 0, 0, 3), np.uint8), np.empty(0)
        self.all_times: list[np.ndarray] = []
        # By span: two captions of the same span would be two clips of one id; the first stands.
        self.results: dict[tuple[float, float], tuple[int, _Taken]] = {}

    def add(self, block: Block) -> None:
        """Go on by the frames of a block."""
        frames, times = block
        self.all_times.append(times)
        cuts: list[float] = []
        if self.finds_shots:
            before = self.frames[-1:] if len(self.frames) else frames[:0]
            found = find_cuts(np.concatenate([before, frames]), self.params.shot_threshold)
            cuts = [float(times[cut - len(before)]) for cut in found]
        if len(self.frames):
            frames, times = np.concatenate([self.frames, frames]), np.concatenate([self.times, times])
        self.frames, self.times = frames, times
        check_memory(self.path, [frames])
        for cut_s in cuts:
            self._cut(cut_s)
        now_s = float(times[-1])
        for item in self.open:
            self._take_complete(item, now_s)
        for item in [item for item in self.open if item.shot.end_s <= now_s]:
            self._close(item, item.shot)
        self._forget(now_s)

    def finish(self) -> list[_Taken]:
        """What was taken of all clips, when the last block is in."""
        end_s = video_end(np.concatenate(self.all_times))
        for item in list(self.open):
            # A detected shot stands even where its one frame lasts no time; a captioned one may lie beyond.
            detected = [Shot(item.shot.start_s, end_s, self.caption)]
            for shot in detected if self.finds_shots else trim_shots([item.shot], end_s):
                self._close(item, shot)
        return [taken for _, taken in self.results.values()]

    def _cut(self, cut_s: float) -> None:
        """The shot that is open ends where the next begins."""
        item = self.open[0]
        self._close(item, Shot(item.shot.start_s, cut_s, self.caption))
        self.open = [_Open(Shot(cut_s, math.inf, self.caption), self.num_shots)]
        self.num_shots += 1

    def _take_complete(self, item: _Open, now_s: float) -> None:
        """Take the clips of a shot that end before a time, wherever the shot may end later."""
        while True:
            # A shot that began with the next clip: of a long one, not all clips are counted again each time.
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

    def _take(self, item: _Open, clip: Clip) -> None:
        item.taken += 1
        span = clip.start_s, clip.end_s
        if span not in self.results or item.order < self.results[span][0]:
            self.results[span] = item.order, self.take(clip, (self.frames, self.times))

    def _next_start(self, item: _Open) -> float:
        return item.shot.start_s + item.taken * (self.params.stride_frames / self.params.fps)

    def _forget(self, now_s: float) -> None:
        """Let go of the frames that no clip to come shows."""
        needed_s = min([now_s, *(self._next_start(item) for item in self.open)])
        # The frame on show at that time, and one more for times that were rounded down.
        first = max(0, int(np.searchsorted(self.times, needed_s + _TICK_S, side="right")) - 2)
        self.frames, self.times = self.frames[first:].copy(), self.times[first:]

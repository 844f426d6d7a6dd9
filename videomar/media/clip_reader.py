"""Clips of video files as arrays: by their start times, or the end of a video as context for generation.

A video of any length is read in one pass, in which memory holds about one clip.

Axes: F frames, H W rows and columns in pixels, n clips.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from videomar.config import IngestParams
from videomar.errors import DataError
from videomar.media.decode import FrameBlock, open_video
from videomar.media.images import is_picture, read_picture
from videomar.media.probe import UnreadableError, VideoInfo, probe
from videomar.media.shapes import ClipShape, View, clip_size, ledger_shapes

if TYPE_CHECKING:
    import pandas

_Result = TypeVar("_Result")

_TICK_S = 0.001  # starts of clips, and the times in some containers, are rounded to it
# A frame that begins this much after the end of a clip is behind it, whatever times are rounded to.
_BEHIND_S = 0.01
_MAX_BYTES = 1_500_000_000  # of small frames that one video may take in memory
_HELD_BYTES = 500_000_000  # of frames from the end of a video, before it is read a second time
_SPARE_S = 2.0  # read before the end that is needed: the frames beside a key frame may not be
_WORTH_S = 30.0  # a shorter video is read as a whole
_WITH_INDEX = ("mov", "matroska")


class Need(IntEnum):
    """How much of a frame is needed."""

    NONE = 0
    GLANCE = 1
    """What a thumbnail shows."""
    WHOLE = 2
    """What a clip shows."""


Reduced = tuple[NDArray[np.uint8], ...]
"""What is kept of one frame: small pictures (H, W, 3)."""


class FrameWindow:
    """Remembers the frames of a stream that are still needed, each reduced as soon as it arrives.

    stream          0 1 2 3 4 5 6 7 8 9 ...
    on a clip's grid  0     3     6     9
    keep_from(1)            3     6     9      memory follows the clips, not the frame rate of the stream

    The last frame is kept in any case: how long it is on show is known when the next one comes.

    Attributes:
        frames: What is kept of each, in order.
        times: When they begin, seconds (n,).
    """

    def __init__(self, path: Path, reduce: Callable[[NDArray[np.uint8], Need], Reduced]) -> None:
        self._path, self._reduce = path, reduce
        self.frames: list[Reduced] = []
        self.times: NDArray[np.float64] = np.empty(0)

    def append(
        self,
        block: FrameBlock,
        need: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.int_]],
    ) -> None:
        """Add what is needed of the next block.

        Args:
            block: Its frames.
            need: Returns the `Need` of frames that begin and end at these times, seconds (n,) each.

        Raises:
            UnreadableError: `too_long: ...` where the frames of one video do not fit into memory.
        """
        times = np.concatenate([self.times[-1:], block.times])
        needs = need(times, np.append(times[1:], np.inf))
        needs[-1] = Need.WHOLE
        if len(self.frames):
            if needs[0] == Need.NONE:
                self.frames.pop()
                self.times = self.times[:-1]
            needs = needs[1:]
        new = np.flatnonzero(needs)
        self.frames += [self._reduce(block.frames[index], Need(needs[index])) for index in new]
        self.times = np.concatenate([self.times, block.times[new]])
        held = sum(picture.nbytes for frame in self.frames for picture in frame)
        _check_memory(self._path, held, len(self.frames))

    def keep_from(self, first: int) -> None:
        """Drop the frames before an index of those kept."""
        self.frames, self.times = self.frames[first:], self.times[first:]


def map_clips(
    path: Path,
    starts_s: Sequence[float],
    shape: ClipShape,
    use: Callable[[NDArray[np.uint8]], _Result],
    until_s: float | None = None,
    views: Sequence[View] = (),
) -> list[_Result]:
    """Return what `use` makes of each clip of one video, in the order of `starts_s`.

    Without `until_s` the video is read to its end whatever clips are wanted: whether it is damaged must not
    depend on them.

    Args:
        path: The file.
        starts_s: When the clips begin, in any order. After the end of a video its last frame stays on show.
        shape: Size, length and frame rate of the clips.
        use: Called with the frames (F, H, W, 3) of a clip as soon as they are known.
        until_s: No clip shows a frame that begins later.
        views: How each clip is cut; none = as ingest does. Memory then holds whole frames, of twice the
            clip's size, as long as a clip needs them.

    Raises:
        UnreadableError: see `open_video` and `probe`.
    """
    info = probe(path)
    size = shape.width_px, shape.height_px
    order = sorted(range(len(starts_s)), key=starts_s.__getitem__)
    shapes = [replace(shape, fps=view.fps) for view in views] or [shape] * len(starts_s)
    window = FrameWindow(path, lambda frame, _: (frame.copy() if views else crop_frame(frame, size),))
    waiting, results = list(order), dict[int, _Result]()
    shown_s = [_shown_at(start, of_clip) for start, of_clip in zip(starts_s, shapes, strict=True)]
    wanted_s = np.sort(np.concatenate([np.empty(0), *shown_s]))

    def need(begins: NDArray[np.float64], ends: NDArray[np.float64]) -> NDArray[np.int_]:
        first, behind = np.searchsorted(wanted_s, begins), np.searchsorted(wanted_s, ends)
        return np.where(behind > first, Need.WHOLE, Need.NONE)

    def use_next() -> None:
        number = waiting.pop(0)
        chosen = clip_frames(window.times, starts_s[number], shapes[number])
        clip = np.stack([window.frames[index][0] for index in chosen])
        results[number] = use(cut_view(clip, size, views[number]) if views else clip)

    for block in open_video(path, info, cover_height(info, size), until_s):
        window.append(block, need)
        while waiting and window.times[-1] > shown_s[waiting[0]][-1] + _BEHIND_S:
            use_next()
        times = window.times
        window.keep_from(clip_frames(times, starts_s[waiting[0]], shape)[0] if waiting else len(times) - 1)
    while waiting:
        use_next()
    return [results[number] for number in range(len(starts_s))]


def read_clips(path: Path, starts_s: Sequence[float], shape: ClipShape) -> NDArray[np.uint8]:
    """Clips of one video: (n, F, H, W, 3). What comes after the last of them is not read.

    Raises:
        UnreadableError: see `map_clips`, or `too_long: ...` where the clips do not fit into memory.
    """
    num_frames = len(starts_s) * shape.num_frames
    _check_memory(path, num_frames * shape.height_px * shape.width_px * 3, num_frames)
    until_s = max(starts_s) + (shape.num_frames - 1) / shape.fps + _TICK_S
    return np.stack(map_clips(path, starts_s, shape, lambda clip: clip, until_s))


def read_ledger_clips(raw: Path, rows: "pandas.DataFrame", params: IngestParams) -> list[NDArray[np.uint8]]:
    """Clips (F, H, W, 3) of many videos in the order of the rows. Those of a video are read in one pass.

    Args:
        raw: Folder that the column `video` is relative to.
        rows: Rows of the ledger; the starts and shapes of clips are used.
        params: Section `ingest`: frame rate of clips, and how many videos are read side by side (by threads:
            decoders work outside Python's lock).
    """
    clips: list[NDArray[np.uint8]] = [np.empty(0, np.uint8)] * len(rows)
    shapes, starts = ledger_shapes(rows, params), rows["start_s"].tolist()
    by_video: dict[tuple[str, ClipShape], list[int]] = {}
    for index, key in enumerate(zip(rows["video"], shapes, strict=True)):
        by_video.setdefault(key, []).append(index)
    with (
        ThreadPoolExecutor(params.num_workers) as pool,
        tqdm(total=len(rows), desc="reading clips", unit="clip", disable=None) as bar,
    ):
        tasks = {
            pool.submit(read_clips, raw / video, [starts[index] for index in group], shape): group
            for (video, shape), group in by_video.items()
        }
        for task in as_completed(tasks):
            for index, clip in zip(tasks[task], task.result(), strict=True):
                clips[index] = clip
                bar.update()
    return clips


def read_context(path: Path, params: IngestParams, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Pictures (F, H, W, 3) to generate from: a picture file, or the last ones of a video.

    Of a video, pictures come at the frame rate of clips: as many as a clip has, or fewer if it is shorter.
    They cover the clip twice, as the frames that training is shown before they are cropped. Only the end of a
    long video is read, if its index leads there.

    Args:
        path: The file.
        params: Section `ingest`: length and frame rate.
        size: Width and height of the clip, pixels; None = the size that a clip of the video has.

    Raises:
        DataError: no such file, or neither a picture nor a readable video.
    """
    if not path.is_file() or is_picture(path):
        return read_picture(path)[None]
    try:
        info = probe(path)
        height_px = cover_height(info, size or clip_size(info.width, info.height, params))
        from_s = info.duration_s - (params.num_frames - 1) / params.fps - _SPARE_S
        if from_s > _WORTH_S and any(name in info.container for name in _WITH_INDEX):
            with contextlib.suppress(UnreadableError):
                frames = _last_frames(lambda: open_video(path, info, height_px, None, from_s), params)
                if len(frames) == params.num_frames:
                    return frames
        return _last_frames(lambda: open_video(path, info, height_px), params)
    except UnreadableError as error:
        raise DataError(
            f"{path}: got a file that is no readable video ({error.reason}), expected a picture or a video; "
            "check that it opens in a player"
        ) from None


def _last_frames(read: Callable[[], Iterator[FrameBlock]], params: IngestParams) -> NDArray[np.uint8]:
    """The last frames (F, H, W, 3) of a stream, at the frame rate of clips.

    Which these are is known at its end. So all frames of the last seconds are held, or where these are too
    many, as at 120 frames a second in 4K, the stream is read once more for them.
    """
    held: list[FrameBlock] = []
    times_of_blocks: list[NDArray[np.float64]] = []
    fits = True
    for block in read():
        times_of_blocks.append(block.times)
        begin_s = block.times[-1] - (params.num_frames - 1) / params.fps
        # With the last frame that begins before: it is still on show then.
        first = sum(later.times[0] <= begin_s for later in [*held, block][1:])
        held = [*held, block][first:] if fits else []
        fits = fits and sum(before.frames.nbytes for before in held) <= _HELD_BYTES
    times = np.concatenate(times_of_blocks)
    count = min(params.num_frames, 1 + int((times[-1] - times[0]) * params.fps))
    start_s = float(times[-1]) - (count - 1) / params.fps
    chosen = clip_frames(times, start_s, replace(params, num_frames=count, shorter_clips=()))
    wanted, found, position = set(chosen.tolist()), dict[int, NDArray[np.uint8]](), 0
    if fits:
        position = len(times) - sum(len(block.times) for block in held)
    for block in held if fits else read():
        here = wanted.intersection(range(position, position + len(block.times)))
        found |= {index: block.frames[index - position].copy() for index in here}
        position += len(block.times)
    return np.stack([found[index] for index in chosen.tolist()])


def clip_frames(
    times: NDArray[np.float64], start_s: float, shape: IngestParams | ClipShape
) -> NDArray[np.int64]:
    """Indices (F,) of the frames that a player shows at `start_s + i / fps`: the last that has begun.

    Not the nearest: where a frame is held before a cut, the nearest may be the first of the next shot.
    """
    return np.maximum(np.searchsorted(times, _shown_at(start_s, shape), side="right") - 1, 0)


def _shown_at(start_s: float, shape: IngestParams | ClipShape) -> NDArray[np.float64]:
    """When the frames of a clip are on show, seconds (F,): late enough for starts that were rounded down."""
    return start_s + np.arange(shape.num_frames) / shape.fps + _TICK_S


def cover_height(info: VideoInfo, size: tuple[int, int]) -> int:
    """Height at which a video as displayed covers twice the size (width, height)."""
    return math.ceil(2 * max(size[1], size[0] * (info.height / info.width)))


def cut_view(frames: NDArray[np.uint8], size: tuple[int, int], view: View) -> NDArray[np.uint8]:
    """What a view shows of frames (F, H, W, 3), as (F, height, width, 3); size is (width, height)."""
    clip = crop_to_size(frames, size, view)
    return np.ascontiguousarray(clip[:, :, ::-1]) if view.mirrored else clip


def crop_to_size(
    frames: NDArray[np.uint8], size: tuple[int, int], view: View | None = None
) -> NDArray[np.uint8]:
    """The centre of frames (F, H, W, 3) as (F, height, width, 3), size being (width, height); shrunk by area.

    The largest centre of these proportions is taken, or the box of a view, exact to a pixel of `frames`.
    """
    height, width = frames.shape[1:3]
    view = view or View(0.0)
    scale = min(width / size[0], height / size[1]) / view.zoom
    across, down = min(width, max(1, round(size[0] * scale))), min(height, max(1, round(size[1] * scale)))
    top, left = int((height - down) * view.top), int((width - across) * view.left)
    centres = frames[:, top : top + down, left : left + across]
    if (across, down) == size:
        return centres
    method = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
    return np.stack([cv2.resize(frame, size, interpolation=method) for frame in centres])


def crop_frame(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """As `crop_to_size`, of one frame (H, W, 3); it shares no memory with the frame."""
    return crop_to_size(frame[None], size)[0].copy()


def _check_memory(path: Path, num_bytes: int, num_frames: int) -> None:
    if num_bytes > _MAX_BYTES:
        raise UnreadableError(f"too_long: over {num_frames - 1} frames; cut it into parts", path)

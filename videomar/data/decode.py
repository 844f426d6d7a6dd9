"""Pixels out of video files: the only place that knows how to decode clips.

decord reads first; what it refuses, or gives timestamps to that do not rise, is read again by PyAV, which is
slower and right more often. Frames are scaled to a small size while they are decoded, turned as a player
turns them, and their pixels made square. Time 0 is the first frame.

A file that breaks off, or whose stream is damaged, is refused as a whole: decoders hand out garbled pictures
after the damage, and nobody would notice them in a training set. Formats without an index at hand (.ts, .mkv)
cannot be told from complete ones when they break off between two packets: of these, what is there is read.

Axes: F frames, H W rows and columns in pixels, n clips.
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import av
import cv2
import decord
import numpy as np
import pandas
from numpy.typing import NDArray
from tqdm import tqdm

from videomar.config import IngestParams
from videomar.data.probe import UnreadableError, VideoInfo, probe

decord.logging.set_level(decord.logging.FATAL)

_BLOCK = 64  # frames decord converts at once
_TICK_S = 0.001  # starts of clips, and the times in some containers, are rounded to it
_MAX_BYTES = 1_500_000_000  # of small frames that one video may take in memory
# Formats with an index. In others decord lands beside the frame it seeks, silently: of an MPEG program stream
# it returned 178 of 190 frames, the first 12 missing and the last repeated, with times that rise.
_DECORD_CONTAINERS = ("mov", "matroska", "avi")


class _DecoderError(Exception):
    """This decoder cannot read this file."""


def read_video(path: Path, info: VideoInfo, height_px: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """All frames of a video and their times.

    Args:
        path: The file.
        info: What `probe` said about it.
        height_px: Height of the frames, pixels; a smaller video keeps its own.

    Returns:
        frames (F, H, W, 3), timestamps_s (F,) rising from 0.

    Raises:
        UnreadableError: `unreadable: ...`, `damaged: ...` or `too_long: ...`.
    """
    return _read(path, info, height_px, None)


def read_clips(path: Path, starts_s: list[float], params: IngestParams) -> NDArray[np.uint8]:
    """Clips of one video in one pass: (n, F, size_px, size_px, 3).

    Raises:
        UnreadableError: see `read_video` and `probe`.
    """
    info = probe(path)
    wanted_s = np.unique([_clip_times(start, params) for start in starts_s])
    frames, times = _read(path, info, cover_height(info, 2 * params.size_px), wanted_s)
    squares = crop_to_square(frames, params.size_px)
    return np.stack([squares[clip_frames(times, start, params)] for start in starts_s])


def read_ledger_clips(raw: Path, rows: pandas.DataFrame, params: IngestParams) -> NDArray[np.uint8]:
    """Clips of many videos in the order of the rows: (n, F, size_px, size_px, 3). Each video is opened once.

    Args:
        raw: Folder that the column `video` is relative to.
        rows: Rows of the ledger; columns `video` and `start_s` are used.
        params: Section `ingest`: shape and frame rate of clips, and how many videos are read side by side (by
            threads: decoders work outside Python's lock).
    """
    size = params.size_px
    clips = np.empty((len(rows), params.num_frames, size, size, 3), np.uint8)
    places = rows.reset_index(drop=True).groupby("video", sort=False).indices
    starts = rows["start_s"].to_numpy()
    with (
        ThreadPoolExecutor(params.num_workers) as pool,
        tqdm(total=len(rows), desc="reading clips", unit="clip", disable=None) as bar,
    ):
        tasks = {
            pool.submit(read_clips, raw / str(video), starts[place].tolist(), params): place
            for video, place in places.items()
        }
        for task in as_completed(tasks):
            place = tasks[task]
            clips[place] = task.result()
            bar.update(len(place))
    return clips


def clip_frames(times: NDArray[np.float64], start_s: float, params: IngestParams) -> NDArray[np.int64]:
    """Indices (F,) of the frames that a player shows at `start_s + i / fps`.

    Not the nearest: where a frame is held before a cut, the nearest may be the first of the next shot.
    """
    return _shown_frames(times, _clip_times(start_s, params))


def cover_height(info: VideoInfo, side_px: int) -> int:
    """Height at which the shorter side of a video as displayed is `side_px`."""
    return math.ceil(side_px * max(1.0, info.height / info.width))


def crop_to_square(frames: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    """The centre of frames (F, H, W, 3) as (F, size_px, size_px, 3); shrunk by area."""
    height, width = frames.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    centres = frames[:, top : top + side, left : left + side]
    if side == size_px:
        return centres
    method = cv2.INTER_AREA if side > size_px else cv2.INTER_LINEAR
    return np.stack([cv2.resize(frame, (size_px, size_px), interpolation=method) for frame in centres])


def _clip_times(start_s: float, params: IngestParams) -> NDArray[np.float64]:
    return start_s + np.arange(params.num_frames) / params.fps


def _shown_frames(times: NDArray[np.float64], wanted_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index of the frame on show at each wanted time: the last that has begun."""
    return np.maximum(np.searchsorted(times, wanted_s + _TICK_S, side="right") - 1, 0)


def _read(
    path: Path, info: VideoInfo, height_px: int, wanted_s: NDArray[np.float64] | None
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The frames on show at the wanted times (rising; None: all frames), and the times of these frames."""
    height = min(height_px, info.height)
    width = max(1, round(info.width * height / info.height))
    try:
        frames, times, chosen = _read_decord(path, info, (width, height), wanted_s)
    except _DecoderError:
        frames, times, chosen = _read_pyav(path, info, (width, height), wanted_s)
    frame_s = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    count_short = info.num_frames is not None and len(times) < 0.95 * info.num_frames
    if count_short and times[-1] + frame_s < 0.95 * info.duration_s:
        raise UnreadableError(f"damaged: {len(times)} of {info.num_frames} frames", path)
    return frames, times[chosen]


def _read_decord(
    path: Path, info: VideoInfo, size: tuple[int, int], wanted_s: NDArray[np.float64] | None
) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.int64]]:
    if not any(name in info.container for name in _DECORD_CONTAINERS):
        raise _DecoderError(f"decord seeks wrongly in {info.container}")
    if info.rotation:
        raise _DecoderError("decord scales a turned video as if it were not turned")
    try:
        reader = decord.VideoReader(str(path.absolute()), width=size[0], height=size[1], num_threads=1)
        times = np.asarray(reader.get_frame_timestamp(range(len(reader))), np.float64)[:, 0]
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise _DecoderError(str(error)) from None
    # A time below 0 marks frames that an edit list hides; decord returns others in their place.
    if times[0] < 0 or not (np.diff(times) > 0).all():
        raise _DecoderError("timestamps that do not rise from 0")
    times = times - times[0]
    chosen = _choose(times, wanted_s)
    _check_memory(path, len(chosen), size)
    frames = np.empty((len(chosen), size[1], size[0], 3), np.uint8)
    # Every frame in its order, up to the last one wanted: where decord seeks or skips it may land elsewhere
    # and return other pictures without a word.
    for first in range(0, int(chosen[-1]) + 1, _BLOCK):
        here = (chosen >= first) & (chosen < first + _BLOCK)
        try:
            block = reader.get_batch(range(first, min(first + _BLOCK, len(times)))).asnumpy()
        except (decord.DECORDError, RuntimeError, ValueError) as error:
            raise _DecoderError(str(error)) from None
        frames[here] = block[chosen[here] - first]
    return frames, times, chosen


def _read_pyav(
    path: Path, info: VideoInfo, size: tuple[int, int], wanted_s: NDArray[np.float64] | None
) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.int64]]:
    frames: list[NDArray[np.uint8]] = []
    times: list[float] = []
    try:
        for time, frame in _decode_pyav(path, info, size):
            if times and time <= times[-1]:
                continue
            # Whether a frame is on show at a wanted time is known when the next begins.
            if times and wanted_s is not None and not _is_shown(wanted_s, times[-1], time):
                frames.pop()
            _check_memory(path, len(frames) + 1, size)
            frames.append(frame)
            times.append(time)
    except (av.FFmpegError, ValueError) as error:
        said = getattr(error, "strerror", None) or str(error)
        state = f"damaged: {said} after {len(times)} frames" if times else f"unreadable: {said}"
        raise UnreadableError(state, path) from None
    if not times:
        raise UnreadableError("unreadable: not one frame", path)
    chosen = _choose(np.array(times), wanted_s)
    return np.stack(frames[: len(chosen)]), np.array(times), chosen


def _decode_pyav(
    path: Path, info: VideoInfo, size: tuple[int, int]
) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Time since the first frame and pixels of every frame, scaled and turned."""
    turns = info.rotation // 90
    width, height = size if turns % 2 == 0 else size[::-1]
    with av.open(f"file:{path.absolute()}", options={"protocol_whitelist": "file"}) as container:
        stream = container.streams.best("video")
        if stream is None:
            raise UnreadableError("no_video_stream", path)
        stream.codec_context.thread_count = 1
        first = None
        time = 0.0
        for frame in container.decode(stream):
            if not isinstance(frame, av.VideoFrame):
                continue
            if frame.is_corrupt:
                raise ValueError("a corrupt frame")
            time = frame.time if frame.time is not None else time + 1 / (info.fps or 25.0)
            first = time if first is None else first
            small = frame.reformat(width=width, height=height, format="rgb24", interpolation="BICUBIC")
            yield time - first, np.rot90(small.to_ndarray(), k=-turns)


def _choose(times: NDArray[np.float64], wanted_s: NDArray[np.float64] | None) -> NDArray[np.int64]:
    return np.arange(len(times)) if wanted_s is None else np.unique(_shown_frames(times, wanted_s))


def _is_shown(wanted_s: NDArray[np.float64], begins_s: float, ends_s: float) -> bool:
    """Whether a wanted time (rising) lies within a frame."""
    first, last = np.searchsorted(wanted_s + _TICK_S, (begins_s, ends_s))
    return bool(last > first)


def _check_memory(path: Path, num_frames: int, size: tuple[int, int]) -> None:
    if num_frames * size[0] * size[1] * 3 > _MAX_BYTES:
        raise UnreadableError(f"too_long: over {num_frames - 1} frames; cut it into parts", path)

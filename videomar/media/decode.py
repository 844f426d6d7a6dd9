"""Clips out of video files, and whole videos as streams of blocks: what each frame shows, and when.

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

import cv2
import numpy as np
import pandas
from numpy.typing import NDArray
from tqdm import tqdm

from videomar.config import IngestParams
from videomar.media.decoders import Block, DecoderError, decord_blocks, pyav_blocks
from videomar.media.probe import UnreadableError, VideoInfo, probe
from videomar.media.shapes import ClipShape, ledger_shapes

_TICK_S = 0.001  # starts of clips, and the times in some containers, are rounded to it
_MAX_BYTES = 1_500_000_000  # of small frames that one video may take in memory


def stream_video(
    path: Path, info: VideoInfo, height_px: int, until_s: float | None = None
) -> Iterator[Block]:
    """All frames of a video and their times, block by block.

    A block that begins at time 0 begins the video anew: the first decoder gave up on the way, what it gave
    is void. That the video is whole is known when the stream has ended without an error.

    Args:
        path: The file.
        info: What `probe` said about it.
        height_px: Height of the frames, pixels; a smaller video keeps its own.
        until_s: No frame is wanted that begins later; a decoder may go on nevertheless.

    Yields:
        frames (F, H, W, 3), timestamps_s (F,) rising from 0 over all blocks.

    Raises:
        UnreadableError: `unreadable: ...` or `damaged: ...`.
    """
    height = min(height_px, info.height)
    size = max(1, round(info.width * height / info.height)), height
    try:
        yield from decord_blocks(path, info, size, until_s)
    except DecoderError:
        yield from pyav_blocks(path, info, size)


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
    blocks: list[Block] = []
    for block in stream_video(path, info, height_px):
        blocks = [block] if block[1][0] == 0 else [*blocks, block]
        check_memory(path, [frames for frames, _ in blocks])
    return np.concatenate([frames for frames, _ in blocks]), np.concatenate([times for _, times in blocks])


def read_clips(path: Path, starts_s: list[float], shape: ClipShape) -> NDArray[np.uint8]:
    """Clips of one video in one pass: (n, F, H, W, 3).

    Raises:
        UnreadableError: see `read_video` and `probe`.
    """
    info = probe(path)
    wanted_s = np.unique([_clip_times(start, shape) for start in starts_s])
    size = shape.width_px, shape.height_px
    blocks = stream_video(path, info, cover_height(info, size), float(wanted_s[-1]) + _TICK_S)
    frames, times = _frames_on_show(path, blocks, wanted_s)
    pictures = crop_to_size(frames, size)
    return np.stack([pictures[clip_frames(times, start, shape)] for start in starts_s])


def read_ledger_clips(raw: Path, rows: pandas.DataFrame, params: IngestParams) -> list[NDArray[np.uint8]]:
    """Clips (F, H, W, 3) of many videos in the order of the rows. Those of a video are read in one pass.

    Args:
        raw: Folder that the column `video` is relative to.
        rows: Rows of the ledger; where clips lie, and their shapes, are used.
        params: Section `ingest`: frame rate of clips, and how many videos are read side by side (by threads:
            decoders work outside Python's lock).
    """
    clips: list[NDArray[np.uint8]] = [np.empty(0, np.uint8)] * len(rows)
    shapes, starts = ledger_shapes(rows, params), rows["start_s"].tolist()
    places: dict[tuple[str, ClipShape], list[int]] = {}
    for place, key in enumerate(zip(rows["video"], shapes, strict=True)):
        places.setdefault(key, []).append(place)
    with (
        ThreadPoolExecutor(params.num_workers) as pool,
        tqdm(total=len(rows), desc="reading clips", unit="clip", disable=None) as bar,
    ):
        tasks = {
            pool.submit(read_clips, raw / video, [starts[place] for place in group], shape): group
            for (video, shape), group in places.items()
        }
        for task in as_completed(tasks):
            for place, clip in zip(tasks[task], task.result(), strict=True):
                clips[place] = clip
                bar.update()
    return clips


def clip_frames(
    times: NDArray[np.float64], start_s: float, shape: IngestParams | ClipShape
) -> NDArray[np.int64]:
    """Indices (F,) of the frames that a player shows at `start_s + i / fps`.

    Not the nearest: where a frame is held before a cut, the nearest may be the first of the next shot.
    """
    return _shown_frames(times, _clip_times(start_s, shape))


def cover_height(info: VideoInfo, size: tuple[int, int]) -> int:
    """Height at which a video as displayed covers twice the size (width, height)."""
    return math.ceil(2 * max(size[1], size[0] * (info.height / info.width)))


def crop_to_size(frames: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The centre of frames (F, H, W, 3) as (F, height, width, 3), size being (width, height); shrunk by area.

    The largest centre of these proportions is taken, exact to a pixel of `frames`.
    """
    height, width = frames.shape[1:3]
    scale = min(width / size[0], height / size[1])
    across, down = min(width, max(1, round(size[0] * scale))), min(height, max(1, round(size[1] * scale)))
    top, left = (height - down) // 2, (width - across) // 2
    centres = frames[:, top : top + down, left : left + across]
    if (across, down) == size:
        return centres
    method = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
    return np.stack([cv2.resize(frame, size, interpolation=method) for frame in centres])


def _clip_times(start_s: float, shape: IngestParams | ClipShape) -> NDArray[np.float64]:
    return start_s + np.arange(shape.num_frames) / shape.fps


def _shown_frames(times: NDArray[np.float64], wanted_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index of the frame on show at each wanted time: the last that has begun."""
    return np.maximum(np.searchsorted(times, wanted_s + _TICK_S, side="right") - 1, 0)


def _frames_on_show(path: Path, blocks: Iterator[Block], wanted_s: NDArray[np.float64]) -> Block:
    """The frames of a stream that a player shows at the wanted times (rising), and when they begin."""
    chosen: list[Block] = []
    held: Block = np.empty((0, 0, 0, 3), np.uint8), np.empty(0)
    for frames, times in blocks:
        if times[0] == 0:
            chosen = []
        else:
            # Until when the last frame of a block is on show is known when the next block comes.
            frames, times = np.concatenate([held[0], frames]), np.concatenate([held[1], times])
        shown = np.diff(np.searchsorted(wanted_s + _TICK_S, times)) > 0
        chosen.append((frames[:-1][shown], times[:-1][shown]))
        held = frames[-1:].copy(), times[-1:]
        check_memory(path, [frames for frames, _ in chosen])
    if wanted_s[-1] + _TICK_S >= held[1][0]:
        chosen.append(held)
    return np.concatenate([frames for frames, _ in chosen]), np.concatenate([times for _, times in chosen])


def check_memory(path: Path, blocks: list[NDArray[np.uint8]]) -> None:
    """Refuse to hold more frames of one video than fit.

    Raises:
        UnreadableError: `too_long: ...`.
    """
    if sum(block.nbytes for block in blocks) > _MAX_BYTES:
        num_frames = sum(len(block) for block in blocks)
        raise UnreadableError(f"too_long: over {num_frames - 1} frames; cut it into parts", path)

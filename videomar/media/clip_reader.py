"""Clips of one video in one pass over it, however long it is: memory holds about one clip's frames.

Axes: F frames, H W rows and columns in pixels.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from videomar.media.decode import check_memory, clip_frames, cover_height, crop_to_size, stream_video
from videomar.media.decoders import Block
from videomar.media.probe import probe
from videomar.media.shapes import ClipShape

# A frame that begins this much after the end of a clip is behind it, whatever times are rounded to.
_BEHIND_S = 0.01


def stream_clips(
    path: Path, starts_s: Sequence[float], shape: ClipShape
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Clips of one video, each as soon as its last frame is known.

    The video is read to its end whatever clips are wanted: which decoder gives it up halfway must not depend
    on them. A clip may come a second time, when the first decoder did give up; the later one counts.

    Args:
        path: The file.
        starts_s: When the clips begin, in any order.
        shape: Size, length and frame rate of the clips.

    Yields:
        Which of `starts_s`, and its frames (F, H, W, 3).

    Raises:
        UnreadableError: see `read_video` and `probe`.
    """
    info = probe(path)
    order = sorted(range(len(starts_s)), key=starts_s.__getitem__)
    length_s = (shape.num_frames - 1) / shape.fps
    waiting: list[int] = []
    held: Block = np.empty((0, 0, 0, 3), np.uint8), np.empty(0)
    height_px = cover_height(info, (shape.width_px, shape.height_px))
    for frames, times in stream_video(path, info, height_px):
        if times[0] == 0:
            waiting = list(order)
        else:
            frames, times = np.concatenate([held[0], frames]), np.concatenate([held[1], times])
        while waiting and times[-1] > starts_s[waiting[0]] + length_s + _BEHIND_S:
            number = waiting.pop(0)
            yield number, _clip(frames, times, starts_s[number], shape)
        first = clip_frames(times, starts_s[waiting[0]], shape)[0] if waiting else len(times) - 1
        held = frames[first:].copy(), times[first:]
        check_memory(path, [held[0]])
    for number in waiting:
        yield number, _clip(*held, starts_s[number], shape)


def _clip(
    frames: NDArray[np.uint8], times: NDArray[np.float64], start_s: float, shape: ClipShape
) -> NDArray[np.uint8]:
    return crop_to_size(frames[clip_frames(times, start_s, shape)], (shape.width_px, shape.height_px))

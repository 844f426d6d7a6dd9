"""What a clip is generated from: a picture, or the end of a video.

Axes: F frames, H W rows and columns in pixels.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from videomar.config import IngestParams
from videomar.errors import DataError
from videomar.media.decode import check_memory, clip_frames, stream_video
from videomar.media.decoders import Block
from videomar.media.images import is_picture, read_picture
from videomar.media.probe import UnreadableError, probe


def read_given(path: Path, params: IngestParams) -> NDArray[np.uint8]:
    """Pictures (F, H, W, 3): one of a picture file, or the last ones of a video at the clips' frame rate.

    Of a video as many frames come as a clip has, or as there are.

    Raises:
        DataError: no such file, or neither a picture nor a readable video.
    """
    if not path.is_file() or is_picture(path):
        return read_picture(path)[None]
    try:
        frames, times = _read_end(path, params.num_frames / params.fps)
    except UnreadableError as error:
        raise DataError(
            f"{path}: got a file that is no readable video ({error.reason}), expected a picture or a video; "
            "check that it opens in a player"
        ) from None
    count = min(params.num_frames, 1 + int((times[-1] - times[0]) * params.fps))
    start_s = float(times[-1]) - (count - 1) / params.fps
    return frames[clip_frames(times, start_s, replace(params, num_frames=count))]


def _read_end(path: Path, length_s: float) -> Block:
    """The end of a video, at least `length_s` before its last frame: frames and their times."""
    info = probe(path)
    blocks: list[Block] = []
    for block in stream_video(path, info, info.height):
        blocks = [block] if block[1][0] == 0 else [*blocks, block]
        begin_s = block[1][-1] - length_s
        blocks = [(frames, times) for frames, times in blocks if times[-1] >= begin_s]
        check_memory(path, [frames for frames, _ in blocks])
    return np.concatenate([frames for frames, _ in blocks]), np.concatenate([times for _, times in blocks])

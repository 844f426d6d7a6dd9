"""What a clip is generated from: a picture, or the end of a video.

Axes: F frames, H W rows and columns in pixels.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from videomar.config import IngestParams
from videomar.data.decode import read_video
from videomar.data.pictures import is_picture, read_picture
from videomar.data.probe import UnreadableError, probe
from videomar.errors import DataError


def read_given(path: Path, params: IngestParams) -> NDArray[np.uint8]:
    """Pictures (F, H, W, 3): one of a picture file, or the last ones of a video at the clips' frame rate.

    Of a video as many frames come as a clip has, or as there are.

    Raises:
        DataError: no such file, or neither a picture nor a readable video.
    """
    if not path.is_file() or is_picture(path):
        return read_picture(path)[None]
    try:
        info = probe(path)
        frames, times = read_video(path, info, info.height)
    except UnreadableError as error:
        raise DataError(f"{path}: got {error}, expected a picture or a video") from None
    count = min(params.num_frames, 1 + int(times[-1] * params.fps))
    wanted_s = times[-1] - np.arange(count)[::-1] / params.fps
    return frames[np.abs(times[:, None] - wanted_s).argmin(0)]

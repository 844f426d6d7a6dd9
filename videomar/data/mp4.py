"""Frames to an mp4 file that every player opens.

Axes: F frames, H W rows and columns in pixels.
"""

from pathlib import Path

import ffmpeg
import numpy as np
from numpy.typing import NDArray

from videomar.data.probe import find_ffmpeg
from videomar.drafts import draft_of
from videomar.errors import DataError


def write_mp4(path: Path, frames: NDArray[np.uint8], fps: float) -> None:
    """Write (F, H, W, 3) uint8 frames as H.264; the file is there complete or not at all.

    Raises:
        DataError: ffmpeg could not write it, for example because the folder is missing.
    """
    _, height, width, _ = frames.shape
    picture = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", r=fps)
    even = picture.filter("pad", "ceil(iw/2)*2", "ceil(ih/2)*2")  # this pixel format has no odd sizes
    options = {"format": "mp4", "vcodec": "libx264", "crf": 12, "pix_fmt": "yuv420p", "threads": 1}
    try:
        with draft_of(path) as draft:
            # `file:` keeps a name with a colon or a leading dash from being read as a protocol or an option.
            job = even.output(f"file:{draft}", **options).global_args("-loglevel", "error").overwrite_output()
            job.run(cmd=str(find_ffmpeg()), input=np.ascontiguousarray(frames).tobytes(), capture_stderr=True)
    except ffmpeg.Error as error:
        line = " ".join(error.stderr.decode(errors="replace").split()) or "no reason given"
        raise DataError(f"{path}: got {line}, expected a file that can be written; check the path") from None

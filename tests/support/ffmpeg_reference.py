"""A film as the pinned ffmpeg shows it, and how far our reading of it is from that.

Axes: F frames, H W rows and columns in pixels.
"""

import re
import subprocess
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.support.videos import read_video
from videomar.media.mp4 import find_ffmpeg
from videomar.media.probe import probe

_SHOWN = re.compile(r"pts_time:(\S+) .* sar:(\d+)/(\d+) s:(\d+)x(\d+) ")


@dataclass(frozen=True, slots=True)
class Shown:
    """What ffmpeg shows of a film: every frame, turned and mirrored as the file says."""

    frames: NDArray[np.uint8]
    """(F, H, W, 3), scaled to the size that was asked for."""
    times: NDArray[np.float64]
    """Seconds (F,) since the first frame; nan where ffmpeg knows none."""
    size: tuple[int, int]
    """Width and height on a screen of square pixels, of the first frame."""


def shown_by_ffmpeg(path: Path, size: tuple[int, int], video: int = 0, filters: str = "null") -> Shown:
    """Return the film as ffmpeg shows it.

    Args:
        path: The file.
        size: Width and height of the frames to return.
        video: Which of its video streams is the film, counted from 0.
        filters: What a player must do besides, as filters of ffmpeg.
    """
    chain = f"{filters},showinfo=checksum=0,scale={size[0]}:{size[1]}:flags=bicubic"
    command = f"-v info -nostats -nostdin -i file:{path} -map 0:v:{video} -vf {chain} -fps_mode passthrough"
    done = subprocess.run(
        [str(find_ffmpeg()), *command.split(), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
        capture_output=True,
        timeout=120,
    )
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, size[1], size[0], 3)
    lines = _SHOWN.findall(done.stderr.decode(errors="replace"))
    times = np.array([float("nan" if line[0] == "NOPTS" else line[0]) for line in lines])
    aspect = Fraction(int(lines[0][1]) or 1, int(lines[0][2]) or 1)
    width, height = (int(side) for side in lines[0][3:])
    # ffmpeg keeps the shape of a pixel: we make it square by widening the picture as it is stored.
    return Shown(frames, times - times[0], (round(width * aspect), height))


@dataclass(frozen=True, slots=True)
class Distance:
    """How far our reading of a film is from ffmpeg's."""

    lost: int
    """Frames that ffmpeg shows and we do not; below 0: frames that only we have."""
    time_s: float
    """Largest difference of a frame's time."""
    uneven_s: float
    """Largest difference of a frame's time from even steps of 24 a second."""
    pixels: float
    """Mean difference of the pixels of a frame, of 255, at most."""
    misplaced: int
    """Frames that look more like the one before or behind in ffmpeg's film than like their own."""
    aspect: float
    """Our ratio of width to height over ffmpeg's."""


def distance_from_ffmpeg(path: Path, video: int = 0, filters: str = "null") -> Distance:
    """Compare every frame of a film as we read it with ffmpeg's; arguments as of `shown_by_ffmpeg`."""
    info = probe(path)
    frames, times = read_video(path, info, 1000)
    shown = shown_by_ffmpeg(path, (frames.shape[2], frames.shape[1]), video, filters)
    common = min(len(frames), len(shown.frames))
    apart = [
        [_apart(frames[index], shown.frames[other]) for other in _near(index, common)]
        for index in range(common)
    ]
    return Distance(
        lost=len(shown.frames) - len(frames),
        time_s=float(np.abs(times[:common] - shown.times[:common]).max()),
        uneven_s=float(np.abs(times - np.arange(len(times)) / 24).max()),
        pixels=max(own for own, *_ in apart),
        misplaced=sum(own > min(others) for own, *others in apart),
        aspect=(info.width / info.height) / (shown.size[0] / shown.size[1]),
    )


def _near(index: int, count: int) -> tuple[int, int, int]:
    """The index, and those before and behind it."""
    return index, max(0, index - 1), min(index + 1, count - 1)


def _apart(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> float:
    return float(np.abs(ours.astype(np.int16) - theirs).mean())

"""Frames to an mp4 file that every player opens, and the ffmpeg program that encodes them.

Axes: F frames, H W rows and columns in pixels.
"""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import ffmpeg
import numpy as np
from numpy.typing import NDArray

from videomar.errors import DataError
from videomar.files import atomic_write

PACKAGED = "packaged"
"""The version of ffmpeg that requirements.lock pins: it writes equal bytes on all machines of a platform."""


def find_ffmpeg(version: str | None = None) -> Path:
    """Find the ffmpeg program.

    Args:
        version: `packaged`, or the version that the program on PATH must have. None where no result depends
            on the bytes it writes: the packaged program, else the one on PATH.

    Raises:
        DataError: there is no such program.
    """
    # This static build crashes on .ts files if it loads character sets of the system's C library.
    os.environ.setdefault("GCONV_PATH", os.devnull)
    packaged, on_path = _packaged_program(), shutil.which("ffmpeg")
    if version is None or version == PACKAGED:
        found = packaged or (None if version else on_path)
        if found is None:
            there = f"; {on_path} has {ffmpeg_version(Path(on_path))}" if on_path else ""
            raise DataError(
                f"ffmpeg: got no packaged one, expected imageio-ffmpeg's; `pip install imageio-ffmpeg`, or "
                f"install ffmpeg and set samples.ffmpeg to its version{there}"
            )
        return Path(found)
    got = ffmpeg_version(Path(on_path)) if on_path else "none"
    if on_path is None or not (got == version or got.startswith((f"{version}.", f"{version}-"))):
        raise DataError(
            f"ffmpeg on PATH: got {got} ({on_path or 'no program'}), expected {version} by samples.ffmpeg; "
            f"install that, or set samples.ffmpeg to {PACKAGED} or the installed version (with other bytes)"
        )
    return Path(on_path)


def ffmpeg_version(program: Path) -> str:
    """Return the version that the program reports, as `7.0.2-static`.

    Raises:
        DataError: it does not run.
    """
    try:
        done = subprocess.run(
            [str(program), "-version"], capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout.split()[2]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        message = " ".join(str(error).split())
        raise DataError(
            f"{program}: got {message}, expected a program that runs; install ffmpeg again"
        ) from None


def _packaged_program() -> str | None:
    """The program inside the wheel `imageio-ffmpeg`, or None; its own finder would accept others."""
    spec = importlib.util.find_spec("imageio_ffmpeg")
    folders = spec.submodule_search_locations if spec is not None else None
    programs = [file for folder in folders or () for file in Path(folder, "binaries").glob("ffmpeg-*")]
    return shutil.which(programs[0]) if programs else None


def write_mp4(path: Path, frames: NDArray[np.uint8], fps: float) -> None:
    """Write (F, H, W, 3) uint8 frames as H.264, atomically.

    Raises:
        DataError: ffmpeg could not write it, for example because the folder is missing.
    """
    encode(path, frames, fps, find_ffmpeg(), crf=12)


def encode(path: Path, frames: NDArray[np.uint8], fps: float, program: Path, **options: object) -> None:
    """Write (F, H, W, 3) uint8 frames as H.264 by this ffmpeg, atomically.

    Args:
        path: The file.
        frames: All frames; an odd size gets a row or column of black.
        fps: Frames a second.
        program: The ffmpeg program.
        options: Options of its encoder libx264, as `crf=12`.

    Raises:
        DataError: ffmpeg could not write it.
    """
    _, height, width, _ = frames.shape
    picture = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", r=fps)
    if height % 2 or width % 2:
        picture = picture.filter("pad", "ceil(iw/2)*2", "ceil(ih/2)*2")  # yuv420p has no odd sizes
    # One thread: with more, x264 cuts pictures into slices, and the bytes depend on the number of cores.
    options = {"format": "mp4", "vcodec": "libx264", "pix_fmt": "yuv420p", "threads": 1, **options}
    try:
        with atomic_write(path) as draft:
            # `file:` keeps a name with a colon or a leading dash from being read as a protocol or an option.
            job = (
                picture.output(f"file:{draft}", **options)
                .global_args("-loglevel", "error")
                .overwrite_output()
            )
            job.run(cmd=str(program), input=np.ascontiguousarray(frames).tobytes(), capture_stderr=True)
    except ffmpeg.Error as error:
        line = " ".join(error.stderr.decode(errors="replace").split()) or "no reason given"
        raise DataError(f"{path}: got {line}, expected a file that can be written; check the path") from None

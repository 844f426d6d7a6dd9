"""Picture files as videos: a still picture has one frame, an animated one its own frames and times.

    still, any format that Pillow reads    here
    GIF and PNG that move                  PyAV, which composes their frames as browsers do
    others that move (WebP, AVIF)          here: FFmpeg reads no such WebP, and no opacity of AVIF

A loop is played once. Transparent pixels are on black, as those of videos are.

Axes: H W rows and columns in pixels.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from videomar.errors import DataError
from videomar.media.images import MAX_FILE_BYTES, is_animated, is_picture, open_picture
from videomar.media.pixels import displayed_size, rgb_pixels

CONTAINER = "picture"
"""`VideoInfo.container` of the files that this module reads."""
_MOVING_BY_PYAV = ("GIF", "PNG")
_GIF, _EXTENSION, _PICTURE = b"GIF8", 0x21, 0x2C  # first bytes of a GIF, and of its blocks
# Browsers show frames of up to 10 ms for a tenth of a second: files without times mean that.
_SHORTEST_S, _UNTIMED_S = 0.011, 0.1


class PictureError(Exception):
    """A picture file that cannot be read; the message is the reason for the ledger."""


class PictureFile(NamedTuple):
    """Header of a picture file that this module reads."""

    width: int
    """Of what is used, as displayed, pixels."""
    height: int
    num_frames: int
    kind: str
    """Pillow's name of the format, in small letters."""


def read_header(path: Path) -> PictureFile | None:
    """Return the header of a picture file; None for any other file, and for animations that PyAV reads.

    Raises:
        PictureError: it is a picture that is damaged, too large for the memory, or needs a library.
    """
    with path.open("rb") as file:
        is_gif = file.read(len(_GIF)) == _GIF
    if is_gif and _gif_breaks_off(path):
        raise PictureError("damaged: the file ends within a picture")
    if is_gif and path.stat().st_size > MAX_FILE_BYTES:
        return None  # hours of film: no still picture is as large
    still = is_picture(path)
    try:
        with open_picture(path) as picture:
            if not still and (not is_animated(picture) or picture.format in _MOVING_BY_PYAV):
                return None
            num_frames = 1 if still else int(getattr(picture, "n_frames", 1))
            return PictureFile(*displayed_size(picture), num_frames, str(picture.format).lower())
    except DataError as error:
        if still:
            raise PictureError(f"unreadable: {_short(error, path)}") from None
        return None


def read_frames(
    path: Path, num_frames: int, size: tuple[int, int]
) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Yield the time since the first and the pixels (H, W, 3) of every frame; size is (width, height).

    Raises:
        PictureError: a frame cannot be read.
    """
    time_s = 0.0
    try:
        with open_picture(path) as picture:
            for number in range(num_frames):
                if number:
                    picture.seek(number)
                yield time_s, _scaled(rgb_pixels(picture), size)
                shown_s = float(picture.info.get("duration") or 0) / 1000
                time_s += shown_s if shown_s >= _SHORTEST_S else _UNTIMED_S
    except DataError as error:
        raise PictureError(_short(error, path)) from None


def _short(error: DataError, path: Path) -> str:
    """What a message found and advises; the ledger names the file beside it."""
    got, _, rest = str(error).removeprefix(f"{path}: got ").partition(", expected ")
    return f"{got}; {rest.rpartition('; ')[2]}" if rest else got


def _gif_breaks_off(path: Path) -> bool:
    """Whether a GIF ends within a block; one that ends between two, without its last byte, is whole.

    Decoders fill the rest of the last picture with what was there before, and say nothing.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        place = 13 + _colours_bytes(data[10]) if len(data) > 10 else 13
        while place < len(data) and data[place] in (_EXTENSION, _PICTURE):
            if data[place] == _EXTENSION:
                place += 2
            else:
                place += 11 + _colours_bytes(data[place + 9]) if place + 9 < len(data) else 11
            while place < len(data) and data[place]:
                place += 1 + data[place]
            if place >= len(data):
                return True
            place += 1
        return place > len(data)


def _colours_bytes(flags: int) -> int:
    """Size of the table of colours that these flags announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _scaled(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if pixels.shape[1::-1] == size:
        return pixels
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)

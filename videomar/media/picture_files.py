"""Picture files as videos: a still picture has one frame, an animated one its own frames and times.

    still, any format that Pillow reads    here
    GIF and PNG that move                  PyAV, which composes their frames as browsers do
    WebP and AVIF that move                here: FFmpeg reads no such WebP, and no opacity of AVIF

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
from PIL import Image, ImageOps, UnidentifiedImageError

from videomar.errors import DataError
from videomar.media.images import read_picture

CONTAINER = "picture"
"""`VideoInfo.container` of the files that this module reads."""
_MAX_PIXELS = 64_000_000
# Documents, programs for printers, and kinds that Pillow names but cannot read by itself.
_NO_PICTURES = {"BUFR", "EPS", "FLI", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}
_MOVING_BY_PYAV = ("GIF", "PNG")
_MOVING_HERE = ("WEBP", "AVIF")
# Bytes at the start of files that PyAV opens, too, and would read in part: sheets of a HEIC picture, the
# first picture of an AVIF sequence, one frame of a picture that does not move.
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1")
_EXTENSION, _PICTURE = 0x21, 0x2C  # first bytes of blocks of a GIF
# Shown for a tenth of a second, as browsers do: a writer that gives no time means no hurry.
_SHORTEST_S, _UNTIMED_S = 0.011, 0.1


class PictureError(Exception):
    """A picture file that cannot be read; the message is the reason for the ledger."""


class PictureFile(NamedTuple):
    """Header of a picture file that this module reads."""

    width: int
    """As displayed, pixels."""
    height: int
    num_frames: int
    kind: str
    """Pillow's name of the format, as `webp`."""


def read_header(path: Path, refused: bool = False) -> PictureFile | None:
    """Return the header of a picture file; None for any other file, and for animations that PyAV reads.

    Args:
        path: The file.
        refused: Whether PyAV took it for no video: then every format of Pillow counts, else only those that
            PyAV would show wrongly.

    Raises:
        PictureError: it is a picture too large for the memory, or one that nothing installed here can read.
    """
    with path.open("rb") as file:
        start = file.read(16)
    kind = _kind_of(start)
    if kind is None and not refused:
        return None
    if kind == "GIF" and _gif_breaks_off(path):
        raise PictureError("damaged: the file ends within a picture")
    try:
        with Image.open(path) as picture:
            found = str(picture.format)
            moves = bool(getattr(picture, "is_animated", False))
            if found in _NO_PICTURES or (moves and found in _MOVING_BY_PYAV and not refused):
                return None
            size = picture.width, picture.height
            num_frames = int(getattr(picture, "n_frames", 1)) if moves and found in _MOVING_HERE else 1
            turned = picture.getexif().get(0x0112, 1) >= 5
    except Image.DecompressionBombError as error:
        raise PictureError(f"unreadable: too large: {error}; scale it down") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        if kind == "HEIF":
            rule = "install pillow-heif, or save it as JPEG"
            raise PictureError(f"unreadable: a HEIC picture; {rule}") from None
        if kind in _MOVING_HERE:
            raise PictureError(f"damaged: no readable {kind} picture") from None
        return None
    if size[0] * size[1] > _MAX_PIXELS:
        raise PictureError(f"unreadable: too large: {size[0]}x{size[1]} pixels; scale it down")
    return PictureFile(*(size[::-1] if turned else size), num_frames, found.lower())


def _kind_of(start: bytes) -> str | None:
    """Format of a file by its first 16 bytes, of those that PyAV opens but may show wrongly."""
    if start.startswith(b"GIF8"):
        return "GIF"
    if start.startswith(b"\x89PNG"):
        return "PNG"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start[4:8] == b"ftyp" and start[8:12] in _BRANDS:
        return "AVIF" if start[8:12].startswith(b"avi") else "HEIF"
    return None


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


def read_frames(
    path: Path, num_frames: int, size: tuple[int, int]
) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Yield the time since the first and the pixels (H, W, 3) of every frame; size is (width, height).

    Raises:
        PictureError: a frame cannot be read.
    """
    if num_frames == 1:
        try:
            yield 0.0, _scaled(read_picture(path), size)
        except DataError as error:
            raise PictureError(str(error).removeprefix(f"{path}: got ")) from None
        return
    time_s = 0.0
    with Image.open(path) as picture:
        for number in range(num_frames):
            try:
                picture.seek(number)
                pixels = np.asarray(ImageOps.exif_transpose(picture).convert("RGBA"))
            except (OSError, ValueError, EOFError, SyntaxError) as error:
                raise PictureError(f"{error} after {number} frames") from None
            yield time_s, _scaled(_on_black(pixels), size)
            shown_s = float(picture.info.get("duration") or 0) / 1000
            time_s += shown_s if shown_s >= _SHORTEST_S else _UNTIMED_S


def _on_black(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    opacity = pixels[..., 3:].astype(np.uint16)
    return ((pixels[..., :3] * opacity + 127) // 255).astype(np.uint8)


def _scaled(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if pixels.shape[1::-1] == size:
        return pixels
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)

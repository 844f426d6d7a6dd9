"""Single pictures as arrays, which image-to-video generation starts from.

Axes: H W rows and columns in pixels.
"""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from videomar.errors import DataError

_MAX_PIXELS = 64_000_000
_SAFE_FORMATS = ("PNG", "JPEG", "WEBP")
"""Of bytes, which may come from a stranger: other formats start programs or large libraries."""


def is_picture(path: Path) -> bool:
    """Whether the file is a single picture."""
    try:
        with Image.open(path) as picture:
            return getattr(picture, "n_frames", 1) == 1
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return False


def read_picture(source: Path | bytes, max_pixels: int = _MAX_PIXELS) -> NDArray[np.uint8]:
    """Read a picture file, turned as its EXIF tag says: (H, W, 3) uint8.

    Args:
        source: A path, or the bytes of a PNG, JPEG or WebP file.
        max_pixels: A larger picture is refused before it is decoded.

    Raises:
        DataError: there is no such file, or it is not a picture, or too large for the memory.
    """
    where = source if isinstance(source, Path) else "image"
    file, formats = (source, None) if isinstance(source, Path) else (io.BytesIO(source), _SAFE_FORMATS)
    try:
        with Image.open(file, formats=formats) as picture:
            if picture.width * picture.height > max_pixels:
                size = f"{picture.width}x{picture.height} pixels"
                raise DataError(f"{where}: got {size}, expected at most {max_pixels}; scale it down")
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except FileNotFoundError:
        raise DataError(f"{where}: no such file, expected a picture; check the path") from None
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: got no readable picture ({error}), expected a PNG or JPEG file") from None


def parse_size(text: str, where: str) -> tuple[int, int]:
    """Return width and height of a size like `64x32`, pixels.

    Raises:
        DataError: it is no such text.
    """
    width, _, height = text.partition("x")
    # Five digits: no size that anybody means is longer, and longer numbers take time to read.
    if not all(side.isdecimal() and len(side) <= 5 and int(side) for side in (width, height)):
        raise DataError(f"{where}: got {text[:20]}, expected WIDTHxHEIGHT in pixels, like 64x32")
    return int(width), int(height)

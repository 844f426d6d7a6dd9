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


def is_picture(path: Path) -> bool:
    """Whether the file is a single picture."""
    try:
        with Image.open(path) as picture:
            return getattr(picture, "n_frames", 1) == 1
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return False


def read_picture(source: Path | bytes) -> NDArray[np.uint8]:
    """Read a picture file, turned as its EXIF tag says: (H, W, 3) uint8.

    Args:
        source: A path, or the bytes of the file.

    Raises:
        DataError: there is no such file, or it is not a picture, or too large for the memory.
    """
    where = source if isinstance(source, Path) else "image"
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as picture:
            if picture.width * picture.height > _MAX_PIXELS:
                size = f"{picture.width}x{picture.height} pixels"
                raise DataError(f"{where}: got {size}, expected at most {_MAX_PIXELS}; scale it down")
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except FileNotFoundError:
        raise DataError(f"{where}: no such file, expected a picture; check the path") from None
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: got no readable picture ({error}), expected a PNG or JPEG file") from None

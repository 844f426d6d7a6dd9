"""Single pictures as arrays: what an image-to-video model starts from.

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
    """Whether the file is of a format for single pictures."""
    try:
        with Image.open(path) as picture:
            return getattr(picture, "n_frames", 1) == 1
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return False


def read_picture(source: Path | bytes) -> NDArray[np.uint8]:
    """Pixels of a picture file as it is meant to be seen (turned by its EXIF tag): (H, W, 3) uint8.

    Args:
        source: A path, or the bytes of the file.

    Raises:
        DataError: no such file, no picture, or one too large to hold in memory.
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

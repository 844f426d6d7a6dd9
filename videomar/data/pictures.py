"""Old name of `videomar.media.images`, for models registered with version 0.1."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from videomar.errors import DataError
from videomar.media import images

__all__ = ["read_picture"]


def read_picture(source: Path | bytes) -> NDArray[np.uint8]:
    """Read a picture (H, W, 3) from the bytes of a file.

    The stored code of these models passes on text of a request that is no base64 as a path. A server would
    open its own files for anybody, so it is refused here.

    Raises:
        DataError: it is a path, or no picture.
    """
    if isinstance(source, Path):
        raise DataError(
            f"image: got {str(source)[:40]!r}, expected a picture in base64; paths are not opened"
        )
    return images.read_picture(source)

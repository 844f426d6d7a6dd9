"""A picture scaled and cropped to the size of a clip.

Axes: H W rows and columns in pixels.
"""

import numpy as np
from numpy.typing import NDArray


def cover(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Scale a picture (H, W, 3) until it covers `size` (width, height), and cut out its centre."""
    width, height = size
    if picture.shape[:2] == (height, width):
        return np.ascontiguousarray(picture)
    import cv2  # here: a bare GPU machine lacks it

    scale = max(width / picture.shape[1], height / picture.shape[0])
    scaled = max(width, round(picture.shape[1] * scale)), max(height, round(picture.shape[0] * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(picture, scaled, interpolation=method)
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    return np.ascontiguousarray(small[top : top + height, left : left + width])

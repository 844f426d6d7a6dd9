"""A picture scaled and cropped to the size of a clip.

Axes: H W rows and columns in pixels.
"""

import numpy as np
from numpy.typing import NDArray

_LONGEST = 16.0
"""Times the length that is seen: a longer picture is cut before it is scaled."""


def cover(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Scale a picture (H, W, 3) until it covers `size` (width, height), and cut out its centre."""
    width, height = size
    if picture.shape[:2] == (height, width):
        return np.ascontiguousarray(picture)
    import cv2  # here: a bare GPU machine lacks it

    picture = _without_far_ends(picture, width / height)
    scale = max(width / picture.shape[1], height / picture.shape[0])
    scaled = max(width, round(picture.shape[1] * scale)), max(height, round(picture.shape[0] * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(picture, scaled, interpolation=method)
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    return np.ascontiguousarray(small[top : top + height, left : left + width])


def _without_far_ends(picture: NDArray[np.uint8], aspect_ratio: float) -> NDArray[np.uint8]:
    """The middle of a picture: scaled as a whole, a strip would have a thousand times the clip's pixels."""
    height, width = picture.shape[:2]
    tallest, widest = int(_LONGEST * width / aspect_ratio) + 2, int(_LONGEST * height * aspect_ratio) + 2
    top, left = max(0, height - tallest) // 2, max(0, width - widest) // 2
    return picture[top : height - top, left : width - left]

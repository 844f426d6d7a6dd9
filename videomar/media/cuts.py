"""Cuts of a video: where one shot ends and the next begins.

Axes: F frames, H W rows and columns in pixels.
"""

import numpy as np
from numpy.typing import NDArray
from scenedetect import ContentDetector, FrameTimecode


def find_cuts(frames: NDArray[np.uint8], shot_threshold: float) -> list[int]:
    """Indices of the frames, of (F, H, W, 3), that differ too much from the one before for one shot."""
    # Every jump counts, however soon after the last: a clip across a flash is worse than a clip the fewer.
    detector = ContentDetector(threshold=shot_threshold, min_scene_len=1)
    cuts: list[int] = []
    for index, frame in enumerate(frames):
        found = detector.process_frame(FrameTimecode(index, fps=1.0), np.ascontiguousarray(frame[..., ::-1]))
        cuts.extend(cut.frame_num for cut in found)
    return cuts

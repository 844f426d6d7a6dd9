"""Drawn clips whose motion, noise and looks are known: what the metrics' tests are asked about."""

import cv2
import numpy as np
from numpy.typing import NDArray

_FINE = 8


def moving_disc(
    num_frames: int = 9, size: int = 32, speed: float = 1.0, grey: int = 220, textured: bool = False
) -> NDArray[np.uint8]:
    """A disc that moves right by `speed` pixels a frame, drawn eightfold and averaged; (F, H, W, 3)."""
    rows, columns = (axis / _FINE for axis in np.mgrid[: size * _FINE, : size * _FINE])
    ground = np.full(rows.shape, 60.0)
    if textured:
        waves = np.sin(rows * 32 / size / 3) + np.cos(columns * 32 / size / 4)
        ground = 100 + 30 * waves
    frames = []
    for frame in range(num_frames):
        picture = ground.copy()
        inside = (rows - size / 2) ** 2 + (columns - size / 4 - speed * frame) ** 2 < (size / 6) ** 2
        picture[inside] = grey
        frames.append(cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA))
    return np.stack(frames)[..., None].repeat(3, axis=-1).round().astype(np.uint8)


def noisy(clip: NDArray[np.uint8], deviation: float, seed: int = 0) -> NDArray[np.uint8]:
    """The clip with new noise in every frame."""
    noise = np.random.default_rng(seed).normal(0, deviation, clip.shape)
    return np.clip(clip + noise, 0, 255).round().astype(np.uint8)


def blurred(clip: NDArray[np.uint8], deviation: float) -> NDArray[np.uint8]:
    """Each frame blurred by itself."""
    return np.stack([cv2.GaussianBlur(frame, (0, 0), deviation) for frame in clip])

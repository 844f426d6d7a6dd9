"""Times of frames: what a container says about them, and what comes of it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameCounts:
    """What a reader had to change in one video, as far as it has been read."""

    lost: int = 0
    """Frames that the file has and no decoder returned."""
    invented: int = 0
    """Frames that a decoder returned and the file does not have."""
    retimed: int = 0
    """Frames whose time, from the first on, is not the one that the file gives them."""

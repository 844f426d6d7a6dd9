"""Old name of `videomar.media.mp4`."""

from videomar.media.mp4 import write_mp4

__all__ = ["write_mp4"]

"""Old name of `videomar.media.images`."""

from videomar.media.images import read_picture

__all__ = ["read_picture"]

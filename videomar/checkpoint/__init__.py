"""Weights on disk: our checkpoints and those that the authors of VideoMAR released."""

from videomar.checkpoint.folder import Loaded, load, save

__all__ = ["Loaded", "load", "save"]

"""Old name of `videomar.sampling.generate`, which models registered with version 0.1 import."""

from videomar.sampling.generate import ModelFiles, Wish, animate

__all__ = ["ModelFiles", "Wish", "animate"]

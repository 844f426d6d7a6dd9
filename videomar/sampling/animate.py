"""Old names of `videomar.sampling.generate`, which models registered with version 0.1 import."""

from videomar.sampling.generate import GenerationRequest as Wish  # codespell:ignore wish
from videomar.sampling.generate import ModelFiles
from videomar.sampling.generate import generate as animate

__all__ = ["ModelFiles", "Wish", "animate"]  # codespell:ignore wish

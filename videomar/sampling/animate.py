"""Old names of `videomar.sampling.generate`, which models registered with version 0.1 import."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from videomar.checkpoint import ModelFolder
from videomar.config import Params
from videomar.sampling.generate import ClipGenerator, GenerationRequest
from videomar.sampling.generate import GenerationRequest as Wish  # codespell:ignore wish

__all__ = ["ModelFiles", "Wish", "animate"]  # codespell:ignore wish


class ModelFiles(NamedTuple):
    """The folders of a model, and the parameters it was trained with."""

    checkpoint: Path
    tokenizer: Path
    params: Params


def animate(files: ModelFiles, context: NDArray[np.uint8], request: GenerationRequest) -> NDArray[np.uint8]:
    """Return the whole clip (F, H, W, 3) that a request asks for."""
    parts = ModelFolder(files.checkpoint, files.tokenizer, Path())
    model = ClipGenerator(parts, params=files.params)
    *_, clip = model.partial_clips(context, request)
    return model.decode(clip)

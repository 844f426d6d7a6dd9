"""The registered model as MLflow loads it: from code, with folders as artifacts, without pickles.

`mlflow.pyfunc.load_model("models:/videomar@champion").predict(table)` on any machine that has this package,
or `mlflow models serve --env-manager local` in its activated environment: a table of pictures and prompts
becomes one of mp4 files.

Registered versions import this module and `VideomarModel` by name: do not rename or move either. The modules
imported here may move. Versions registered before this module existed import five of them themselves: when
one of the five moves, leave a module at its old name that only re-exports the names listed in
tests/registry/test_serving.py.

Axes: B clips, F frames, H W rows and columns in pixels.
"""

import base64
import binascii
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

from videomar.config import load_generation_params
from videomar.errors import DataError
from videomar.media.images import read_picture
from videomar.media.mp4 import write_mp4


class VideomarModel(PythonModel):
    """Image and prompt to clip. Remembers the paths of its checkpoint, tokenizer and parameters."""

    def load_context(self, context: PythonModelContext) -> None:
        """Store the artifacts' paths; weights are read when a clip is generated."""
        # Versions of before have tokenizer and parameters beside the checkpoint, later ones inside it.
        self._folder = Path(context.artifacts["checkpoint"])
        if "params" in context.artifacts:
            self._folder = self._folder.parent
        from videomar.checkpoint import open_model_folder  # here: registering needs no torch

        self._params = load_generation_params(open_model_folder(self._folder).params)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, int] | None = None
    ) -> pd.DataFrame:
        """Animate each row's picture.

        Args:
            context: Not used: `load_context` has stored what is needed.
            model_input: Columns `image` (a picture file's bytes in base64, or its path) and `prompt`.
            params: `seed`; equal seeds give equal clips.

        Returns:
            Column `video`: the bytes of an mp4 file (H.264) in base64, one per row.
        """
        seed = int((params or {}).get("seed", 0))
        rows = zip(model_input["image"], model_input["prompt"], strict=True)
        clips = [self._generate(image, prompt, seed) for image, prompt in rows]
        files = [_mp4(clip, self._params.ingest.fps) for clip in clips]
        return pd.DataFrame({"video": [base64.b64encode(file).decode() for file in files]})

    def _generate(self, image: str, prompt: str, seed: int) -> NDArray[np.uint8]:
        from videomar.sampling.generate import ClipGenerator  # here: registering needs no torch

        picture = read_picture(_picture_source(image))
        return ClipGenerator(self._folder)(picture, prompt, seed=seed)


def _mp4(clip: NDArray[np.uint8], fps: float) -> bytes:
    """A clip (F, H, W, 3) as the bytes of an mp4 file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_mp4(path, clip, fps)
        return path.read_bytes()


def _picture_source(image: str) -> bytes | Path:
    """Bytes of the file if `image` is base64, else its path."""
    if not isinstance(image, str) or not image:
        raise DataError(f"image: got {image!r}, expected base64 text or a path")
    try:
        return base64.b64decode(image, validate=True)
    except binascii.Error:
        return Path(image)

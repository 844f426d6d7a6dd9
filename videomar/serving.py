"""The registered model as MLflow loads it: from code, with folders as artifacts, without pickles.

`mlflow models serve -m models:/videomar@champion --env-manager local`, or in a process
`mlflow.pyfunc.load_model("models:/videomar@champion").predict(table)`: a table of pictures and prompts
becomes one of mp4 files. A request may come from a stranger, so a picture is base64 text and never a path,
every size is limited, and requests beyond a few are refused instead of queued.

Registered versions import this module and `VideomarModel` by name: do not rename or move either. The modules
imported here may move. Versions registered before this module existed import five of them themselves: when
one of the five moves, leave a module at its old name that only re-exports the names listed in
tests/registry/test_serving.py.

Axes: B clips, F frames, H W rows and columns in pixels.
"""

import base64
import binascii
import contextlib
import logging
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_EXHAUSTED
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

from videomar.errors import DataError, VideomarError
from videomar.media.images import FORMATS, MAX_FILE_BYTES, parse_size, read_picture
from videomar.media.mp4 import write_mp4

if TYPE_CHECKING:
    from videomar.sampling.generate import ClipGenerator, GenerationRequest

MAX_ROWS = 8
MAX_PROMPT_LETTERS = 500
MAX_SEED = 2**31 - 1
MAX_LENGTH, MAX_AREA = 4, 4
"""Frames of a clip, and pixels of a frame, in multiples of the trained ones."""
MAX_WORK = 16
"""Pixels of all clips of one request, in multiples of a trained clip's."""
MAX_IN_FLIGHT = 4
"""Requests: one that is answered, and those that wait. MLflow's server runs at least five at a time."""
_log = logging.getLogger(__name__)


class VideomarModel(PythonModel):
    """Picture and prompt to clip. Remembers the networks, and how many requests are in flight."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the networks, once for all requests."""
        from videomar.sampling.generate import ClipGenerator  # here: registering needs no torch

        # Versions of before have tokenizer and parameters beside the checkpoint, later ones inside it.
        folder = Path(context.artifacts["checkpoint"])
        self._generator = ClipGenerator(folder.parent if "params" in context.artifacts else folder)
        self._free = threading.BoundedSemaphore(MAX_IN_FLIGHT)
        self._turn = threading.Lock()

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Animate each row's picture.

        Args:
            context: Not used: `load_context` has loaded what is needed.
            model_input: Columns `image` (the bytes of a picture file in base64) and `prompt`; at
                most MAX_ROWS rows.
            params: `seed`; equal seeds give equal clips. `frames`, `size` (as `64x32`) and `motion` of the
                clips; None or absent = as trained.

        Returns:
            Column `video`: the bytes of an mp4 file (H.264) in base64, one per row.

        Raises:
            MlflowException: the request is wrong or too large, or too many are in flight; with the HTTP
                status that a server answers, and without a traceback.
        """
        with _answers(), self._a_turn():
            asked = requests_of(model_input, params or {}, self._generator)
            clips = [self._generate(picture, request) for picture, request in asked]
        return pd.DataFrame({"video": [base64.b64encode(clip).decode() for clip in clips]})

    def _generate(self, picture: NDArray[np.uint8], request: "GenerationRequest") -> bytes:
        *_, clip = self._generator.partial_clips(picture[None], request)
        return _mp4(self._generator.decode(clip), self._generator.fps)

    @contextlib.contextmanager
    def _a_turn(self) -> Iterator[None]:
        """Wait for the requests before; refuse where too many wait already."""
        if not self._free.acquire(blocking=False):
            raise MlflowException(
                f"server: got request {MAX_IN_FLIGHT + 1} at a time, expected at most {MAX_IN_FLIGHT}; "
                "send it again later",
                error_code=RESOURCE_EXHAUSTED,
            )
        try:
            with self._turn:
                yield
        finally:
            self._free.release()


def requests_of(
    table: pd.DataFrame, params: Mapping[str, Any], model: "ClipGenerator"
) -> list[tuple[NDArray[np.uint8], "GenerationRequest"]]:
    """Return picture (H, W, 3) and request of each row, once all are known to be within the limits.

    Raises:
        DataError: one is not.
    """
    from videomar.sampling.generate import GenerationRequest

    if lacking := [name for name in ("image", "prompt") if name not in table]:
        raise DataError(f"table: got no column {lacking[0]}, expected image and prompt; add it")
    if not 1 <= len(table) <= MAX_ROWS:
        raise DataError(f"table: got {len(table)} rows, expected 1 to {MAX_ROWS}; send several requests")
    options = _options(params, model, len(table))
    return [
        (_picture(image, row), GenerationRequest(prompt=_prompt(prompt, row), **options))
        for row, (image, prompt) in enumerate(zip(table["image"], table["prompt"], strict=True))
    ]


def _options(params: Mapping[str, Any], model: "ClipGenerator", num_rows: int) -> dict[str, Any]:
    """Check what holds for all rows: seed, frames, size and motion."""
    ingest = model.params.ingest
    seed = params.get("seed") or 0
    if not 0 <= seed <= MAX_SEED:
        raise DataError(f"seed: got {seed}, expected 0 to {MAX_SEED}; choose another")
    frames, most = params.get("frames") or ingest.num_frames, MAX_LENGTH * ingest.num_frames
    if not 2 <= frames <= most:
        raise DataError(f"frames: got {frames}, expected 2 to {most}; ask for a shorter clip")
    size = parse_size(params["size"], "size") if params.get("size") else None
    trained = ingest.size_px**2
    area = size[0] * size[1] if size else trained
    if area > MAX_AREA * trained:
        raise DataError(
            f"size: got {area} pixels, expected at most {MAX_AREA * trained}; ask for a smaller clip"
        )
    clips = num_rows * frames * area / (trained * ingest.num_frames)
    if clips > MAX_WORK:
        got = f"as many pixels as {clips:.1f} clips of the trained size have"
        raise DataError(f"request: got {got}, expected at most {MAX_WORK}; send several requests")
    return {"seed": seed, "num_frames": params.get("frames"), "size": size, "motion": params.get("motion")}


def _picture(image: object, row: int) -> NDArray[np.uint8]:
    """Decode a picture (H, W, 3); neither a path nor an address is followed."""
    where, rule = f"row {row}, image", f"a {FORMATS} file in base64"
    if not isinstance(image, str) or not image:
        raise DataError(f"{where}: got {type(image).__name__ if image != '' else 'nothing'}, expected {rule}")
    if len(image) > MAX_FILE_BYTES * 4 // 3 + 4:
        raise DataError(
            f"{where}: got {len(image)} letters, expected a file of at most {MAX_FILE_BYTES} bytes"
        )
    try:
        file = base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError):
        raise DataError(
            f"{where}: got {image[:40]!r}, expected {rule}; paths and addresses are not opened"
        ) from None
    try:
        return read_picture(file)
    except DataError as error:
        raise DataError(f"row {row}, {error}") from None


def _prompt(prompt: object, row: int) -> str:
    if not isinstance(prompt, str) or len(prompt) > MAX_PROMPT_LETTERS:
        got = f"{len(prompt)} letters" if isinstance(prompt, str) else type(prompt).__name__
        raise DataError(
            f"row {row}, prompt: got {got}, expected text of at most {MAX_PROMPT_LETTERS} letters"
        )
    return prompt


@contextlib.contextmanager
def _answers() -> Iterator[None]:
    """Raise what a server answers with: one line and a status, and no traceback of ours."""
    try:
        yield
    except MlflowException:
        raise
    except VideomarError as error:
        raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from None
    except Exception:  # a bug of ours is for the log of the server, not for the stranger who sent the request
        _log.exception("a request failed")
        raise MlflowException("server: the request failed; see the server's log") from None


def _mp4(clip: NDArray[np.uint8], fps: float) -> bytes:
    """A clip (F, H, W, 3) as the bytes of an mp4 file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_mp4(path, clip, fps)
        return path.read_bytes()

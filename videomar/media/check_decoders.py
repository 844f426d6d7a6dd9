"""Whether the decoders work here: a tiny video is made and read by each of them, before any file is judged.

A decoder that cannot run would otherwise call every good file unreadable.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from videomar.errors import DataError
from videomar.media.decord_library import decord

_SIDE_PX = 64
_COLOURS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [128, 128, 128]], np.uint8)
"""Of the frames of the tiny video, red, green and blue."""
_NEAR = 30.0
"""How far a decoded colour may be from its own: the other frames are further."""


def check_decoders() -> None:
    """Have each decoder read a tiny video.

    Raises:
        DataError: one does not work, or returns other pictures.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.mp4"
        readers: dict[str, Callable[[Path], NDArray[np.uint8]]] = {"PyAV": _by_pyav, "decord": _by_decord}
        try:
            _write(path)
            frames = {name: read(path) for name, read in readers.items()}
        except Exception as error:  # whatever a broken library raises
            raise DataError(_message(" ".join(str(error).split()) or type(error).__name__)) from None
    for name, pictures in frames.items():
        expected = _COLOURS[:, None, None]
        right = pictures.shape == (len(_COLOURS), _SIDE_PX, _SIDE_PX, 3)
        if not right or np.abs(pictures - expected.astype(float)).mean() > _NEAR:
            raise DataError(_message(f"other pictures of a tiny video by {name}"))


def _message(got: str) -> str:
    rule = "PyAV and decord that read a tiny video"
    return f"decoders: got {got}, expected {rule}; `rm -f .venv/.ready && make setup` installs them again"


def _write(path: Path) -> None:
    """Write one frame of each colour as a video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = _SIDE_PX
        stream.pix_fmt = "yuv420p"
        for colour in _COLOURS:
            picture = np.broadcast_to(colour, (_SIDE_PX, _SIDE_PX, 3))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _by_pyav(path: Path) -> NDArray[np.uint8]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def _by_decord(path: Path) -> NDArray[np.uint8]:
    reader = decord.VideoReader(str(path), width=_SIDE_PX, height=_SIDE_PX, num_threads=1)
    pictures: NDArray[np.uint8] = reader.get_batch(range(len(reader))).asnumpy()
    return pictures

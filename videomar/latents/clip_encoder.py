"""Encode clips of a video to the bytes that are stored, and nothing else: its import closure keys them.

Every array depends on its video and its clip alone, so the bytes are the same for any number of workers and
nodes, and after a worker or a node died.
"""

import functools
import socket
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from videomar.encoders.load import load_tokenizer
from videomar.encoders.tokenizer import VideoTokenizer, to_unit_range, with_moments
from videomar.errors import DataError
from videomar.media.clip_reader import map_clips
from videomar.media.shapes import ClipShape


class Video(NamedTuple):
    """Clips of one video and one shape to encode."""

    path: str
    starts_s: list[float]
    keys: list[str]
    shape: ClipShape


class Encoded(NamedTuple):
    """The latents of a clip as they are stored."""

    key: str
    shape: list[int]
    data: bytes
    std: bytes = b""
    """Deviations, of the same shape; empty without `encode.moments`."""


class ClipEncoder:
    """Encodes with one tokenizer on one thread; loads it at the first clip."""

    def __init__(self, tokenizer: str, dtype: str, moments: bool = False) -> None:
        torch.set_num_threads(1)
        self._folder, self._dtype, self._moments = tokenizer, dtype, moments

    @functools.cached_property
    def _tokenizer(self) -> VideoTokenizer:
        _require_on_node(Path(self._folder))
        return load_tokenizer(Path(self._folder))

    def encode(self, video: Video) -> list[Encoded]:
        """Encode each clip of a video.

        Raises:
            VideomarError: the video or the tokenizer cannot be read, or do not fit each other.
        """
        path = Path(video.path)
        _require_on_node(path)
        arrays = map_clips(path, video.starts_s, video.shape, self._encode_clip)
        return [Encoded(key, *array) for key, array in dict(zip(video.keys, arrays, strict=True)).items()]

    def _encode_clip(self, pictures: NDArray[np.uint8]) -> tuple[list[int], bytes, bytes]:
        """Shape and bytes of a clip's latents, and the bytes of their deviations."""
        clip, std = to_unit_range(torch.from_numpy(pictures)[None]), b""
        if self._moments:
            latents, deviations = with_moments(self._tokenizer).encode_moments(clip)
            std = stored_bytes(deviations[0], self._dtype)
        else:
            latents = self._tokenizer.encode(clip)
        return list(latents[0].shape), stored_bytes(latents[0], self._dtype), std


def stored_bytes(values: torch.Tensor, dtype: str) -> bytes:
    """Return the bytes of float32 values as `dtype`, rounded to nearest."""
    if dtype == "bfloat16":
        return values.to(torch.bfloat16).contiguous().view(torch.uint16).numpy().tobytes()
    return values.numpy().astype(dtype).tobytes()


def _require_on_node(path: Path) -> None:
    """Refuse to work on a node that cannot access a path."""
    if not path.exists():
        rule = "it at the same path on every node; put it on a file system that all of them share"
        raise DataError(f"{path}: got no such file on node {socket.gethostname()}, expected {rule}")

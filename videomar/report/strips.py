"""Clips as picture strips, which the page plays.

All frames of a clip stand side by side in one WebP inside the page. The page's style moves the strip by one
frame at a time, so that clips beside each other cannot drift apart.

Axes: F frames, H W rows and columns in pixels.
"""

import base64
import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_MAX_SIDE_PX = 128
_MAX_STRIP_PX = 16_000  # WebP holds 16,383
_MAX_BYTES = 40_000
"""Of one strip in the page: some 200 strips keep it below 15 MB, whatever the size of the clips."""
_QUALITIES = ({"lossless": True, "quality": 60}, *({"quality": quality} for quality in (90, 60, 20, 1)))
_LABELS = {
    "continuation": "model",
    "image": "model",
    "wrong_prompt": "wrong prompt",
    "repeat": "repeat last",
    "decoded_repeat": "repeat last, decoded",
    "flow": "constant motion",
    "tokenizer_carry": "tokenizer and carry",
    "linear": "straight line",
    "seed1": "second seed",
    "seed2": "third seed",
    "longer": "2× as long",
    "larger": "1.5× as large",
}
"""Names of looks that do not name themselves."""


@dataclass(frozen=True, slots=True)
class Strip:
    """One playing clip of the page."""

    label: str
    look: str
    """CSS class that says whose clip it is."""
    address: str
    """`data:` address of the strip."""
    last: int
    """Number of the last frame."""
    context: float
    """Share of the frames that the model was given."""
    aspect: float
    """Width over height of a frame."""
    value: str
    """Shown beside the label, such as "26.1 dB"; may be empty."""


def label_of(kind: str) -> str:
    """A kind or a look in words for a reader; that of the model's own clips is `model`."""
    part = part_of(kind)
    return _LABELS.get(part, part.replace("_", " "))


def part_of(kind: str) -> str:
    """The look of a kind, which is its name without its task: `continuation_untrained` -> `untrained`."""
    for task in ("continuation", "image"):
        if kind.startswith(f"{task}_"):
            return kind.removeprefix(f"{task}_")
    return kind


def make_strip(kind: str, frames: NDArray[np.uint8], context_frames: int, value: str) -> Strip:
    """The strip of a clip (F, H, W, 3), with what is shown beside its label."""
    return Strip(
        label_of(kind),
        part_of(kind),
        strip_address(frames),
        last=max(1, len(frames) - 1),
        context=context_frames / len(frames),
        aspect=frames.shape[2] / frames.shape[1],
        value=value,
    )


def strip_address(frames: NDArray[np.uint8]) -> str:
    """All frames (F, H, W, 3) side by side, scaled down if large, as the `data:` address of a WebP."""
    return _address(frames.shape, frames.tobytes())


@lru_cache(maxsize=512)  # the truth of a clip is shown in many galleries
def _address(shape: tuple[int, ...], content: bytes) -> str:
    frames = np.frombuffer(content, np.uint8).reshape(shape)
    return data_address(strip_bytes(frames, _MAX_BYTES), "image/webp")


def strip_bytes(frames: NDArray[np.uint8], max_bytes: int) -> bytes:
    """The same as a file: lossless if that fits into `max_bytes`, else at the best quality that does."""
    num_frames, height, width, _ = frames.shape
    scale = min(1.0, _MAX_SIDE_PX / max(height, width), _MAX_STRIP_PX / (width * num_frames))
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    strip = Image.new("RGB", (size[0] * num_frames, size[1]))
    for index, frame in enumerate(frames):
        strip.paste(Image.fromarray(frame).resize(size, Image.Resampling.BOX), (index * size[0], 0))
    content = b""
    for quality in _QUALITIES:
        file = io.BytesIO()
        strip.save(file, "WEBP", **quality)
        content = file.getvalue()
        if len(content) <= max_bytes:
            break
    return content


def data_address(content: bytes, kind: str) -> str:
    """The `data:` address of a file's bytes, which puts it inside the page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"

"""One clip from a picture or a video and a prompt, frame by frame.

Axes: F frames, H W rows and columns in pixels; C channels, T latent frames, h w latent rows and columns.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomar.checkpoint import load
from videomar.compute.seeding import step_generator
from videomar.config import Params
from videomar.encoders.load import load_tokenizer
from videomar.encoders.text import load_text_encoder, pad_states
from videomar.encoders.tokenizer import to_pictures, to_unit_range
from videomar.media.shapes import clip_size
from videomar.model.generation import generate_frames

# Called with the number of frames that are done, and the number of frames of the whole clip.
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The folders of a model, and the parameters it was trained with."""

    checkpoint: Path
    tokenizer: Path
    params: Params


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """The clip that a user asks for."""

    prompt: str = ""
    """An empty prompt is the null text."""
    num_frames: int | None = None
    """Frames of the result, context included; None = the first context frame and a trained clip after it."""
    size: tuple[int, int] | None = None
    """Width and height, pixels; None = the trained size whose aspect ratio is nearest to the picture's."""
    motion: float | None = None
    """Requested motion score; None = that of section `sample`."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class PartialClip:
    """A clip while it is generated."""

    latents: Tensor
    """(1, C, T, h, w): the latent frames so far, context included."""
    num_frames: int
    """Pixel frames that these latents decode to."""
    total_frames: int
    """Pixel frames of the whole clip."""


class ClipGenerator:
    """Generates clips from pictures and prompts. Remembers the networks."""

    def __init__(self, files: ModelFiles) -> None:
        self.params = files.params
        self.loaded, self._tokenizer = load(files.checkpoint), load_tokenizer(files.tokenizer)
        self._encoder = load_text_encoder(files.params.text)

    def stream(self, context: NDArray[np.uint8], request: GenerationRequest) -> Iterator[PartialClip]:
        """Continue pictures (F0, H, W, 3): yield the context, then the clip after each new latent frame.

        Equal seeds give equal clips. Stop iterating to cancel the rest.

        The pictures are scaled to cover the clip and cropped. Of a long context only its end is used, up to
        half of a trained clip. Clips longer than trained slide a window of the trained length.

        Raises:
            DataError: this model cannot make a clip of the requested size, length or motion.
        """
        params = self.params
        trained = self._tokenizer.num_latent_frames(params.ingest.num_frames)
        available = 1 + (len(context) - 1) // self._tokenizer.time_stride
        used = self._tokenizer.num_frames(max(1, min(trained // 2, available)))
        num_frames = request.num_frames or used - 1 + params.ingest.num_frames
        length = self._tokenizer.num_latent_frames(num_frames)
        latents = self._encode(context[-used:], request.size)
        text = self._encoder.encode([request.prompt])
        captions = pad_states(text, params.text.max_tokens, self.loaded.shape.text_channels)
        sampling = replace(
            params.sample,
            motion=params.sample.motion if request.motion is None else request.motion,
            window_frames=params.sample.window_frames or (trained if length > trained else 0),
        )
        noise = step_generator(request.seed, 0)
        yield PartialClip(latents, used, num_frames)
        model = self.loaded.model
        for frame in generate_frames(model.trunk, model.head, latents, length, captions, sampling, noise):
            latents = torch.cat([latents, frame], 2)
            yield PartialClip(latents, self._tokenizer.num_frames(latents.shape[2]), num_frames)

    def decode(self, clip: PartialClip) -> NDArray[np.uint8]:
        """The frames (F, H, W, 3) so far; later latent frames change none of them."""
        return to_pictures(self._tokenizer.decode(clip.latents))[0].numpy()

    def _encode(self, context: NDArray[np.uint8], size: tuple[int, int] | None) -> Tensor:
        size = size or clip_size(context.shape[2], context.shape[1], self.params.ingest)
        pictures = torch.from_numpy(np.stack([cover(picture, size) for picture in context]))
        return self._tokenizer.encode(to_unit_range(pictures[None]))


def generate(
    files: ModelFiles,
    context: NDArray[np.uint8],
    request: GenerationRequest,
    on_progress: OnProgress | None = None,
) -> NDArray[np.uint8]:
    """The whole clip (F, H, W, 3) that `ClipGenerator.stream` ends with.

    Raises:
        DataError: this model cannot make a clip of the requested size, length or motion.
    """
    generator = ClipGenerator(files)
    for clip in generator.stream(context, request):
        if on_progress:
            on_progress(clip.num_frames, clip.total_frames)
    return generator.decode(clip)


def cover(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Scale a picture (H, W, 3) until it covers `size` (width, height), and cut out its centre."""
    width, height = size
    scale = max(width / picture.shape[1], height / picture.shape[0])
    scaled = max(width, round(picture.shape[1] * scale)), max(height, round(picture.shape[0] * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(picture, scaled, interpolation=method)
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    return np.ascontiguousarray(small[top : top + height, left : left + width])

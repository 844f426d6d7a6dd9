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

from videomar.checkpoint.folder import load
from videomar.config import Params
from videomar.encoders.load import load_tokenizer
from videomar.encoders.text import load_text_encoder, pad_states
from videomar.encoders.tokenizer import to_pictures, to_unit_range
from videomar.media.shapes import clip_size
from videomar.model.generation import generate_frames
from videomar.seeding import step_generator


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model lies, and the parameters it was made with."""

    checkpoint: Path
    tokenizer: Path
    params: Params


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a clip shall be."""

    prompt: str = ""
    """An empty prompt is the null text."""
    num_frames: int | None = None
    """Frames of the result, the given ones included; None: a trained clip behind the first given frame."""
    size: tuple[int, int] | None = None
    """Width and height, pixels; None = the trained size whose aspect ratio is nearest to the picture's."""
    motion: float | None = None
    """Motion score asked for; None = that of section `sample`."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Growth:
    """A clip in the making."""

    latents: Tensor
    """(1, C, T, h, w): what is done, the given frames included."""
    num_frames: int
    """Frames in pixels that this is."""
    of_frames: int
    """Frames of the whole clip."""


# Hears how many frames are done, and how many there will be.
OnFrame = Callable[[int, int], None]


class Animator:
    """Makes clips of pictures and words. Remembers the networks."""

    def __init__(self, files: ModelFiles) -> None:
        self.params = files.params
        self.loaded, self._coder = load(files.checkpoint), load_tokenizer(files.tokenizer)
        self._encoder = load_text_encoder(files.params.text)

    def grow(self, given: NDArray[np.uint8], wish: Wish) -> Iterator[Growth]:
        """Continue pictures (F0, H, W, 3): what there is at first and after each new latent frame.

        Equal seeds give equal clips. Who stops asking stops the work.

        The pictures are scaled to cover the clip and cropped. Of many, the last ones are used, as
        many as fill half of a trained clip. Clips longer than trained slide a window of the trained length.

        Raises:
            DataError: a size, a length or a wish that this model cannot fulfil.
        """
        params = self.params
        trained = self._coder.num_latent_frames(params.ingest.num_frames)
        fitting = 1 + (len(given) - 1) // self._coder.time_stride
        most = self._coder.num_frames(max(1, min(trained // 2, fitting)))
        num_frames = wish.num_frames or most - 1 + params.ingest.num_frames
        length = self._coder.num_latent_frames(num_frames)
        latents = self._encode(given[-most:], wish.size)
        text = self._encoder.encode([wish.prompt])
        captions = pad_states(text, params.text.max_tokens, self.loaded.shape.text_channels)
        sampling = replace(
            params.sample,
            motion=params.sample.motion if wish.motion is None else wish.motion,
            window_frames=params.sample.window_frames or (trained if length > trained else 0),
        )
        noise = step_generator(wish.seed, 0)
        yield Growth(latents, most, num_frames)
        for frame in generate_frames(self.loaded.model, latents, length, captions, sampling, noise):
            latents = torch.cat([latents, frame], 2)
            yield Growth(latents, self._coder.num_frames(latents.shape[2]), num_frames)

    def pictures(self, growth: Growth) -> NDArray[np.uint8]:
        """The frames (F, H, W, 3) so far; later ones change none of them."""
        return to_pictures(self._coder.decode(growth.latents))[0].numpy()

    def _encode(self, given: NDArray[np.uint8], size: tuple[int, int] | None) -> Tensor:
        size = size or clip_size(given.shape[2], given.shape[1], self.params.ingest)
        pictures = torch.from_numpy(np.stack([cover(picture, size) for picture in given]))
        return self._coder.encode(to_unit_range(pictures[None]))


def animate(
    files: ModelFiles, given: NDArray[np.uint8], wish: Wish, on_frame: OnFrame | None = None
) -> NDArray[np.uint8]:
    """The whole clip (F, H, W, 3) of `Animator.grow`; `on_frame` hears how many of how many frames there are.

    Raises:
        DataError: a size, a length or a wish that this model cannot fulfil.
    """
    animator = Animator(files)
    for growth in animator.grow(given, wish):
        if on_frame:
            on_frame(growth.num_frames, growth.of_frames)
    return animator.pictures(growth)


def cover(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Scale a picture (H, W, 3) until it covers `size` (width, height), and cut out its centre."""
    width, height = size
    scale = max(width / picture.shape[1], height / picture.shape[0])
    scaled = max(width, round(picture.shape[1] * scale)), max(height, round(picture.shape[0] * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(picture, scaled, interpolation=method)
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    return np.ascontiguousarray(small[top : top + height, left : left + width])

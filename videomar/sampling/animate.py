"""One clip from a picture or a video and a prompt.

Axes: F frames, H W rows and columns in pixels.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from videomar.checkpoint import load
from videomar.config import Params
from videomar.data.shapes import clip_size
from videomar.runtime import step_generator
from videomar.text import load_text_encoder, pad_states
from videomar.tokenizer.interface import to_pictures, to_unit_range
from videomar.tokenizer.loading import load_tokenizer


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


def animate(files: ModelFiles, given: NDArray[np.uint8], wish: Wish) -> NDArray[np.uint8]:
    """Continue pictures (F0, H, W, 3) to a clip (F, H, W, 3); equal seeds give equal clips.

    The pictures are scaled to cover the size of the clip and cropped. Of many, the last ones are used, as
    many as fill half of a trained clip. Clips longer than trained slide a window of the trained length.

    Raises:
        DataError: a size, a length or a wish that this model cannot fulfil.
    """
    params, loaded, coder = files.params, load(files.checkpoint), load_tokenizer(files.tokenizer)
    trained = coder.num_latent_frames(params.ingest.num_frames)
    most = coder.num_frames(max(1, min(trained // 2, 1 + (len(given) - 1) // coder.time_stride)))
    size = wish.size or clip_size(given.shape[2], given.shape[1], params.ingest)
    pictures = torch.from_numpy(np.stack([cover(picture, size) for picture in given[-most:]]))
    context = coder.encode(to_unit_range(pictures[None]))
    num_frames = wish.num_frames or most - 1 + params.ingest.num_frames
    length = coder.num_latent_frames(num_frames)
    encoder = load_text_encoder(params.text)
    text = pad_states(encoder.encode([wish.prompt]), params.text.max_tokens, loaded.shape.text_channels)
    sampling = replace(
        params.sample,
        motion=params.sample.motion if wish.motion is None else wish.motion,
        window_frames=params.sample.window_frames or (trained if length > trained else 0),
    )
    latents = loaded.model.generate(context, length, *text, sampling, step_generator(wish.seed, 0))
    return to_pictures(coder.decode(latents))[0].numpy()


def cover(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Scale a picture (H, W, 3) until it covers `size` (width, height), and cut out its centre."""
    width, height = size
    scale = max(width / picture.shape[1], height / picture.shape[0])
    scaled = max(width, round(picture.shape[1] * scale)), max(height, round(picture.shape[0] * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(picture, scaled, interpolation=method)
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    return np.ascontiguousarray(small[top : top + height, left : left + width])

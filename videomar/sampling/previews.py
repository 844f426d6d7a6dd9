"""A few held-out clips, generated at intervals during training to watch a run.

Clips, context and noise are the same every time, so that two previews differ by the model alone.

Axes: B clips, F frames, H W rows and columns in pixels.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, from_numpy

from videomar.compute.seeding import step_generator
from videomar.config import SampleParams
from videomar.encoders.load import load_tokenizer
from videomar.encoders.tokenizer import VideoTokenizer, to_pictures
from videomar.errors import DataError
from videomar.latents.dataset import LatentDataset
from videomar.media.mp4 import write_mp4
from videomar.model.videomar import VideoMAR
from videomar.storage import Location

CLIPS = 4
SHEET_FRAMES = 8
SHEET, FILM = "sheet.png", "clips.mp4"
_CONTEXT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Previews:
    """Where previews get their inputs; loaded only when used, so that it can be sent to a worker."""

    latents: Location
    tokenizer: Path
    max_text_tokens: int
    sampling: SampleParams
    fps: float
    split: str = "val"

    def write(self, model: VideoMAR, folder: Path) -> list[Path]:
        """Write a contact sheet and one video of all clips to `folder`, the truth above the model's clips.

        The model gets the first latent frame and the caption. Without held-out clips no file is written.

        Both are shown as decoded, without `sample.carry`: workers have latents and no pictures, so the given
        picture is itself a decoded one, which has nothing to add.
        """
        held_out = _held_out(self.latents, self.split, self.max_text_tokens)
        if held_out is None:
            return []
        clips, captions = held_out
        device = model.trunk.mask_token.device
        made = model.generate(
            clips[:, :, :_CONTEXT].to(device),
            clips.shape[2],
            captions[0].to(device),
            captions[1].to(device),
            self.sampling,
            [step_generator(0, number, device=device) for number in range(len(clips))],
        )
        coder = _tokenizer(self.tokenizer, device)
        both = [to_pictures(coder.decode(latents.to(device))).cpu().numpy() for latents in (clips, made)]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(contact_sheet(*both)).save(folder / SHEET)
        write_mp4(folder / FILM, side_by_side(*both), self.fps)
        return [folder / SHEET, folder / FILM]


def contact_sheet(truth: NDArray[np.uint8], made: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two sets of clips (B, F, H, W, 3) as one picture: evenly spaced frames in rows, truth above model."""
    picked = np.linspace(0, truth.shape[1] - 1, min(SHEET_FRAMES, truth.shape[1])).round().astype(int)
    rows = np.stack([truth[:, picked], made[:, picked]], 1)
    return np.ascontiguousarray(rearrange(rows, "b two f h w c -> (b two h) (f w) c"))


def side_by_side(truth: NDArray[np.uint8], made: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two sets of clips (B, F, H, W, 3) as one video (F, 2 H, B W, 3): the truth above the model."""
    return np.ascontiguousarray(rearrange(np.stack([truth, made]), "two b f h w c -> f (two h) (b w) c"))


@functools.cache
def _tokenizer(folder: Path, device: torch.device) -> VideoTokenizer:
    return load_tokenizer(folder, device)


@functools.cache
def _held_out(
    latents: Location, split: str, max_text_tokens: int
) -> tuple[Tensor, tuple[Tensor, Tensor]] | None:
    """Latents and captions of up to CLIPS evenly spaced clips of one shape; None if the split is empty."""
    try:
        data = LatentDataset(latents, split, max_text_tokens)
    except DataError:
        return None
    # Of a still picture there is nothing to continue.
    largest = [number for number in data.largest.values() if data.lengths[number] > _CONTEXT]
    if not largest:
        return None
    alike = [number for number in largest if data.latent_shapes[number] == data.latent_shapes[largest[0]]]
    index = np.array(alike)[np.linspace(0, len(alike) - 1, min(CLIPS, len(alike))).round().astype(int)]
    batch = data.rows(np.unique(index))
    return from_numpy(batch.latents), (from_numpy(batch.text), from_numpy(batch.text_mask))

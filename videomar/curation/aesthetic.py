"""The learned score `aesthetic`: how much people like the pictures of a clip.

A module of its own because torch takes a second and 0.2 GB of every process that reads videos: it is imported
only if this score is wanted.

Axes: F frames, H W rows and columns in pixels, C channels.
"""

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from videomar.compute.device import send

_FILES = ("config.json", "model.safetensors", "head.safetensors")
# Of CLIP's training; a folder may hold others in its preprocessor_config.json.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


class AestheticScorer:
    """How much people like a picture: CLIP's embedding of it, and a head of linear layers.

    The folder holds a CLIP of transformers (`config.json`, `model.safetensors`) and `head.safetensors`:
    weights and biases of layers without activations between them, in the order of the numbers in their names.
    Remembers the network.

    Source: the LAION aesthetic predictors, the linear one and the "improved" MLP, whose layers have no
    activations. We take the mean over three frames; pictures are resized by OpenCV, not by Pillow.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        if missing := [name for name in _FILES if not (folder / name).is_file()]:
            raise FileNotFoundError(f"{folder} without {', '.join(missing)}")
        torch.set_num_threads(1)  # one process per core reads videos
        loaded: Any = CLIPVisionModelWithProjection.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        model, report = loaded
        if report["missing_keys"] or report["mismatched_keys"]:  # those would be drawn at random
            raise ValueError(f"model.safetensors without {sorted(report['missing_keys'])[:3]}")
        self.device = torch.device(device)
        self.model = model.eval().to(self.device)
        self.size_px: int = self.model.config.image_size
        layers = _read_head(folder / "head.safetensors", self.model.config.projection_dim)
        self.layers = [(weight.to(self.device), bias.to(self.device)) for weight, bias in layers]
        settings: dict[str, Any] = {}
        if (folder / "preprocessor_config.json").is_file():
            settings = json.loads((folder / "preprocessor_config.json").read_text("utf-8"))
        self.mean, self.std = settings.get("image_mean", _MEAN), settings.get("image_std", _STD)

    @torch.no_grad()
    def __call__(self, clip: NDArray[np.uint8]) -> float:
        """Mean score of the first, middle and last frame."""
        shown = np.stack([self._picture(frame) for frame in clip[[0, len(clip) // 2, -1]]])
        pixels = (torch.from_numpy(shown).float() / 255 - torch.tensor(self.mean)) / torch.tensor(self.std)
        states = self.model(pixel_values=send(pixels.permute(0, 3, 1, 2), self.device)).image_embeds
        states = states / states.norm(dim=-1, keepdim=True)
        for weight, bias in self.layers:
            states = states @ weight.T + bias
        return float(states.mean())

    def _picture(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The centre square of a frame (H, W, 3) at the size that the network takes."""
        side = min(frame.shape[:2])
        top, left = (frame.shape[0] - side) // 2, (frame.shape[1] - side) // 2
        method = cv2.INTER_AREA if side > self.size_px else cv2.INTER_CUBIC
        square = frame[top : top + side, left : left + side]
        return np.asarray(cv2.resize(square, (self.size_px,) * 2, interpolation=method), np.uint8)


def _read_head(path: Path, channels: int) -> list[tuple[Tensor, Tensor]]:
    """Weights (out, in) and biases (out,) of a chain of linear layers from `channels` to 1."""
    tensors = load_file(path)
    names = sorted(
        (name for name in tensors if name.endswith("weight")),
        key=lambda name: [int(number) for number in re.findall(r"\d+", name)],
    )
    layers, width = [], channels
    for name in names:
        weight = tensors[name].float()
        if weight.ndim != 2 or weight.shape[1] != width:
            raise ValueError(
                f"{path.name}: got {name} of shape {tuple(weight.shape)}, expected (any, {width})"
            )
        width = len(weight)
        bias = tensors.get(name.removesuffix("weight") + "bias", torch.zeros(width))
        layers.append((weight, bias.float()))
    if not layers or width != 1:
        raise ValueError(f"{path.name}: got {width} outputs, expected linear layers that end in 1")
    return layers

"""Extractors, which turn a clip into one vector for the Fréchet distance: shipped, random or from a folder.

Distances of different extractors are not comparable, and only those of I3D may be called FVD. So each
extractor has a name, shown with its scores, and a hash of everything that its features depend on.

Axes: N clips, F frames, H W rows and columns in pixels, D features.
"""

import hashlib
import json
from collections.abc import Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from videomar.compute.device import send
from videomar.compute.torchscript import load_torchscript
from videomar.errors import DataError
from videomar.evaluation.metrics import BACKBONE
from videomar.evaluation.metrics.backbone import Backbone
from videomar.evaluation.metrics.frechet import FrechetScore, frechet_score
from videomar.files import sha256_of

_LEVEL = 3
"""The map of stride 16, 112 channels: more features need more clips. Used twice, for content and change."""
_RANDOM_CHANNELS = (3, 16, 32, 64)
_RANDOM_SIDE_PX = 32
_RANDOM_BATCH = 4
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_I3D_SIDE_PX, _I3D_LEAST_FRAMES = 224, 10


class Extractor(Protocol):
    """Turns clips into vectors."""

    name: str
    weights_sha256: str

    def features(self, clips: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """(N, D): one vector per clip (F, H, W, 3), independent of the other clips."""
        ...


class BackboneClips:
    """Default: features of frames pooled over places; over time, their mean and their mean change."""

    name = f"{BACKBONE} frames, mean and change"

    def __init__(self, backbone: Backbone) -> None:
        self._backbone, self.weights_sha256 = backbone, backbone.weights_sha256

    def features(self, clips: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """(N, 224); the second half measures motion, which a mean over time misses."""
        rows = []
        for clip in clips:
            frames = self._backbone.features(clip).maps[_LEVEL].mean(dim=(2, 3)).double()
            change = frames.diff(dim=0).abs().sum(dim=0) / max(1, len(frames) - 1)
            rows.append(torch.cat([frames.mean(dim=0), change]))
        return torch.stack(rows).numpy()


class RandomClips:
    """Three 3D convolutions with frozen random weights, which need no package.

    A relative measure: random features respond to edges, colours and motion but not to objects, and each seed
    has a scale of its own.
    """

    def __init__(self, seed: int = 0, device: torch.device | str = "cpu") -> None:
        self.name, self._device = f"random 3D convolutions, seed {seed}", torch.device(device)
        generator = torch.Generator().manual_seed(seed)
        weights = [
            torch.randn(after, before, 3, 3, 3, generator=generator) * (2 / (27 * before)) ** 0.5
            for before, after in pairwise(_RANDOM_CHANNELS)
        ]
        self.weights_sha256 = hashlib.sha256(b"".join(each.numpy().tobytes() for each in weights)).hexdigest()
        self._weights = [weight.to(self._device) for weight in weights]

    @torch.no_grad()
    def features(self, clips: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """(N, 64): mean activation of the last layer over places and time."""
        rows = []
        for _, alike in groupby(clips, key=np.shape):
            for batch in torch.stack([_pixels(clip, _RANDOM_SIDE_PX) for clip in alike]).split(_RANDOM_BATCH):
                hidden = (send(batch, self._device) * 2 - 1).transpose(1, 2)
                for weight in self._weights:
                    hidden = functional.conv3d(hidden, weight, stride=(1, 2, 2), padding=1).relu_()
                rows.append(hidden.double().mean(dim=(2, 3, 4)))
        return torch.cat(rows).cpu().numpy()


class VideoMaeClips:
    """Mean of the last hidden states of a VideoMAE in a local folder, as transformers saves it."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        from transformers import VideoMAEModel

        self.name, self._device = f"VideoMAE {folder.name}", torch.device(device)
        model: Any = VideoMAEModel.from_pretrained(folder, local_files_only=True)
        self._model = model.to(self._device).eval().requires_grad_(False)
        self.weights_sha256 = _folder_sha256(folder)
        self._mean, self._deviation = _normalisation(folder)

    @torch.no_grad()
    def features(self, clips: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """(N, hidden size); as many frames as the model takes, evenly spread over the clip."""
        config, rows = self._model.config, []
        for clip in clips:
            chosen = np.linspace(0, len(clip) - 1, config.num_frames).round().astype(int)
            pixels = _pixels(clip[chosen], config.image_size, square=True)
            pixels = (pixels - self._mean) / self._deviation
            states = self._model(send(pixels[None], self._device)).last_hidden_state
            rows.append(states.double().mean(dim=(0, 1)))
        return torch.stack(rows).cpu().numpy()


class TorchScriptClips:
    """A TorchScript file such as the I3D that defines FVD: (1, 3, F, 224, 224), pixels 0 to 255, to (1, D).

    Its arguments `rescale`, `resize` and `return_features` are set to True if it has them.
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        self.name, self._device = f"TorchScript {path.name}", torch.device(device)
        self.weights_sha256 = sha256_of(path)
        self._module = load_torchscript(path, self._device)
        arguments = {argument.name for argument in cast(Any, self._module.forward).schema.arguments}
        self._switches = {
            name: True for name in ("rescale", "resize", "return_features") if name in arguments
        }

    @torch.no_grad()
    def features(self, clips: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """(N, D); clips of fewer than 10 frames are refused, because I3D's strides leave nothing of them."""
        rows = []
        for clip in clips:
            if len(clip) < _I3D_LEAST_FRAMES:
                raise DataError(
                    f"{self.name}: got {len(clip)} frames, expected at least {_I3D_LEAST_FRAMES}; "
                    "use another extractor"
                )
            pixels = 255 * _pixels(clip, _I3D_SIDE_PX, square=True).permute(1, 0, 2, 3)[None]
            features = self._module(send(pixels, self._device), **self._switches)
            rows.append(features.double().flatten())
        return torch.stack(rows).cpu().numpy()


def frechet_of_clips(
    clips: Sequence[NDArray[np.uint8]],
    truths: Sequence[NDArray[np.uint8]],
    extractor: Extractor,
    seed: int,
    shots: Sequence[object] | None = None,
) -> FrechetScore:
    """Fréchet distance of generated clips to their truths, given in the same order as their shots."""
    real, generated = extractor.features(truths), extractor.features(clips)
    return frechet_score(real, generated, extractor.name, seed, paired=True, shots=shots)


def load_extractor(folder: Path, device: torch.device | str = "cpu") -> Extractor:
    """The extractor in a local folder: a VideoMAE as transformers saves it, or one TorchScript file (*.pt).

    Raises:
        DataError: the folder contains neither, or more than one TorchScript file.
        CheckpointError: that file is damaged, or its program can do more than compute.
    """
    if (folder / "config.json").is_file():
        kind = json.loads((folder / "config.json").read_text("utf-8")).get("model_type")
        if kind == "videomae" and (folder / "model.safetensors").is_file():
            return VideoMaeClips(folder, device)
        raise DataError(
            f"{folder}: got model_type {kind!r}, expected videomae with model.safetensors; "
            "save it with transformers' save_pretrained"
        )
    scripts = sorted(folder.glob("*.pt"))
    if len(scripts) != 1:
        raise DataError(
            f"{folder}: got {len(scripts)} files *.pt and no config.json, expected a VideoMAE's folder or "
            "one TorchScript file; name such a folder"
        )
    return TorchScriptClips(scripts[0], device)


def _pixels(clip: NDArray[np.uint8], side_px: int, square: bool = False) -> Tensor:
    """(F, H, W, 3) uint8 -> (F, 3, h, w) in 0 to 1, scaled to a shorter side of `side_px`, or to a square."""
    pixels = torch.tensor(clip).permute(0, 3, 1, 2).float() / 255
    factor = side_px / min(pixels.shape[-2:])
    size = [side_px, side_px] if square else [round(side * factor) for side in pixels.shape[-2:]]
    if size == list(pixels.shape[-2:]):
        return pixels
    return functional.interpolate(pixels, size, mode="bilinear", antialias=True)


def _normalisation(folder: Path) -> tuple[Tensor, Tensor]:
    """Mean and deviation of colours from the model's own file, else those of ImageNet."""
    path = folder / "preprocessor_config.json"
    stated = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    mean, deviation = stated.get("image_mean", _MEAN), stated.get("image_std", _DEVIATION)
    return torch.tensor(mean).view(3, 1, 1), torch.tensor(deviation).view(3, 1, 1)


def _folder_sha256(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.json")) + sorted(folder.glob("*.safetensors")):
        digest.update(path.name.encode() + bytes.fromhex(sha256_of(path)))
    return digest.hexdigest()

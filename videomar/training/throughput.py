"""How fast a run learns: floating-point operations of a step, the device's own rate, and a window of steps.

Axes: B batch, T latent frames, L tokens per frame, D hidden size.
"""

import functools
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from videomar.checkpoint.manifest import ModelShape
from videomar.config import TrainParams
from videomar.model.objective import Clips
from videomar.training.worker import Worker

_MATRIX_SIZES = (512, 1024, 2048, 4096, 8192)
_SECONDS_PER_SIZE = 0.2


class BatchShape(NamedTuple):
    """Sizes of a batch that the cost of a step depends on."""

    batch_size: int
    num_frames: int
    """Latent frames, T."""
    tokens_per_frame: int
    """L."""

    @classmethod
    def of(cls, clips: Clips, patch_size: int) -> "BatchShape":
        """Return the sizes of a batch."""
        batch_size, _, num_frames, height, width = clips.latents.shape
        return cls(batch_size, num_frames, height * width // patch_size**2)


class MatrixWeights(NamedTuple):
    """Weights of linear layers, by what they are multiplied with."""

    tokens: int
    """Of the trunk, with every token of the sequence."""
    captions: int
    """Of the trunk, with every token of the caption."""
    head: int
    """With every draw of the head."""


@functools.cache
def matrix_weights(model: ModelShape) -> MatrixWeights:
    """Count the weights of a network's linear layers, without allocating it.

    Embeddings of conditions, a thousandth of the whole, are not counted.
    """
    with torch.device("meta"):
        network = model.build()
    sizes = {name: weight.numel() for name, weight in network.named_parameters() if weight.ndim == 2}
    captions = sum(n for name, n in sizes.items() if "context_embed" in name or "wkv" in name.split("."))
    head = sum(n for name, n in sizes.items() if name.startswith("head."))
    conditions = sum(n for name, n in sizes.items() if ".conditions." in name)
    return MatrixWeights(sum(sizes.values()) - captions - head - conditions, captions, head)


def step_flops(model: ModelShape, batch: BatchShape, params: TrainParams) -> float:
    """Return the expected floating-point operations of the matrix products of one step.

    The usual count, 6 N + 12 depth D S per token of a sequence of S: a weight costs a multiplication and an
    addition forward and twice that backward, and so do attention's scores and mean of values. Here N and S
    differ by the kind of token, see `MatrixWeights`; queries attend to sequence and caption. Products that
    are repeated to save memory count once, and masked attention counts whole.

    Source: PaLM (arXiv 2204.02311), appendix B.
    """
    weights, shape = matrix_weights(model), model.params
    sequence = sequence_frames(batch, params) * batch.tokens_per_frame
    attention = 12 * shape.depth * shape.hidden_size * (sequence + model.max_text_tokens)
    tokens = batch.batch_size * sequence * (6 * weights.tokens + attention)
    captions = batch.batch_size * model.max_text_tokens * 6 * weights.captions
    draws = supervised_tokens(batch, params) * params.batch_multiplier
    return tokens + captions + draws * 6 * weights.head


def sequence_frames(batch: BatchShape, params: TrainParams) -> float:
    """Return the expected frames per clip that the trunk reads, see `model.objective.draw_frames`."""
    last = batch.num_frames - 1
    if last == 0:
        return 1.0
    if params.objective == "all_frames":
        return 2.0 * last
    # To the last of B targets, which are uniform over frames 1 to T-1.
    return 1 + sum(1 - ((frame - 1) / last) ** batch.batch_size for frame in range(1, last + 1))


def supervised_tokens(batch: BatchShape, params: TrainParams) -> float:
    """Return the expected hidden tokens of a batch: ceil(L r) per masked frame, r from a truncated normal."""
    tokens = batch.tokens_per_frame
    mean, std = params.mask_ratio_mean, params.mask_ratio_std

    def below(ratio: float) -> float:
        return 0.5 * (1 + math.erf((ratio - mean) / (std * math.sqrt(2)))) if std else float(ratio >= mean)

    low, high = below(params.mask_ratio_min), below(1.0)
    shares = [(below(max(params.mask_ratio_min, k / tokens)) - low) / (high - low) for k in range(tokens)]
    frames = max(1, batch.num_frames - 1) if params.objective == "all_frames" else 1
    return batch.batch_size * frames * sum(1 - share for share in shares)


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second of square matrix products, the best of several sizes."""
    best, sizes = 0.0, _MATRIX_SIZES if device.type == "cuda" else _MATRIX_SIZES[:3]
    for size in sizes:
        left, right = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
        torch.mm(left, right)
        wait_for(device)
        start, seconds, count = time.perf_counter(), 0.0, 0
        while seconds < _SECONDS_PER_SIZE:
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
    """Return the peak memory so far, GB: of the device, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return peak_host_gb()


def peak_host_gb() -> float:
    """Return the peak resident memory of this process so far, GB; 0 if the system does not say."""
    try:
        # Linux, where `getrusage` also counts the peak of the parent process.
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
    """Return once the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Meter:
    """Adds up what one worker does between two rows of the log."""

    def __init__(self, model: ModelShape, worker: Worker, rate: float) -> None:
        """Begin with nothing.

        Args:
            model: shape of the network.
            worker: this process; all workers have equal parts of each batch.
            rate: operations per second that its device is capable of, see `matmul_rate`.
        """
        self._model, self._worker, self._rate = model, worker, rate
        self._frames: Tensor
        self._clear()

    def add_step(self, parts: Iterable[Clips], params: TrainParams, waited_s: float, step_s: float) -> None:
        """Count a step: this worker's parts, the seconds spent waiting for them, and all its seconds."""
        for clips in parts:
            shape = BatchShape.of(clips, self._model.params.patch_size)
            self._flops += step_flops(self._model, shape, params)
            self._tokens += shape.batch_size * shape.tokens_per_frame * sequence_frames(shape, params)
        self._waited_s += waited_s
        self._seconds += step_s

    def add_frames(self, sums: Tensor, counts: Tensor) -> None:
        """Count the errors of hidden tokens by frame, (T,) each, on the device; see `FrameLosses`."""
        added = torch.stack([sums, counts]).double()
        longer = added.shape[1] - self._frames.shape[1]
        if longer > 0:
            self._frames = F.pad(self._frames, (0, longer))
        self._frames[:, : added.shape[1]] += added

    def take(self) -> dict[str, float]:
        """Return metrics of the steps since the last call; every worker calls it at the same step.

        Loss and supervised tokens are of all workers; waiting, utilisation and memory of this one.
        """
        if not self._seconds:
            return {}
        sums, counts = self._worker.total(self._frames).tolist()
        metrics = {
            "tokens_per_s": self._tokens * self._worker.world_size / self._seconds,
            "supervised_tokens_per_s": sum(counts) / self._seconds,
            "data_wait_share": self._waited_s / self._seconds,
            "mfu": self._flops / self._seconds / self._rate,
            "peak_memory_gb": peak_memory_gb(self._worker.device),
        }
        by_frame = enumerate(zip(sums, counts, strict=True))
        metrics |= {f"loss/frame_{index}": total / count for index, (total, count) in by_frame if count}
        self._clear()
        return metrics

    def _clear(self) -> None:
        self._flops = self._tokens = self._waited_s = self._seconds = 0.0
        self._frames = torch.zeros(2, 0, dtype=torch.float64, device=self._worker.device)


def by_stage(number: int, metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the loss under the name of its curriculum stage too: losses of two stages are not comparable."""
    return {f"loss/stage_{number}": metrics["loss"]} if "loss" in metrics else {}

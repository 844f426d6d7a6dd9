"""A batch in parts, or micro-batches, whose gradients add up to that of the batch.

Part p of P holds every P-th clip from the p-th on, and draws from stream p of the step. So apart from the
order
of additions, a step is the same on two workers and on one worker with two micro-batches:

    batch        clip 0   clip 1   clip 2   clip 3   clip 4   clip 5
    part 0 of 2  clip 0            clip 2            clip 4
    part 1 of 2           clip 1            clip 3            clip 5
"""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from videomar.compute.device import send
from videomar.compute.seeding import on_host, step_generator
from videomar.config import TrainParams
from videomar.latents.dataset import Batch, BatchSpec, LatentDataset
from videomar.model.objective import Clips, Hidden, draw_hidden
from videomar.model.patchify import token_grid
from videomar.training.parallelize import synchronise
from videomar.training.throughput import Meter
from videomar.training.worker import Worker

_T = TypeVar("_T")


class Part(NamedTuple):
    """One micro-batch in the memory of the host, and the source of its randomness."""

    clips: Clips
    clip_ids: list[str]
    generator: torch.Generator
    """Of the device that the part is learnt on."""
    hidden: Hidden | None = None
    """Its tokens to learn; None = not drawn yet."""

    def drawn(self, params: TrainParams, patch_size: int) -> "Part":
        """Return the part with its tokens to learn, which are drawn now unless they were before."""
        if self.hidden is not None:
            return self
        latents = self.clips.latents
        rows, columns = token_grid(latents, patch_size)
        shape = (len(latents), latents.shape[2], rows * columns)
        return self._replace(hidden=draw_hidden(shape, params, on_host(self.generator)))

    @property
    def num_hidden(self) -> int:
        """Tokens to learn; 0 = not drawn yet."""
        return 0 if self.hidden is None else len(self.hidden.places)


def clips_on(device: torch.device, batch: Batch) -> Clips:
    """Return a batch as tensors on a device; the host does not wait for it."""
    return _moved(_tensors(batch), device)


def parts_of(
    step: int, dataset: LatentDataset, draw: BatchSpec, accumulation: int, worker: Worker
) -> list[Part]:
    """Return this worker's parts of the batch of a step."""
    if worker.device.type == "cuda" and worker.device.index is not None:
        # The thread that reads ahead begins on the first GPU, and would pin memory for that one.
        torch.cuda.set_device(worker.device)
    count = worker.world_size * accumulation
    first = worker.rank * accumulation
    parts = []
    for number in range(first, first + accumulation):
        batch = dataset.batch_at(step, draw, number, count)
        generator = step_generator(draw.seed, step, number, worker.device)
        clips = _tensors(batch)
        if batch.latents_std is not None:
            std = torch.from_numpy(batch.latents_std)
            clips = clips._replace(latents=draw_latents(clips.latents, std, on_host(generator)))
        if worker.device.type == "cuda":
            clips = _each(Tensor.pin_memory, clips)
        parts.append(Part(clips, batch.clip_ids, generator))
    return parts


def draw_latents(mean: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """Draw latents (B, C, T, H, W) from the normal distributions of the tokenizer.

    Source: MAR (arXiv 2406.11838), whose code caches both moments, and draws each time a clip is used.
    """
    return mean + std * torch.randn(std.shape, generator=generator, device=std.device)


class Ahead(Generic[_T]):
    """Makes what the next step needs on a thread, while this one runs. Remembers a result in the making."""

    def __init__(self, make: Callable[[int, int], _T]) -> None:
        """Make nothing yet; `make` gets the number of a step and of its stage."""
        self._make = make
        # Ends with this object, or with the interpreter, once it has finished what it is at.
        self._thread = ThreadPoolExecutor(1, "batches")
        self._next: tuple[tuple[int, int], Future[_T]] | None = None

    def take(self, step: int, stage: int, more: bool) -> _T:
        """Return what a step needs, and begin with the step after it if there are `more` in the stage.

        What was begun and is not asked for, as when a stage ends early, is dropped with its errors.
        """
        begun, self._next = self._next, None
        is_begun = begun is not None and begun[0] == (step, stage)
        made = begun[1].result() if begun and is_begun else self._make(step, stage)
        if more:
            self._next = ((step + 1, stage), self._thread.submit(self._make, step + 1, stage))
        return made


def backward(
    loss_of: nn.Module,
    parts: Sequence[Part],
    params: TrainParams,
    patch_size: int,
    worker: Worker,
    meter: Meter | None = None,
) -> Tensor:
    """Add the gradient of the mean error over all hidden tokens of the batch; return that mean, float64.

    The host copies each part to the device when its turn comes, and waits for nothing.

    Args:
        loss_of: returns the errors of a part's hidden tokens; DistributedDataParallel with several workers.
        parts: this worker's parts.
        params: section `train`, with the stage's own values.
        patch_size: of the model.
        worker: this process.
        meter: records the errors of each frame.
    """
    parts = [part.drawn(params, patch_size) for part in parts]
    shares = _shares([part.num_hidden for part in parts], worker)
    total = torch.zeros((), device=worker.device)
    for number, (part, share) in enumerate(zip(parts, shares, strict=True)):
        # Workers exchange gradients once, with the last part.
        with synchronise(loss_of, params, number + 1 == len(parts)):
            clips, hidden = _moved(part.clips, worker.device), part.hidden
            hidden = None if hidden is None else hidden.to(worker.device)
            losses = loss_of(clips, params, part.generator, hidden)
            loss = losses.mean * share
            loss.backward()
        total += loss.detach()
        if meter:
            meter.add_frames(losses.sums, losses.counts)
    return worker.total(total) / worker.world_size


def _tensors(batch: Batch) -> Clips:
    latents, text, text_mask = (torch.from_numpy(array) for array in batch[:3])
    conditions = {name: torch.from_numpy(values) for name, values in batch.conditions.items()}
    simulated = None if batch.simulated is None else torch.from_numpy(batch.simulated)
    return Clips(latents, text, text_mask, conditions, simulated)


def _moved(clips: Clips, device: torch.device) -> Clips:
    return _each(functools.partial(send, device=device), clips)


def _each(change: Callable[[Tensor], Tensor], clips: Clips) -> Clips:
    conditions = {name: change(values) for name, values in clips.conditions.items()}
    simulated = None if clips.simulated is None else change(clips.simulated)
    return Clips(change(clips.latents), change(clips.text), change(clips.text_mask), conditions, simulated)


def _shares(counts: Sequence[int], worker: Worker) -> list[Tensor | float]:
    """Return the weight of each part's mean error from the parts' numbers of hidden tokens.

    Parts hide different numbers of tokens. With these weights the mean over workers, which
    DistributedDataParallel takes, is the mean over all hidden tokens.
    """
    if worker.world_size * len(counts) == 1:
        return [1.0]
    if worker.world_size == 1:
        return [count / sum(counts) for count in counts]
    everywhere = worker.total(torch.full((), sum(counts), dtype=torch.float64, device=worker.device))
    return [(count * worker.world_size / everywhere).float() for count in counts]

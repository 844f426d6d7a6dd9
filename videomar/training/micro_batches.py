"""A batch in parts, or micro-batches, whose gradients add up to that of the batch.

Part p of P holds every P-th clip from the p-th on, and draws from stream p of the step. So apart from the
order
of additions, a step is the same on two workers and on one worker with two micro-batches:

    batch        clip 0   clip 1   clip 2   clip 3   clip 4   clip 5
    part 0 of 2  clip 0            clip 2            clip 4
    part 1 of 2           clip 1            clip 3            clip 5
"""

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from videomar.compute.seeding import step_generator
from videomar.config import TrainParams
from videomar.latents.dataset import Batch, BatchSpec, LatentDataset
from videomar.model.objective import Clips, draw_frames
from videomar.model.patchify import patchify, token_grid
from videomar.training.throughput import Meter
from videomar.training.worker import Worker


class Part(NamedTuple):
    """One micro-batch, and the source of its randomness."""

    clips: Clips
    clip_ids: list[str]
    generator: torch.Generator


def clips_on(device: torch.device, batch: Batch) -> Clips:
    """Return a batch as tensors on a device."""
    latents, text, text_mask = (torch.from_numpy(array).to(device) for array in batch[:3])
    conditions = {name: torch.from_numpy(values).to(device) for name, values in batch.conditions.items()}
    return Clips(latents, text, text_mask, conditions)


def parts_of(
    step: int, dataset: LatentDataset, draw: BatchSpec, accumulation: int, worker: Worker
) -> list[Part]:
    """Return this worker's parts of the batch of a step."""
    count = worker.world_size * accumulation
    first = worker.rank * accumulation
    parts = []
    for number in range(first, first + accumulation):
        batch = dataset.batch_at(step, draw, number, count)
        generator = step_generator(draw.seed, step, number, worker.device)
        clips = clips_on(worker.device, batch)
        if batch.latents_std is not None:
            std = torch.from_numpy(batch.latents_std).to(worker.device)
            clips = clips._replace(latents=draw_latents(clips.latents, std, generator))
        parts.append(Part(clips, batch.clip_ids, generator))
    return parts


def draw_latents(mean: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """Draw latents (B, C, T, H, W) from the normal distributions of the tokenizer.

    Source: MAR (arXiv 2406.11838), whose code caches both moments, and draws each time a clip is used.
    """
    return mean + std * torch.randn(std.shape, generator=generator, device=std.device)


def backward(
    loss_of: nn.Module,
    parts: Sequence[Part],
    params: TrainParams,
    patch_size: int,
    worker: Worker,
    meter: Meter | None = None,
) -> float:
    """Add the gradient of the mean error over all hidden tokens of the batch; return that mean.

    Args:
        loss_of: returns the errors of a part's hidden tokens; DistributedDataParallel with several workers.
        parts: this worker's parts.
        params: section `train`, with the stage's own values.
        patch_size: of the model.
        worker: this process.
        meter: records the errors of each frame.
    """
    shares = _shares(parts, params, patch_size, worker)
    shared = loss_of if isinstance(loss_of, nn.parallel.DistributedDataParallel) else None
    total = torch.zeros((), device=worker.device)
    for number, (part, share) in enumerate(zip(parts, shares, strict=True)):
        # Workers exchange gradients once, with the last part.
        last = number + 1 == len(parts)
        with contextlib.nullcontext() if last or shared is None else shared.no_sync():
            losses = loss_of(part.clips, params, part.generator)
            loss = losses.mean * share
            loss.backward()
        total += loss.detach()
        if meter:
            meter.add_frames(losses.sums, losses.counts)
    return worker.sum([total.item()])[0] / worker.world_size


def hidden_tokens(part: Part, params: TrainParams, patch_size: int) -> int:
    """Count the tokens of a part that will be hidden, by drawing from a copy of its generator."""
    latents = part.clips.latents
    tokens, grid = patchify(latents, patch_size), token_grid(latents, patch_size)
    return int(draw_frames(tokens, grid, params, part.generator.clone_state()).token_mask.sum())


def _shares(parts: Sequence[Part], params: TrainParams, patch_size: int, worker: Worker) -> list[float]:
    """Return the weight of each part's mean error.

    Parts hide different numbers of tokens. With these weights the mean over workers, which
    DistributedDataParallel takes, is the mean over all hidden tokens.
    """
    if worker.world_size * len(parts) == 1:
        return [1.0]
    counts = [hidden_tokens(part, params, patch_size) for part in parts]
    everywhere = worker.sum([sum(counts)])[0]
    return [count * worker.world_size / everywhere for count in counts]

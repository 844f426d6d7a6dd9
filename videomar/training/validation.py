"""Loss on held-out clips with fixed masks and noise: the same number for the same weights."""

import dataclasses

import numpy as np
import torch
from torch import nn

from videomar.config import CurriculumStage, TrainParams
from videomar.latents.dataset import LatentDataset
from videomar.seeding import step_generator
from videomar.training.micro_batches import clips_on
from videomar.training.worker import Worker

# Masks and noise come from streams that no step uses.
VALIDATION_STEP = -2


@torch.no_grad()
def validation_loss(
    loss_of: nn.Module, val: LatentDataset, stage: CurriculumStage, params: TrainParams, worker: Worker
) -> float:
    """Mean over up to `validation_clips` clips of the mean error of their hidden tokens.

    Every clip is a batch of its own with draws of its own, so neither the batch nor the number of workers
    shows in the result. All frames are learnt whatever the objective, captions and conditions are told, and
    history is clean: runs that train differently can be compared.

    Args:
        loss_of: errors of a batch's hidden tokens.
        val: held-out clips; evenly spaced ones are taken.
        stage: length and size of the clips.
        params: mask ratios, times, seed.
        worker: this process, which does every `world_size`-th clip.
    """
    asked = dataclasses.replace(
        params, objective="all_frames", cond_drop_prob=0.0, condition_drop_prob=0.0, history_noise=0.0
    )
    sized = np.flatnonzero(val.sizes_px == (stage.size_px or val.sizes_px.max()))
    count = min(params.validation_clips, len(sized))
    index = sized[np.linspace(0, len(sized) - 1, count).round().astype(np.int64)]
    losses = [0.0] * count
    for first in range(0, count, worker.world_size):
        # All workers take part in every pass, as those that hold a model in parts must; one loss is not used.
        number = min(first + worker.rank, count - 1)
        clips = clips_on(worker.device, val.rows(index[number : number + 1], stage.num_latent_frames))
        generator = step_generator(params.seed, VALIDATION_STEP, number, worker.device)
        loss = loss_of(clips, asked, generator).mean.item()
        if first + worker.rank < count:
            losses[number] = loss
    return sum(worker.sum(losses)) / count

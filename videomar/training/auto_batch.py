"""Batch sizes of `auto` stages: the largest power of two that fits a memory budget, found by real steps.

A separate process makes steps with one clip, two, four and so on, and reports its peak memory. The sizes
found are written to the run's folder, so that a resumed run uses the same.
"""

import dataclasses
import json
import logging
import math
import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from videomar.checkpoint.manifest import ModelShape
from videomar.compute.device import repeat_exactly
from videomar.compute.seeding import step_generator
from videomar.config import TrainParams
from videomar.config.training import AUTO
from videomar.errors import DataError, ParamsError
from videomar.files import write_json
from videomar.latents.dataset import LatentDataset
from videomar.model.objective import Clips
from videomar.training.curriculum import stage_params
from videomar.training.micro_batches import clips_on
from videomar.training.optim import update_ema
from videomar.training.parallelize import Loss, recompute_blocks
from videomar.training.state import new_state
from videomar.training.throughput import peak_host_gb
from videomar.training.worker import Worker

BATCH_FILE = "batch_sizes.json"
# The first step creates the optimizer's state, so only the second has all memory in use.
_STEPS = 2
_log = logging.getLogger(__name__)


class Trial(NamedTuple):
    """Inputs of the process that makes steps with micro-batches of any size."""

    shape: ModelShape
    params: TrainParams
    """Section `train` with the stage's own values."""
    clip: Clips
    """A batch of one clip, as large as any of the stage."""
    device: torch.device
    threads: int
    most: int
    """Largest number of clips to try."""


def with_batch_sizes(
    shape: ModelShape, dataset: LatentDataset, params: TrainParams, out: Path, worker: Worker
) -> TrainParams:
    """Return the parameters with a number for every batch size `auto`: the recorded one, or one found now.

    Raises:
        ParamsError: not even one clip fits.
    """
    wanted = [number for number, stage in enumerate(params.curriculum) if stage.batch_size == AUTO]
    if not wanted:
        return params

    def find() -> None:
        if worker.rank or (out / BATCH_FILE).is_file():
            return
        found = {}
        for number in wanted:
            peaks = peaks_gb(_trial(shape, dataset, number, params, worker))
            clips = _largest(peaks, number, params.memory_gb)
            found[str(number)] = clips * worker.world_size * params.accumulation
            tried = ", ".join(f"{size}: {peak:.2f} GB" for size, peak in peaks.items())
            _log.warning("stage %d: batch size %d (by clips at once: %s)", number, found[str(number)], tried)
        write_json(out / BATCH_FILE, found)

    worker.together(find)
    sizes = json.loads((out / BATCH_FILE).read_text("utf-8"))
    stages = [
        dataclasses.replace(stage, batch_size=sizes.get(str(number), stage.batch_size))
        for number, stage in enumerate(params.curriculum)
    ]
    return dataclasses.replace(params, curriculum=tuple(stages))


def peaks_gb(trial: Trial) -> dict[int, float]:
    """Return peak memory, GB, by clips in a micro-batch: 1, 2, 4 and so on, up to the budget."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_take_steps, args=(theirs, trial))
    process.start()
    theirs.close()
    peaks: dict[int, float] = {}
    try:
        while True:
            size, peak = ours.recv()
            peaks[size] = peak
    except EOFError:  # the process has done all sizes, or the system ended it for its memory
        process.join()
    return peaks


def _trial(
    shape: ModelShape, dataset: LatentDataset, number: int, params: TrainParams, worker: Worker
) -> Trial:
    stage = params.curriculum[number]
    try:
        sized = dataset.fitting(stage.num_latent_frames, stage.size_px).tolist()
    except DataError as error:
        raise DataError(f"train.curriculum: stage {number}: {error}") from None
    largest = max(sized, key=lambda row: math.prod(dataset.latent_shapes[row]))
    clip = clips_on(torch.device("cpu"), dataset.rows([largest], stage.num_latent_frames))
    # A batch larger than the split would only repeat clips.
    most = max(1, len(sized) // (worker.world_size * params.accumulation))
    return Trial(shape, stage_params(stage, params), clip, worker.device, torch.get_num_threads(), most)


def _largest(peaks: dict[int, float], number: int, memory_gb: float) -> int:
    fitting = [size for size, peak in peaks.items() if peak <= memory_gb]
    if not fitting:
        least = f"{peaks[1]:.2f} GB" if peaks else "more memory than this machine has"
        raise ParamsError(
            f"resources.train.memory_gb: got {memory_gb}, expected at least {least}, which one clip of stage "
            f"{number} takes; raise it, or set train.activation_checkpointing"
        )
    return max(fitting)


def _take_steps(results: Connection, trial: Trial) -> None:
    """Send (clips, peak GB) for 1, 2, 4 and so on; stop before a size that would exceed the budget."""
    torch.set_num_threads(trial.threads)
    repeat_exactly(trial.device)  # the kernels of the run, and their memory
    state = new_state(trial.shape, trial.params, trial.device)
    if trial.params.activation_checkpointing:
        recompute_blocks(state.model)
    loss_of = Loss(state.model, trial.params.precision)
    size, before = 1, _peak_gb(trial.device)
    while size <= trial.most:
        clips = _repeated(trial.clip, size, trial.device)
        for step in range(_STEPS):
            state.optimizer.zero_grad()
            loss_of(clips, trial.params, step_generator(0, step, 0, trial.device)).mean.backward()
            state.optimizer.step()
            update_ema(state.ema, state.model, 0.5)
        peak = _peak_gb(trial.device)
        results.send((size, peak))
        # The next doubling adds twice the memory that the last one added.
        if peak + 2 * (peak - before) > trial.params.memory_gb and size > 1:
            return
        size, before = 2 * size, peak


def _repeated(clip: Clips, count: int, device: torch.device) -> Clips:
    def repeat(x: Tensor) -> Tensor:
        return x.repeat(count, *[1] * (x.ndim - 1)).to(device)

    conditions = {name: repeat(values) for name, values in clip.conditions.items()}
    simulated = None if clip.simulated is None else repeat(clip.simulated)
    return Clips(repeat(clip.latents), repeat(clip.text), repeat(clip.text_mask), conditions, simulated)


def _peak_gb(device: torch.device) -> float:
    """Return the peak memory so far, GB: of the device, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 1e9
    return peak_host_gb()

"""The training loop: one plain function that runs alone, or as one of several workers.

Batches and noise are functions of (seed, step, part), so a run that was killed anywhere and started again
ends with the same bits as one that was not.
"""

import dataclasses
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from videomar import checkpoint
from videomar.checkpoint import ModelParts
from videomar.checkpoint.manifest import ModelShape
from videomar.compute.device import device_kind, repeat_exactly
from videomar.compute.seeding import step_generator
from videomar.config import CurriculumStage, TrainParams
from videomar.errors import CheckpointError, DataError
from videomar.files import LOG_FILE, write_csv
from videomar.latents.dataset import LatentDataset, Splits
from videomar.model.videomar import VideoMAR
from videomar.training.auto_batch import with_batch_sizes
from videomar.training.curriculum import (
    check_served,
    draw_of,
    position_at,
    stage_params,
    stop_reason,
    val_of,
)
from videomar.training.micro_batches import Ahead, Part, backward, clips_on, parts_of
from videomar.training.optim import ema_decay_at, learning_rate_at, update_ema
from videomar.training.parallelize import (
    DTYPES,
    Loss,
    clip_grad_norm,
    compile_blocks,
    gather_model,
    mesh_of,
    recompute_blocks,
    refuse_emulated,
)
from videomar.training.run_folder import claim_run_folder, describe_run
from videomar.training.state import (
    Progress,
    State,
    begin_from,
    begin_new,
    check_step,
    new_state,
    restore,
    save_checkpoint,
    shape_of_run,
    summary,
)
from videomar.training.throughput import Meter, by_stage, matmul_rate
from videomar.training.worker import Worker

# Masks and noise of validation come from streams that no step uses.
VALIDATION_STEP = -2
_log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Records what happens in a run; `flush` makes it durable."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record metrics of a step."""

    def tag(self, values: dict[str, str]) -> None:
        """Record text about the whole run."""

    def log_preview(self, step: int, model: VideoMAR) -> None:
        """Record sample clips of the model after a step, without drawing from a generator of the training."""

    def flush(self) -> None:
        """Return once all that was recorded is on disk."""


def train(
    shape: ModelShape,
    data: Splits,
    params: TrainParams,
    out: Path,
    worker: Worker,
    tracker: Tracker | None,
    model_parts: ModelParts | None = None,
) -> dict[str, float]:
    """Train to the end of the curriculum, from the newest checkpoint in `out` if this run has one.

    With `model_parts` every checkpoint is a whole model.

    Returns:
        Metrics of the run, see `summary`.
    """
    repeat_exactly(worker.device)
    identity = describe_run(shape, data.train, params, device_kind(worker.device))
    worker.together(lambda: claim_run_folder(out, identity) if worker.rank == 0 else None)
    params = with_batch_sizes(shape, data.train, params, out, worker)
    _check(data, params, worker)
    shape = worker.together(lambda: shape_of_run(shape, params, out))
    state = new_state(shape, params, worker.device, mesh_of(params, worker))
    if not restore(state, out, identity):
        if params.start_from is None:
            worker.together(lambda: begin_new(state, data.train, params))
        else:
            begin_from(state, Path(str(params.start_from)))
    model, ema, optimizer, progress = state.model, state.ema, state.optimizer, state.progress
    loss_of, ema_loss_of = _losses(state, params, worker)
    # Measured by the recording worker alone: several at once would slow each other down.
    matmul = matmul_rate(worker.device, DTYPES[params.precision]) if tracker else 1.0
    meter = Meter(shape, worker, matmul)
    batches = batches_ahead(data.train, params, model.params.patch_size, worker)
    if tracker:
        tracker.tag({f"stage_{n}_batch_size": str(s.batch_size) for n, s in enumerate(params.curriculum)})

    # Batch, noise, rate and decay of a step follow from its number and the ends of stages, also when resumed.
    while len(progress.ends) < len(params.curriculum):
        step = progress.step
        position = position_at(step, progress.ends, params)
        stage, own = position.stage, stage_params(position.stage, params)
        rate = learning_rate_at(position.planned, own, position.optimizer_steps)
        decay = ema_decay_at(position.ema_steps, params.ema_decay)
        if step == position.start and stage.optimizer == "reset":
            optimizer.state.clear()
        if step == position.start and stage.ema == "reset":
            ema.load_state_dict(model.state_dict())

        began = time.perf_counter()
        more = step + 1 < position.start + stage.steps
        parts = batches.take(step, position.number, more)
        waited_s = time.perf_counter() - began
        optimizer.zero_grad()
        mean = backward(loss_of, parts, own, model.params.patch_size, worker, meter)
        norm = clip_grad_norm(model.parameters(), params.max_grad_norm)
        # The only wait of a step: a bad update must not be made, and by now the device has all other work.
        loss, grad_norm = torch.stack([mean, norm.double()]).tolist()
        # All workers see the same loss and norm, so they decide alike.
        problem = check_step(loss, grad_norm, progress.latest, params.spike_factor)
        if problem is None:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            update_ema(ema, model, decay)
            progress.accept(loss)
        else:
            _skip_or_stop(problem, progress, parts, params, out)
        progress.step = done = step + 1
        meter.add_step([part.clips for part in parts], own, waited_s, time.perf_counter() - began)

        is_last = done - position.start >= stage.steps
        saving = is_last or done % params.checkpoint_every == 0
        metrics: dict[str, float] = {}
        val = val_of(data, stage, params)
        if val and (is_last or done % params.validate_every == 0):
            metrics["val_loss"] = validation_loss(ema_loss_of, val, stage, params, worker)
        reason = stop_reason(position, done, metrics.get("val_loss"))
        if saving and val:
            # A validation made only to rank this checkpoint must not reach the target or the log: how often
            # checkpoints are written must not change the result of a run.
            rank = metrics.get("val_loss")
            if rank is None and params.keep_best:
                rank = validation_loss(ema_loss_of, val, stage, params, worker)
            progress.note_checkpoint(rank, position.number)
        if reason or metrics or done % params.log_every == 0:
            numbers = {"grad_norm": grad_norm, "learning_rate": rate, "skipped": progress.all_skipped}
            metrics = {"stage": position.number} | progress.take_mean() | numbers | metrics
            state.rows.append({"step": done} | metrics)
            measured = meter.take() | by_stage(position.number, metrics) | {"ema_decay": decay}
            if worker.rank == 0:
                write_csv(out / LOG_FILE, state.rows)
                if tracker:
                    tracker.log(done, metrics | measured)
        if params.preview_every and done % params.preview_every == 0:
            whole = gather_model(ema, shape, worker)
            if tracker:
                tracker.log_preview(done, whole)
        if reason:
            _log.warning("stage %d ended after step %d: %s", position.number, done, reason)
            progress.end_stage(reason)
            if tracker:
                tracker.tag({f"stage_{position.number}_ended": f"after step {done}: {reason}"})
        if saving or reason:
            if tracker:
                tracker.flush()
            worker.together(lambda: save_checkpoint(state, out, shape, params, identity, worker, model_parts))
    return summary(state.rows, progress)


@torch.no_grad()
def validation_loss(
    loss_of: nn.Module, val: LatentDataset, stage: CurriculumStage, params: TrainParams, worker: Worker
) -> float:
    """Return the mean over up to `validation_clips` held-out clips of the mean error of their hidden tokens.

    Masks and noise are fixed, so the same weights have the same loss. Every clip is a batch of its own with
    its own draws, so neither the batch nor the number of workers changes the result. All frames are predicted
    whatever the objective, nothing is dropped from captions and conditions, and history has no noise: runs
    that train differently can be compared.

    Args:
        loss_of: returns the errors of a batch's hidden tokens.
        val: held-out clips, of which evenly spaced ones are used.
        stage: length and size of the clips.
        params: mask ratios, times, seed.
        worker: this process, which computes every `world_size`-th clip.
    """
    fixed = dataclasses.replace(
        params,
        objective="all_frames",
        cond_drop_prob=0.0,
        real_cond_drop_prob=None,
        condition_drop_prob=0.0,
        history_noise=0.0,
    )
    sized = val.usable(stage.num_latent_frames, stage.size_px)
    count = min(params.validation_clips, len(sized))
    index = sized[np.linspace(0, len(sized) - 1, count).round().astype(np.int64)]
    losses = torch.zeros(count, dtype=torch.float64, device=worker.device)
    for first in range(0, count, worker.world_size):
        # Every worker runs every pass, as a sharded model needs; a repeated clip is not counted.
        number = min(first + worker.rank, count - 1)
        clips = clips_on(worker.device, val.rows(index[number : number + 1], stage.num_latent_frames))
        generator = step_generator(params.seed, VALIDATION_STEP, number, worker.device)
        loss = loss_of(clips, fixed, generator).mean
        if first + worker.rank < count:
            losses[number] = loss
    return sum(worker.total(losses).tolist()) / count


def _check(data: Splits, params: TrainParams, worker: Worker) -> None:
    """Refuse what would fail later, before step 0."""
    refuse_emulated(params.precision, worker.device)
    check_served(data.train, params)
    aiming = [stage for stage in params.curriculum if stage.target_loss is not None]
    if any(val_of(data, stage, params) is None for stage in aiming):
        raise DataError(
            "train.curriculum: got a target_loss and no clip in split val, expected some to validate on; "
            "raise curate.val_share, or set target_loss to null"
        )


def batches_ahead(
    dataset: LatentDataset, params: TrainParams, patch_size: int, worker: Worker
) -> Ahead[list[Part]]:
    """Return the parts of every step, made one step ahead, with their tokens to learn."""

    def make(step: int, number: int) -> list[Part]:
        stage = params.curriculum[number]
        parts = parts_of(step, dataset, draw_of(stage, params), params.accumulation, worker)
        return [part.drawn(stage_params(stage, params), patch_size) for part in parts]

    return Ahead(make)


def _losses(state: State, params: TrainParams, worker: Worker) -> tuple[nn.Module, nn.Module]:
    """Return the loss modules of the model, with gradients over all workers, and of its moving average."""
    if params.activation_checkpointing:
        recompute_blocks(state.model)
    if params.compile:
        compile_blocks(state.model)
    loss_of: nn.Module = Loss(state.model, params.precision)
    if worker.world_size > 1 and params.sharding == "ddp":
        # Every worker has measured or loaded the same buffer, which never changes.
        loss_of = nn.parallel.DistributedDataParallel(loss_of, broadcast_buffers=False)
    return loss_of, Loss(state.ema, params.precision)


def _skip_or_stop(
    problem: str, progress: Progress, parts: Sequence[Part], params: TrainParams, out: Path
) -> None:
    """Count a step whose update is skipped.

    Raises:
        CheckpointError: the policy is to stop, or too many updates were skipped.
    """
    clip_ids = [clip_id for part in parts for clip_id in part.clip_ids]
    where = f"step {progress.step} (clips {', '.join(clip_ids[:8])}{', ...' if clip_ids[8:] else ''})"
    if params.on_bad_step == "skip" and progress.skipped < params.max_skipped_steps:
        progress.skipped += 1
        _log.warning("training: %s: %s; its update is skipped", where, problem)
        return
    raise CheckpointError(
        f"training: {where}: {problem}; look at the clips, lower train.learning_rate, or set "
        "resources.train.on_bad_step to skip and raise resources.train.max_skipped_steps; "
        f"last good checkpoint: {checkpoint.latest(out)}"
    )

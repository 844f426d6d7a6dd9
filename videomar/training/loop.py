"""The training loop: one plain function that runs alone, or as one of several workers.

Batches and noise are functions of (seed, step, part), so a run that was killed anywhere and started again
ends with the same bits as one that was not.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from torch import nn

from videomar.checkpoint import folder as checkpoint
from videomar.checkpoint.manifest import ModelShape
from videomar.config import TrainParams
from videomar.errors import CheckpointError, DataError
from videomar.files import LOG_FILE, write_csv
from videomar.model.videomar import VideoMAR
from videomar.training.auto_batch import with_batch_sizes
from videomar.training.curriculum import asked_of, check_served, draw_of, place_at, why_ended
from videomar.training.guards import what_is_wrong
from videomar.training.inputs import Splits
from videomar.training.micro_batches import Part, backward, parts_of
from videomar.training.optim import ema_decay_at, learning_rate_at, update_ema
from videomar.training.parallelize import clip_grad_norm, in_one_piece, mesh_of
from videomar.training.precision import DTYPES, Loss, compile_blocks, recompute_blocks, refuse_emulated
from videomar.training.run_folder import claim, describe_run
from videomar.training.state import Progress, State, keep, new_state, restore, summary
from videomar.training.throughput import Meter, by_stage, matmul_rate
from videomar.training.validation import validation_loss
from videomar.training.worker import Worker

_log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Takes figures of a step; `flush` makes sure that they are kept."""

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Record figures of a step."""

    def tag(self, values: dict[str, str]) -> None:
        """Record facts about the whole run."""

    def show(self, step: int, model: VideoMAR) -> None:
        """Record sample clips of the model after a step; draws from no generator of the training."""

    def flush(self) -> None:
        """Make sure that what was recorded is kept."""


def train(
    shape: ModelShape,
    data: Splits,
    params: TrainParams,
    out: Path,
    worker: Worker,
    tracker: Tracker | None,
) -> dict[str, float]:
    """Train to the end of the curriculum, from the newest checkpoint in `out` if this run has one.

    Returns:
        Figures of the run, see `summary`.
    """
    made_with = describe_run(shape, data.train, params)
    worker.together(lambda: claim(out, made_with) if worker.rank == 0 else None)
    params = with_batch_sizes(shape, data.train, params, out, worker)
    _check(data, params, worker)
    state = new_state(shape, params, worker.device, mesh_of(params, worker))
    restore(state, out, made_with)
    model, ema, optimizer, progress = state.model, state.ema, state.optimizer, state.progress
    loss_of, ema_loss_of = _losses(state, params, worker)
    # Measured by the one worker that records it: all of them at once would be in each other's way.
    matmul = matmul_rate(worker.device, DTYPES[params.precision]) if tracker else 1.0
    meter = Meter(shape.params, worker, matmul)
    if tracker:
        tracker.tag({f"stage_{n}_batch_size": str(s.batch_size) for n, s in enumerate(params.curriculum)})

    while len(progress.ends) < len(params.curriculum):
        step = progress.step
        place = place_at(step, progress.ends, params)
        stage, asked = place.stage, asked_of(place.stage, params)
        rate = learning_rate_at(place.planned, asked, place.optimizer_steps)
        decay = ema_decay_at(place.ema_steps, params.ema_decay)
        if step == place.start and stage.optimizer == "reset":
            optimizer.state.clear()
        if step == place.start and stage.ema == "reset":
            ema.load_state_dict(model.state_dict())

        began = time.perf_counter()
        parts = parts_of(step, data.train, draw_of(stage, params), params.accumulation, worker)
        waited_s = time.perf_counter() - began
        optimizer.zero_grad()
        loss = backward(loss_of, parts, asked, model.params.patch_size, worker, meter)
        grad_norm = clip_grad_norm(model.parameters(), params.max_grad_norm)
        wrong = what_is_wrong(loss, grad_norm, progress.latest, params.spike_factor)
        if wrong is None:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            update_ema(ema, model, decay)
            progress.accept(loss)
        else:
            _skip_or_stop(wrong, progress, parts, params, out)
        progress.step = done = step + 1
        meter.add_step([part.clips for part in parts], asked, waited_s, time.perf_counter() - began)

        is_last = done - place.start >= stage.steps
        saving = is_last or done % params.checkpoint_every == 0
        figures: dict[str, float] = {}
        if data.val and params.validate_every and (is_last or done % params.validate_every == 0):
            figures["val_loss"] = validation_loss(ema_loss_of, data.val, stage, params, worker)
        why = why_ended(place, done, figures.get("val_loss"))
        if saving and data.val and params.validate_every:
            # Another validation than those above only ranks the checkpoint. Neither target nor log sees it:
            # when checkpoints are written must not change what a run comes to.
            rank = figures.get("val_loss")
            if rank is None and params.keep_best:
                rank = validation_loss(ema_loss_of, data.val, stage, params, worker)
            progress.note_checkpoint(rank, place.number)
        if why or figures or done % params.log_every == 0:
            numbers = {"grad_norm": grad_norm, "learning_rate": rate, "skipped": progress.all_skipped}
            figures = {"stage": place.number} | progress.take_mean() | numbers | figures
            state.rows.append({"step": done} | figures)
            measured = meter.take() | by_stage(place.number, figures) | {"ema_decay": decay}
            if worker.rank == 0:
                write_csv(out / LOG_FILE, state.rows)
                if tracker:
                    tracker.log(done, figures | measured)
        if params.preview_every and done % params.preview_every == 0:
            shown = in_one_piece(ema, shape, worker)
            if tracker:
                tracker.show(done, shown)
        if why:
            _log.warning("stage %d ended after step %d: %s", place.number, done, why)
            progress.end_stage(why)
            if tracker:
                tracker.tag({f"stage_{place.number}_ended": f"after step {done}: {why}"})
        if saving or why:
            if tracker:
                tracker.flush()
            worker.together(lambda: keep(state, out, shape, params, made_with, worker))
    return summary(state.rows, progress)


def _check(data: Splits, params: TrainParams, worker: Worker) -> None:
    """Refuse before step 0 what would fail later."""
    refuse_emulated(params.precision, worker.device)
    check_served(data.train, params)
    if data.val is None and any(stage.target_loss is not None for stage in params.curriculum):
        raise DataError(
            "train.curriculum: got a target_loss and no clip in split val, expected some to validate on; "
            "raise curate.val_share, or set target_loss to null"
        )


def _losses(state: State, params: TrainParams, worker: Worker) -> tuple[nn.Module, nn.Module]:
    """Losses of the model, with gradients over all workers, and of its moving average."""
    if params.activation_checkpointing:
        recompute_blocks(state.model)
    if params.compile:
        compile_blocks(state.model)
    loss_of: nn.Module = Loss(state.model, params.precision)
    if worker.world_size > 1 and params.sharding == "ddp":
        loss_of = nn.parallel.DistributedDataParallel(loss_of)
    return loss_of, Loss(state.ema, params.precision)


def _skip_or_stop(
    wrong: str, progress: Progress, parts: Sequence[Part], params: TrainParams, out: Path
) -> None:
    """Count a step whose update is left out.

    Raises:
        CheckpointError: the policy is to stop, or too many were left out.
    """
    clip_ids = [clip_id for part in parts for clip_id in part.clip_ids]
    where = f"step {progress.step} (clips {', '.join(clip_ids[:8])}{', ...' if clip_ids[8:] else ''})"
    if params.on_bad_step == "skip" and progress.skipped < params.max_skipped_steps:
        progress.skipped += 1
        _log.warning("training: %s: %s; its update is left out", where, wrong)
        return
    raise CheckpointError(
        f"training: {where}: {wrong}; look at the clips, lower train.learning_rate, or set "
        "resources.train.on_bad_step to skip and raise resources.train.max_skipped_steps; "
        f"last good checkpoint: {checkpoint.latest(out)}"
    )

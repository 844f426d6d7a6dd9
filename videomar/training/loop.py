"""The training loop: one plain function that runs alone, or as one of several workers.

Batches and noise are functions of (seed, step, rank), so a run that was killed anywhere and started again
ends with the same bits as one that was not.
"""

import copy
import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from videomar import checkpoint
from videomar.checkpoint import ModelShape
from videomar.config import CurriculumStage, TrainParams
from videomar.data.dataset import Batch, LatentDataset
from videomar.errors import CheckpointError
from videomar.model.objective import Clips
from videomar.model.videomar import VideoMAR
from videomar.runtime import step_generator
from videomar.training.log import LOG_FILE, read_log, summary, write_rows
from videomar.training.optim import ema_decay_at, learning_rate_at, make_optimizer, update_ema

# Weights are drawn before step 0, from a stream that no step uses.
INIT_STEP = -1
_log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Takes figures of a step; `flush` makes sure that they are kept."""

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Record figures of a step."""

    def flush(self) -> None:
        """Make sure that what was recorded is kept."""


@dataclass(frozen=True, slots=True)
class Worker:
    """Which of how many workers this process is, and where it computes."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


class _Loss(nn.Module):
    """The model's loss as a forward pass, which is what DistributedDataParallel synchronises."""

    def __init__(self, model: VideoMAR, params: TrainParams) -> None:
        super().__init__()
        self.model, self.params = model, params

    def forward(self, clips: Clips, generator: torch.Generator) -> Tensor:
        return self.model.loss(clips, self.params, generator)


def untrained(shape: ModelShape, seed: int) -> VideoMAR:
    """The network as it is before step 0."""
    return shape.build().initialise(step_generator(seed, INIT_STEP))


def clips_on(device: torch.device, batch: Batch) -> Clips:
    """A batch as tensors of a device."""
    latents, text, text_mask = (torch.from_numpy(array).to(device) for array in batch[:3])
    conditions = {name: torch.from_numpy(values).to(device) for name, values in batch.conditions.items()}
    return Clips(latents, text, text_mask, conditions)


def stage_at(step: int, params: TrainParams) -> tuple[int, CurriculumStage]:
    """Number and entry of the curriculum stage that a step belongs to."""
    end = 0
    for number, stage in enumerate(params.curriculum):
        end += stage.steps
        if step < end:
            return number, stage
    return len(params.curriculum) - 1, params.curriculum[-1]


def train(
    shape: ModelShape,
    dataset: LatentDataset,
    params: TrainParams,
    out: Path,
    worker: Worker,
    tracker: Tracker | None,
) -> dict[str, float]:
    """Train to the end of the curriculum, from the newest checkpoint in `out` if it is of this run.

    Returns:
        Figures of the last logged steps.
    """
    made_with = describe_run(shape, dataset, params)
    if worker.rank == 0:
        discard_other_run(out, made_with)
    if worker.world_size > 1:
        dist.barrier()
    model = untrained(shape, params.seed).to(worker.device)
    ema = copy.deepcopy(model).requires_grad_(False)
    optimizer = make_optimizer(model, params)
    first_step, rows = _restore(out, model, ema, optimizer)
    loss_of: nn.Module = _Loss(model, params)
    if worker.world_size > 1:
        loss_of = nn.parallel.DistributedDataParallel(loss_of)
    window = torch.zeros((), device=worker.device)
    for step in range(first_step, params.max_steps):
        number, stage = stage_at(step, params)
        generator = step_generator(params.seed, step, worker.rank, worker.device)
        index = dataset.index_at(step, stage.batch_size, params.simulated_share, params.seed)
        batch = dataset.rows(index[worker.rank :: worker.world_size], stage.num_latent_frames)
        rate = learning_rate_at(step, params)
        for group in optimizer.param_groups:
            group["lr"] = rate

        loss = loss_of(clips_on(worker.device, batch), generator)
        optimizer.zero_grad()
        loss.backward()
        grad_norm = nn.utils.clip_grad_norm_(model.parameters(), params.max_grad_norm)
        optimizer.step()
        update_ema(ema, model, ema_decay_at(step, params.ema_decay))
        window += loss.detach()

        done = step + 1
        if done % params.log_every == 0:
            mean = _mean_over_workers(window / params.log_every, worker)
            window.zero_()
            row = {
                "step": done,
                "stage": number,
                "loss": mean,
                "grad_norm": grad_norm.item(),
                "learning_rate": rate,
            }
            rows.append(row)
            _refuse_non_finite(row, batch.clip_ids, out)
            if worker.rank == 0:
                write_rows(out / LOG_FILE, rows)
                if tracker:
                    tracker.log(done, {key: value for key, value in row.items() if key != "step"})
        if worker.rank == 0 and (done % params.checkpoint_every == 0 or done == params.max_steps):
            if tracker:
                tracker.flush()
            tensors = {"model": model.state_dict(), "ema": ema.state_dict()}
            tensors["optimizer"] = optimizer_tensors(optimizer)
            checkpoint.save(out, done, shape, tensors, made_with)
            checkpoint.prune(out, params.keep_checkpoints)
    return summary(rows)


def describe_run(shape: ModelShape, dataset: LatentDataset, params: TrainParams) -> dict[str, Any]:
    """JSON of all that a checkpoint depends on; a run goes on only from a checkpoint with the same."""
    run = {"shape": asdict(shape), "train": asdict(params), "data": dataset.content_hash, "code": code_hash()}
    return json.loads(json.dumps(run))


def code_hash() -> str:
    """Hash of the code of model and training: an edit there may change what a step does."""
    package = Path(__file__).parent.parent
    files = sorted([*package.glob("model/*.py"), *package.glob("training/*.py")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def discard_other_run(out: Path, made_with: Mapping[str, Any]) -> None:
    """Empty the folder of a run unless its newest checkpoint was made with the same; says what differs."""
    path = checkpoint.latest(out)
    if path is None:
        return
    different = differing_keys(made_with, checkpoint.read_manifest(path)["made_with"])
    if different:
        _log.warning("%s is of another run (%s): training starts anew", path, "; ".join(different[:5]))
        shutil.rmtree(out)


def differing_keys(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ, as `key: theirs -> ours`."""
    found = []
    for key in sorted({*ours, *theirs}):
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differing_keys(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: {b} -> {a}")
    return found


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of AdamW as named tensors: `NUMBER.NAME` for each parameter's number in the optimizer."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": value for number, entry in state.items() for name, value in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _restore(
    out: Path, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, list[dict[str, float]]]:
    """First step to do and the figures of the steps done, after loading the newest checkpoint of this run."""
    path = checkpoint.latest(out)
    if path is None:
        return 0, []
    manifest = checkpoint.read_manifest(path)
    model.load_state_dict(checkpoint.load_tensors(path, "model"))
    ema.load_state_dict(checkpoint.load_tensors(path, "ema"))
    load_optimizer(optimizer, checkpoint.load_tensors(path, "optimizer"))
    step = int(manifest["step"])
    _log.warning("continuing from %s", path)
    return step, [row for row in read_log(out) if row["step"] <= step]


def _mean_over_workers(value: Tensor, worker: Worker) -> float:
    if worker.world_size > 1:
        dist.all_reduce(value)
        value = value / worker.world_size
    return value.item()


def _refuse_non_finite(row: dict[str, float], clip_ids: list[str], out: Path) -> None:
    if not torch.isfinite(torch.tensor([row["loss"], row["grad_norm"]])).all():
        raise CheckpointError(
            f"training: got loss {row['loss']} before step {row['step']} "
            f"(clips {', '.join(clip_ids[:4])}, ...), expected finite numbers; "
            f"lower train.learning_rate; last good checkpoint: {checkpoint.latest(out)}"
        )

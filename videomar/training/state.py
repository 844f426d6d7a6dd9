"""The state of a run: weights, their moving average, the optimizer, its progress, its log."""

import copy
import logging
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from videomar import checkpoint
from videomar.checkpoint import ModelParts
from videomar.checkpoint.adapters import (
    ADAPTER,
    adapted_tensors,
    adapter_tensors,
    add_adapters,
    inner_names,
    merged_weights,
    own_weights,
)
from videomar.checkpoint.manifest import ModelShape, read_shape
from videomar.checkpoint.tensors import each_tensor, optimizer_state, optimizer_tensors
from videomar.checkpoint.transfer import fitted_shape, starting_tensors
from videomar.compute.seeding import step_generator
from videomar.config import TrainParams
from videomar.errors import CheckpointError
from videomar.files import read_log
from videomar.latents.dataset import LatentDataset
from videomar.model.patchify import patchify
from videomar.model.videomar import VideoMAR
from videomar.provenance.made_with import differing_keys
from videomar.training.curriculum import StageEnd, draw_of
from videomar.training.micro_batches import draw_latents
from videomar.training.optim import make_optimizer
from videomar.training.parallelize import gather_in_turn, shard, shard_like
from videomar.training.worker import Worker

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

# Weights are drawn before step 0, from a stream that no step uses.
INIT_STEP = -1
# A spike is judged by the median of this many latest losses, once there are enough to tell it from noise.
_MEDIAN_STEPS = 50
_MIN_STEPS = 20
_MEASURED_CLIPS = 1024
# Of a channel that does not move in the training clips; tokens have deviation 1.
_LEAST_STD = 0.01
_log = logging.getLogger(__name__)


def untrained(shape: ModelShape, seed: int) -> VideoMAR:
    """Return the network as it is before step 0."""
    return shape.build().initialise(step_generator(seed, INIT_STEP))


@dataclass(slots=True)
class Progress:
    """How far a run is: the part of its state that a checkpoint stores as JSON."""

    step: int = 0
    """Steps done."""
    ends: list[StageEnd] = field(default_factory=list)
    """Ends of the stages so far."""
    window: list[float] = field(default_factory=list)
    """Losses since the last row of the log."""
    latest: list[float] = field(default_factory=list)
    """Latest losses of this stage, with which a spike is compared."""
    skipped: int = 0
    """Steps of this stage whose update was skipped."""
    skipped_before: int = 0
    """The same, over the earlier stages."""
    best: tuple[float, int, int] | None = None
    """Lowest validation loss at a checkpoint of the latest stage, that checkpoint's step, and the stage."""

    def accept(self, loss: float) -> None:
        """Record the loss of a step whose update was made."""
        self.window.append(loss)
        self.latest = [*self.latest, loss][-_MEDIAN_STEPS:]

    def note_checkpoint(self, val_loss: float | None, stage: int) -> None:
        """Record a checkpoint if it is the best of its stage; losses of two stages are not comparable."""
        if val_loss is not None and (self.best is None or self.best[2] != stage or val_loss < self.best[0]):
            self.best = (val_loss, self.step, stage)

    @property
    def all_skipped(self) -> int:
        """Steps of the run whose update was skipped."""
        return self.skipped + self.skipped_before

    def take_mean(self) -> dict[str, float]:
        """Return the mean `loss` since the last call, and reset it; empty if all steps were skipped."""
        mean = {"loss": sum(self.window) / len(self.window)} if self.window else {}
        self.window = []
        return mean

    def end_stage(self, reason: str) -> None:
        """Begin the next stage, whose losses are not compared with the earlier ones: their level differs."""
        self.ends.append(StageEnd(self.step, reason))
        self.latest = []
        self.skipped, self.skipped_before = 0, self.skipped_before + self.skipped

    @classmethod
    def of_json(cls, raw: Mapping[str, Any]) -> "Progress":
        """Rebuild from the JSON of `asdict`."""
        best = None if raw["best"] is None else tuple(raw["best"])
        return cls(**{**raw, "ends": [StageEnd(*end) for end in raw["ends"]], "best": best})


@dataclass(slots=True)
class State:
    """A run in memory; of a sharded one, this worker's shards."""

    model: VideoMAR
    ema: VideoMAR
    optimizer: torch.optim.Optimizer
    progress: Progress = field(default_factory=Progress)
    rows: list[dict[str, float]] = field(default_factory=list)
    """The log so far."""


def shape_of_run(shape: ModelShape, params: TrainParams, out: Path) -> ModelShape:
    """Return the shape that the networks of a run have: that of its newest checkpoint, if it has one.

    Args:
        shape: as the parameters and latents ask for it.
        params: section `train`; `start_from` is a folder.
        out: folder of the run.

    Raises:
        CheckpointError: the weights to start from do not fit, see `fitted_shape`.
    """
    if params.start_from is None:
        return shape
    if (newest := checkpoint.latest(out)) is not None:
        return read_shape(checkpoint.read_manifest(newest), newest / checkpoint.MANIFEST)
    return fitted_shape(shape, Path(str(params.start_from)), with_new_layers=params.lora is None)


def new_state(
    shape: ModelShape, params: TrainParams, device: torch.device, mesh: "DeviceMesh | None" = None
) -> State:
    """Return the state before step 0; with a mesh, this worker's shards of it.

    Weights are random, also where the run starts from trained ones: see `begin_from` and `restore`.
    """
    model = untrained(shape, params.seed)
    if params.lora is not None:
        add_adapters(model, params.lora, step_generator(params.seed, INIT_STEP, 1))
    ema = copy.deepcopy(model).requires_grad_(False)
    for network in (model, ema):
        if mesh:
            shard(network, mesh, keep=params.sharding == "zero1" and network is model)
        else:
            network.to(device)
    return State(model, ema, make_optimizer(model, params))


def begin_new(state: State, data: LatentDataset, params: TrainParams) -> None:
    """Scale what the head of the model and of its moving average draws, before step 0."""
    for network in (state.model, state.ema):
        if network.head.residual_scale is not None:
            scale = residual_scale(data, params, network.params.patch_size)
            network.head.residual_scale.copy_(scale)


def residual_scale(data: LatentDataset, params: TrainParams, patch_size: int) -> Tensor:
    """Return what the change of a token from frame to frame is divided by before it is learnt, (P,).

    It is the root of the change's deviation from 0 in training clips, the geometric mean of it and of the
    tokens' own, 1. Changes have long tails: most are near 0, and those of a body that moves are many
    deviations away, which a flow from noise of deviation 1 learns slowly (docs/LOG.md). The clips are those
    of the first batches of the last stage, about a thousand of full length, so all kinds of clips count as
    much as in training. Noise of `history_noise` is not counted.

    Args:
        data: split train.
        params: section `train`; batch sizes are numbers.
        patch_size: of the model.
    """
    draw = draw_of(params.curriculum[-1], params)
    squares, count = np.zeros(data.latent_channels * patch_size**2), 0
    for step in range(math.ceil(_MEASURED_CLIPS / draw.batch_size)):
        batch = data.batch_at(step, draw)
        latents = torch.from_numpy(batch.latents)
        if batch.latents_std is not None:
            std = torch.from_numpy(batch.latents_std)
            latents = draw_latents(latents, std, step_generator(params.seed, INIT_STEP, step))
        tokens = patchify(latents.double(), patch_size)
        changes = tokens.diff(dim=1).flatten(0, 2).numpy()
        # numpy's sums do not depend on the number of threads.
        squares, count = squares + np.square(changes).sum(0), count + len(changes)
    return torch.from_numpy(np.sqrt(np.maximum(np.sqrt(squares / count), _LEAST_STD))).float()


def begin_from(state: State, folder: Path) -> None:
    """Make the weights in a folder those of the model and of its moving average, before step 0.

    Raises:
        CheckpointError: they are damaged.
    """
    for network in (state.model, state.ema):
        like = own_weights(network)
        tensors = starting_tensors(folder, like)
        parts = ((name, shard_like(value, like[name])) for name, value in tensors)
        network.load_state_dict(inner_names(network, parts), strict=False)
    _log.warning("starting from the weights in %s", folder)


def restore(state: State, out: Path, identity: Mapping[str, Any]) -> bool:
    """Load the newest undamaged checkpoint in `out` into `state`; return whether there is one.

    Raises:
        CheckpointError: it belongs to another run; the message names the keys that differ.
    """
    path = checkpoint.newest_intact(out)
    if path is None:
        return False
    manifest = checkpoint.read_manifest(path)
    if different := differing_keys(identity, manifest["made_with"]):
        raise CheckpointError(
            f"{path}: got a checkpoint of another run ({'; '.join(different[:5])}), expected this one's; "
            "move it away and run again"
        )
    for stem, network in {"model": state.model, "ema": state.ema}.items():
        like = network.state_dict()
        adapted = f"{ADAPTER}.safetensors" in manifest["files"]
        tensors = adapted_tensors(path, stem) if adapted else each_tensor(path / f"{stem}.safetensors")
        network.load_state_dict({name: shard_like(value, like[name]) for name, value in tensors})
    load_optimizer(state.optimizer, each_tensor(path / "optimizer.safetensors"))
    state.progress = Progress.of_json(manifest["progress"])
    state.rows = [row for row in read_log(out) if row["step"] <= state.progress.step]
    _log.warning("continuing from %s", path)
    return True


def save_checkpoint(
    state: State,
    out: Path,
    shape: ModelShape,
    params: TrainParams,
    identity: object,
    worker: Worker,
    parts: ModelParts | None = None,
) -> None:
    """Write a checkpoint at the first worker and delete those no longer needed; every worker must call it.

    With `parts` it is a whole model, see `videomar.checkpoint.model_folder`.
    """
    progress = state.progress
    tensors = {"model": state.model.state_dict(), "ema": state.ema.state_dict()}
    if params.lora is not None:
        tensors = {"model": merged_weights(state.model), "ema": merged_weights(state.ema)}
        tensors[ADAPTER] = adapter_tensors(state.model, state.ema)
    tensors["optimizer"] = optimizer_tensors(state.optimizer)
    written, gathered = gather_in_turn(tensors)
    try:
        if worker.rank == 0:
            checkpoint.save(out, progress.step, shape, written, identity, asdict(progress), parts)
            best = progress.best[1] if progress.best and params.keep_best else None
            checkpoint.prune(out, params.keep_checkpoints, best)
    finally:
        # The other workers gather along with the writer. If writing failed, the writer gathers the rest, too.
        for _ in gathered:
            pass


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Load whole tensors named as by `optimizer_tensors`; of a sharded model, keep this worker's shards."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    shards = ((name, shard_like(value, weights[int(name.split(".")[0])])) for name, value in tensors)
    state = optimizer_state(shards)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def check_step(loss: float, grad_norm: float, latest: Sequence[float], spike_factor: float) -> str | None:
    """Return why a step's update would harm, as `got ..., expected ...`; None if it would not.

    A loss or gradient that is not finite would, and so would a spike: a loss above `spike_factor` times the
    median of the `latest` losses of the same stage, once there are 20 of them. A factor of 0 disables this
    check.
    """
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        return f"got loss {loss:.6g} and gradient norm {grad_norm:.6g}, expected finite numbers"
    if spike_factor and len(latest) >= _MIN_STEPS:
        highest = spike_factor * statistics.median(latest)
        if loss > highest:
            rule = f"at most {spike_factor:g} times the median of the last {len(latest)}"
            return f"got loss {loss:.6g}, expected {rule}, {highest:.6g}"
    return None


def summary(rows: Sequence[Mapping[str, float]], progress: Progress) -> dict[str, float]:
    """Return metrics of a run: mean loss of the last tenth of the log, validation, ends of stages."""
    losses = [row["loss"] for row in rows if "loss" in row]
    last = losses[-max(1, len(losses) // 10) :]
    metrics: dict[str, float] = {"steps": progress.step, "skipped_steps": progress.all_skipped}
    if last:
        metrics["loss"] = sum(last) / len(last)
    validated = [row["val_loss"] for row in rows if "val_loss" in row]
    if validated:
        metrics["val_loss"] = validated[-1]
    for number, end in enumerate(progress.ends):
        metrics[f"stage_{number}_end_step"] = end.step
        metrics[f"stage_{number}_target_reached"] = float(end.why == "target")
    return metrics


def run_summary(out: Path) -> dict[str, float]:
    """Return `summary` of the run in a folder, from its newest checkpoint and its log.

    Raises:
        CheckpointError: the folder has no checkpoint.
    """
    manifest = checkpoint.read_manifest(checkpoint.latest(out) or out)
    return summary(read_log(out), Progress.of_json(manifest["progress"]))

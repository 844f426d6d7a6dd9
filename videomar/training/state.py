"""What a run remembers: weights, their moving average, the optimizer, how far it is, its log."""

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from videomar.checkpoint import folder as checkpoint
from videomar.checkpoint.manifest import ModelShape
from videomar.checkpoint.tensors import each_tensor
from videomar.config import TrainParams
from videomar.errors import CheckpointError
from videomar.files import read_log
from videomar.model.videomar import VideoMAR
from videomar.provenance.made_with import differing_keys
from videomar.seeding import step_generator
from videomar.training.curriculum import StageEnd
from videomar.training.guards import MEDIAN_STEPS
from videomar.training.optim import make_optimizer
from videomar.training.parallelize import in_turn, shard, share_of
from videomar.training.worker import Worker

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

# Weights are drawn before step 0, from a stream that no step uses.
INIT_STEP = -1
_log = logging.getLogger(__name__)


def untrained(shape: ModelShape, seed: int) -> VideoMAR:
    """The network as it is before step 0."""
    return shape.build().initialise(step_generator(seed, INIT_STEP))


@dataclass(slots=True)
class Progress:
    """How far a run is: all that a checkpoint says in JSON."""

    step: int = 0
    """Steps done."""
    ends: list[StageEnd] = field(default_factory=list)
    """Where the stages so far ended."""
    window: list[float] = field(default_factory=list)
    """Losses since the last row of the log."""
    latest: list[float] = field(default_factory=list)
    """Latest losses of this stage, which a spike is told by."""
    skipped: int = 0
    """Steps of this stage whose update was left out."""
    skipped_before: int = 0
    """The same in the stages before."""
    best: tuple[float, int, int] | None = None
    """Lowest validation loss at a checkpoint, the checkpoint's step, and the stage it was compared in."""

    def accept(self, loss: float) -> None:
        """Count a step whose update was made."""
        self.window.append(loss)
        self.latest = [*self.latest, loss][-MEDIAN_STEPS:]

    def note_checkpoint(self, val_loss: float | None, stage: int) -> None:
        """Remember a checkpoint if it is the best of its stage; losses of two stages are not comparable."""
        if val_loss is not None and (self.best is None or self.best[2] != stage or val_loss < self.best[0]):
            self.best = (val_loss, self.step, stage)

    @property
    def all_skipped(self) -> int:
        """Steps of the run whose update was left out."""
        return self.skipped + self.skipped_before

    def take_mean(self) -> dict[str, float]:
        """Mean `loss` since the last row of the log, which begins anew; none if all steps were skipped."""
        mean = {"loss": sum(self.window) / len(self.window)} if self.window else {}
        self.window = []
        return mean

    def end_stage(self, why: str) -> None:
        """Begin the next stage: its losses are of another height, so none is compared with those so far."""
        self.ends.append(StageEnd(self.step, why))
        self.latest = []
        self.skipped, self.skipped_before = 0, self.skipped_before + self.skipped

    @classmethod
    def of_json(cls, raw: Mapping[str, Any]) -> "Progress":
        """What `asdict` gave, after it was JSON."""
        best = None if raw["best"] is None else tuple(raw["best"])
        return cls(**{**raw, "ends": [StageEnd(*end) for end in raw["ends"]], "best": best})


@dataclass(slots=True)
class State:
    """A run in memory."""

    model: VideoMAR
    ema: VideoMAR
    optimizer: torch.optim.Optimizer
    progress: Progress = field(default_factory=Progress)
    rows: list[dict[str, float]] = field(default_factory=list)
    """The log so far."""


def new_state(
    shape: ModelShape, params: TrainParams, device: torch.device, mesh: "DeviceMesh | None" = None
) -> State:
    """A run before step 0; with a mesh, this worker's share of it."""
    model = untrained(shape, params.seed)
    ema = copy.deepcopy(model).requires_grad_(False)
    for network in (model, ema):
        if mesh:
            shard(network, mesh)
        else:
            network.to(device)
    return State(model, ema, make_optimizer(model, params))


def restore(state: State, out: Path, made_with: Mapping[str, Any]) -> None:
    """Put back the newest undamaged checkpoint in `out`; nothing happens where there is none.

    Raises:
        CheckpointError: it is of another run; the differing keys are named.
    """
    path = checkpoint.newest_intact(out)
    if path is None:
        return
    manifest = checkpoint.read_manifest(path)
    if different := differing_keys(made_with, manifest["made_with"]):
        raise CheckpointError(
            f"{path}: got a checkpoint of another run ({'; '.join(different[:5])}), expected this one's; "
            "move it away and run again"
        )
    for stem, network in {"model": state.model, "ema": state.ema}.items():
        like = network.state_dict()
        tensors = each_tensor(path / f"{stem}.safetensors")
        network.load_state_dict({name: share_of(value, like[name]) for name, value in tensors})
    load_optimizer(state.optimizer, each_tensor(path / "optimizer.safetensors"))
    state.progress = Progress.of_json(manifest["progress"])
    state.rows = [row for row in read_log(out) if row["step"] <= state.progress.step]
    _log.warning("continuing from %s", path)


def keep(
    state: State, out: Path, shape: ModelShape, params: TrainParams, made_with: object, worker: Worker
) -> None:
    """Have the first worker write a checkpoint and remove those no longer wanted; every worker calls it."""
    progress = state.progress
    tensors = {"model": state.model.state_dict(), "ema": state.ema.state_dict()}
    tensors["optimizer"] = optimizer_tensors(state.optimizer)
    written, gathered = in_turn(tensors)
    try:
        if worker.rank == 0:
            checkpoint.save(out, progress.step, shape, written, made_with, asdict(progress))
            best = progress.best[1] if progress.best and params.keep_best else None
            checkpoint.prune(out, params.keep_checkpoints, best)
    finally:
        for _ in gathered:
            pass


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of AdamW as named tensors: `NUMBER.NAME` for each parameter's number in the optimizer."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": value for number, entry in state.items() for name, value in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Put back what `optimizer_tensors` gave, whole; of a model in parts, this worker's share."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors:
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = share_of(value, weights[int(number)])
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def summary(rows: Sequence[Mapping[str, float]], progress: Progress) -> dict[str, float]:
    """Figures of a run: mean loss of the last tenth of the log, validation, where and why stages ended."""
    losses = [row["loss"] for row in rows if "loss" in row]
    last = losses[-max(1, len(losses) // 10) :]
    figures: dict[str, float] = {"steps": progress.step, "skipped_steps": progress.all_skipped}
    if last:
        figures["loss"] = sum(last) / len(last)
    validated = [row["val_loss"] for row in rows if "val_loss" in row]
    if validated:
        figures["val_loss"] = validated[-1]
    for number, end in enumerate(progress.ends):
        figures[f"stage_{number}_end_step"] = end.step
        figures[f"stage_{number}_target_reached"] = float(end.why == "target")
    return figures


def run_summary(out: Path) -> dict[str, float]:
    """`summary` of the run in a folder, as its newest checkpoint and its log tell it.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    manifest = checkpoint.read_manifest(checkpoint.latest(out) or out)
    return summary(read_log(out), Progress.of_json(manifest["progress"]))

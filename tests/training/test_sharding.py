"""A model in parts learns what one in one piece learns, and either goes on from the other's checkpoint."""

import dataclasses
import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from tests.conftest import small_params
from tests.support.caches import write_cache
from tests.support.two_workers import on_two_workers
from tests.training.conftest import files_of, with_train
from videomar import checkpoint
from videomar.checkpoint.manifest import ModelShape
from videomar.compute.seeding import step_generator
from videomar.config import TrainParams
from videomar.errors import CheckpointError, DataError, ParamsError
from videomar.latents.dataset import LatentDataset, Splits
from videomar.model.objective import Clips
from videomar.training.loop import train
from videomar.training.micro_batches import Part, backward
from videomar.training.parallelize import Loss, mesh_of
from videomar.training.state import new_state
from videomar.training.worker import Worker

OPERATIONS = ("_allgather", "_reduce_scatter")
PARAMS = small_params()
SHAPE = ModelShape(PARAMS.model, 4, 6, 5)


def settings(sharding: str, **changes: object) -> TrainParams:
    """Two stages, the second of which forgets; an odd number of clips to validate on; all steps clipped."""
    first, second = PARAMS.train.curriculum
    curriculum = (first, dataclasses.replace(second, optimizer="reset", ema="reset"))
    wanted = {"curriculum": curriculum, "accumulation": 2, "num_workers": 2, "max_grad_norm": 0.5}
    wanted |= {"validate_every": 4, "validation_clips": 5, "keep_checkpoints": 9, **changes}
    return with_train(PARAMS, sharding=sharding, **wanted)


class Shown:
    """A tracker that keeps the weights of the models it is shown, in files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def log(self, step, figures):
        pass

    def tag(self, values):
        pass

    def log_preview(self, step, model):
        torch.save(model.state_dict(), self.folder / f"{step}.pt")

    def flush(self):
        pass


class Runs:
    """A folder of runs of two workers over the same clips."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.latents = folder, write_cache(folder / "latents")

    def train(self, name: str, params: TrainParams) -> Path:
        def work(worker: Worker) -> dict[str, float]:
            dataset = LatentDataset(self.latents, "train", 5)
            tracker = Shown(self.folder) if worker.rank == 0 and params.preview_every else None
            return train(SHAPE, Splits(dataset, dataset), params, self.folder / name, worker, tracker)

        figures = on_two_workers(work)
        assert figures[0] == figures[1], figures
        assert figures[0]["steps"] == 12
        return self.folder / name

    def stopped(self, of: str, name: str, step: int) -> None:
        """A run as it was when it was killed after the checkpoint of a step."""
        shutil.copytree(self.folder / of, self.folder / name)
        for path in (self.folder / name).glob("step_*"):
            if int(path.name.removeprefix("step_")) > step:
                shutil.rmtree(path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run in one piece, and one in parts."""
    runs = Runs(tmp_path_factory.mktemp("runs"))
    runs.train("ddp", settings("ddp"))
    runs.train("fsdp", settings("fsdp", preview_every=8))
    runs.train("zero1", settings("zero1"))
    return runs


def difference(one: Path, two: Path, stem: str) -> float:
    ours, theirs = (load_file(checkpoint.latest(out) / f"{stem}.safetensors") for out in (one, two))
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def logged(out: Path) -> list[list[float]]:
    rows = (out / "log.csv").read_text().split()[1:]
    return [[float(value or 0) for value in row.split(",")] for row in rows]


@pytest.mark.parametrize("sharding", ["zero1", "fsdp"])
def test_sharded_run_learns_what_an_unsharded_one_learns(runs, measured, sharding):
    ddp, sharded = runs.folder / "ddp", runs.folder / sharding
    for stem in ("model", "ema"):
        worst = difference(ddp, sharded, stem)
        measured(f"{sharding} against ddp, 12 steps: largest difference in {stem}", worst, 1e-4)
    rows = zip(logged(ddp), logged(sharded), strict=True)
    largest = max(abs(a - b) for row in rows for a, b in zip(*row, strict=True))
    measured(f"{sharding} against ddp, 12 steps: largest difference in the log", largest, 1e-5)


class Called(TorchDispatchMode):
    """Remembers the names of all operations."""

    def __init__(self) -> None:
        super().__init__()
        self._names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self._names.append(func._schema.name)
        return func(*args, **(kwargs or {}))

    def count(self, name: str) -> int:
        return self._names.count(name)


def test_whole_weights_travel_once_a_step_and_sharded_ones_with_every_micro_batch():
    def travels(worker: Worker) -> dict[str, tuple[int, int]]:
        found = {}
        for sharding in ("zero1", "fsdp"):
            params = settings(sharding)
            state = new_state(SHAPE, params, worker.device, mesh_of(params, worker))
            latents = torch.randn(2, 4, 3, 2, 2)
            clips = Clips(latents, torch.zeros(2, 5, 6), torch.ones(2, 5).bool())
            parts = [Part(clips, [], step_generator(0, 0, number)) for number in range(3)]
            with Called() as called:
                backward(Loss(state.model, "float32"), parts, params, 1, worker)
            found[sharding] = tuple(called.count(f"c10d::{op}_base_") for op in OPERATIONS)
        return found

    first, second = on_two_workers(travels)
    assert first == second
    units = (
        PARAMS.model.depth + PARAMS.model.head_depth + 3
    )  # the last: cond_embed, the head's network, the rest
    assert first["zero1"] == (units, units)
    # The last unit of the forward pass is the first of the backward pass: the root is not gathered again.
    gathers, reductions = first["fsdp"]
    assert 3 * (2 * units - 3) <= gathers <= 3 * 2 * units
    assert reductions == 3 * units


@pytest.mark.parametrize("step", [4, 8])
def test_sharded_run_that_was_stopped_ends_with_the_same_bits(runs, step):
    name = f"again{step}"
    runs.stopped("fsdp", name, step)
    again = runs.train(name, settings("fsdp", preview_every=8))
    assert files_of(again) == files_of(runs.folder / "fsdp")


@pytest.mark.parametrize(("begun", "ended"), [("ddp", "fsdp"), ("fsdp", "ddp")])
def test_run_goes_on_sharded_or_not(runs, measured, begun, ended):
    name = f"{begun}-{ended}"
    runs.stopped(begun, name, 8)
    out = runs.train(name, settings(ended))
    worst = max(difference(out, runs.folder / begun, stem) for stem in ("model", "ema"))
    measured(f"{begun} until step 8, then {ended}: largest difference of a weight", worst, 1e-4)


@pytest.mark.slow
def test_sharded_run_with_recomputed_activations_learns_the_same(runs, measured):
    again = runs.train("recomputed", settings("fsdp", activation_checkpointing=True))
    measured("fsdp with recomputed activations", difference(again, runs.folder / "fsdp", "ema"), 1e-6)


def test_preview_of_a_sharded_run_is_shown_the_whole_average(runs):
    shown = torch.load(runs.folder / "8.pt", weights_only=True)
    kept = load_file(runs.folder / "fsdp/step_00000008/ema.safetensors")
    assert shown.keys() == kept.keys()
    assert all(torch.equal(shown[name], kept[name]) for name in kept)


def test_worker_holds_half_of_weights_average_and_moments():
    def share(worker: Worker) -> list[float]:
        params = settings("fsdp")
        state = new_state(SHAPE, params, worker.device, mesh_of(params, worker))
        for weight in state.model.parameters():
            weight.grad = torch.zeros_like(weight)
        state.optimizer.step()
        held = [state.model.parameters(), state.ema.parameters()]
        held += [
            [entry[name] for entry in state.optimizer.state.values()] for name in ("exp_avg", "exp_avg_sq")
        ]
        return [
            sum(tensor.to_local().numel() for tensor in tensors)
            / sum(w.numel() for w in SHAPE.build().parameters())
            for tensors in held
        ]

    first, second = on_two_workers(share)
    # The first worker alone holds what cannot be divided: the mask token is one row.
    assert max(first) < 0.51
    assert [a + b for a, b in zip(first, second, strict=True)] == pytest.approx([1.0] * 4)


def test_checkpoint_that_cannot_be_written_is_refused_by_all_workers(runs):
    def work(worker: Worker) -> None:
        if worker.rank == 0:  # the second file is too large for the disk, as it were
            most = (runs.folder / "ddp/step_00000004/model.safetensors").stat().st_size + 1000
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
        dataset = LatentDataset(runs.latents, "train", 5)
        train(SHAPE, Splits(dataset), settings("fsdp", validate_every=0), runs.folder / "full", worker, None)

    errors = on_two_workers(work)
    assert [type(error) for error in errors] == [CheckpointError] * 2
    assert str(errors[0]) == str(errors[1])
    assert "could not be written" in str(errors[0])


def test_refusal_of_one_worker_is_that_of_all():
    def work(worker: Worker) -> int:
        def refuse() -> int:
            if worker.rank == 1:
                raise DataError("clips: got none, expected some; add one")
            return worker.rank

        return worker.together(refuse)

    errors = on_two_workers(work)
    assert [str(error) for error in errors] == ["clips: got none, expected some; add one"] * 2


def test_one_worker_does_not_shard():
    assert mesh_of(settings("fsdp"), Worker()) is None


def test_blocks_in_parts_are_not_compiled():
    with pytest.raises(
        ParamsError, match=r"train.compile: got True, expected false with resources.train.sharding: fsdp"
    ):
        settings("fsdp", compile=True)


def test_batch_size_is_not_sought_for_a_model_in_parts():
    with pytest.raises(
        ParamsError, match="batch_size: got auto, expected a number with resources.train.sharding: fsdp"
    ):
        with_train(PARAMS, sharding="fsdp", stages={"batch_size": "auto"})

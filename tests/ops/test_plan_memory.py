"""The memory that a plan states beside what PyTorch keeps, for networks whose tensors have no storage."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from videomar.checkpoint.manifest import ModelShape
from videomar.config import Params, TrainParams
from videomar.config.edit import read_preset, with_changes
from videomar.model.ddpm import respaced
from videomar.model.objective import Clips, Hidden, draw_hidden
from videomar.ops.planning import plan_memory
from videomar.ops.planning.plan_memory import (
    MicroBatch,
    forward_bytes,
    largest_batch,
    parameter_sizes,
    training_memory,
)
from videomar.training.curriculum import stage_params
from videomar.training.optim import make_optimizer
from videomar.training.parallelize import recompute_blocks
from videomar.training.throughput import BatchShape, matrix_weights

ROOT = Path(__file__).parents[2]
CLIPS = 4
# Preset: caption channels, tokens of a frame, latent frames.
SHAPES = {"small": (384, 16, 5), "medium": (384, 64, 9), "paper": (1536, 256, 5)}


@pytest.fixture(scope="module", params=list(SHAPES))
def preset(request: pytest.FixtureRequest) -> tuple[str, Params]:
    name = request.param
    return name, with_changes(ROOT / "params.yaml", read_preset(ROOT / "presets", name))


class NormKernel(torch.autograd.Function):
    """A GPU's kernel of the norm: it keeps its input and one number for each row. The CPU keeps more."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        deviation = x.square().mean(-1, keepdim=True).add(eps).rsqrt()
        ctx.save_for_backward(x, weight, deviation)
        return x * deviation * weight

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def norm_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(norm: nn.RMSNorm, x: Tensor) -> Tensor:
        return NormKernel.apply(x, norm.weight, norm.eps)

    monkeypatch.setattr(nn.RMSNorm, "forward", forward)


@pytest.fixture(autouse=True)
def no_schedule_without_storage_stays() -> Iterator[None]:
    """The DDPM head keeps its schedules in a cache, from which later tests would compute with any bytes."""
    respaced.cache_clear()
    yield
    respaced.cache_clear()


def hidden_to_the_end(shape: tuple[int, int, int], params: TrainParams) -> Hidden:
    """Tokens to learn, some of them of the last frame, so that the sequence has its full length."""
    for seed in range(100):
        hidden = draw_hidden(shape, params, torch.Generator().manual_seed(seed))
        if hidden.target is None or int(hidden.target.max()) == shape[1] - 1:
            return hidden
    raise AssertionError("no draw reaches the last frame")


def kept_bytes(model: ModelShape, batch: MicroBatch, params: TrainParams, hidden: Hidden) -> int:
    """Bytes that autograd stores in a forward pass, without the weights themselves."""
    clips, frames, tokens = batch.shape
    side = int(tokens**0.5) * model.params.patch_size
    with FakeTensorMode(allow_non_fake_inputs=True):
        network = model.build()
        if params.activation_checkpointing:
            recompute_blocks(network)
        weights = {weight.untyped_storage()._cdata for weight in network.parameters()}
        latents = torch.zeros(clips, model.latent_channels, frames, side, side)
        words = torch.ones(clips, batch.caption_tokens, dtype=torch.bool)
        text = torch.zeros(*words.shape, model.text_channels)
        stored: dict[int, int] = {}
        alive = []

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                stored[storage._cdata] = storage.nbytes()
                alive.append(storage)  # an address is of one storage only as long as it lives
            return tensor

        low = params.precision == "bfloat16"
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=low),
        ):
            network.losses(Clips(latents, text, words), params, torch.Generator().manual_seed(0), hidden)
    return sum(stored.values())


@pytest.mark.parametrize("depth", [2, pytest.param(0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("float32", marks=pytest.mark.slow)])
def test_activations_are_what_autograd_keeps(
    preset: tuple[str, Params],
    precision: str,
    recompute: bool,
    depth: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of both objectives and heads, at the presets' own sizes and depth (0): within 2 %, `small` within 5."""
    name, params = preset
    channels, tokens, frames = SHAPES[name]
    net = dataclasses.replace(params.model, depth=depth or params.model.depth)
    model = ModelShape(net, params.tokenizer.channels, channels, params.text.max_tokens)
    for stage in params.train.curriculum:
        own = dataclasses.replace(
            stage_params(stage, params.train), precision=precision, activation_checkpointing=recompute
        )
        shape = BatchShape(CLIPS, min(frames, stage.num_latent_frames or frames), tokens)
        batch = MicroBatch(shape, params.text.max_tokens)
        hidden = hidden_to_the_end(shape, own)
        # A plan expects as many hidden tokens as there are on average.
        number = len(hidden.places)
        monkeypatch.setattr(plan_memory, "supervised_tokens", lambda *_, number=number: number)
        planned = forward_bytes(model, batch, own)
        if precision == "bfloat16":
            # Weights in bfloat16, which a plan counts as copies; recomputed blocks let go of theirs.
            weights = matrix_weights(model)
            planned += 2 * (weights.head if recompute else sum(weights))
        kept = kept_bytes(model, batch, own, hidden)
        assert planned == pytest.approx(kept, rel=0.05 if name == "small" else 0.02)


def test_fixed_parts_are_the_bytes_of_a_real_run(params: Params) -> None:
    model = ModelShape(params.model, 4, 6, 5)
    network = model.build().initialise(torch.Generator().manual_seed(0))
    optimizer = make_optimizer(network, params.train)
    for weight in network.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    moments = sum(
        value.nbytes for state in optimizer.state.values() for key, value in state.items() if key != "step"
    )
    memory = training_memory(model, MicroBatch(BatchShape(1, 3, 4), 5), params.train)
    assert memory.weights == memory.average == sum(weight.nbytes for weight in network.parameters())
    assert memory.gradients == sum(weight.grad.nbytes for weight in network.parameters())
    assert memory.moments == moments
    assert memory.copies == 0
    sizes = parameter_sizes(model)
    assert sizes.block == sum(weight.numel() for weight in network.trunk.blocks[0].parameters())


def test_shards_divide_what_is_kept_between_steps(params: Params) -> None:
    model, batch = ModelShape(params.model, 4, 6, 5), MicroBatch(BatchShape(1, 3, 4), 5)
    alone = training_memory(model, batch, params.train)
    held = {}
    for sharding in ("ddp", "zero1", "fsdp"):
        train = dataclasses.replace(params.train, sharding=sharding)
        assert training_memory(model, batch, train, 1) == alone
        held[sharding] = training_memory(model, batch, train, 4)
    assert held["ddp"].weights == alone.weights
    assert held["ddp"].copies == alone.weights  # buckets
    assert held["zero1"].moments == held["fsdp"].moments == alone.moments / 4
    assert held["zero1"].copies == 2 * alone.weights
    assert held["fsdp"].copies < held["zero1"].copies


def test_largest_batch_fits_and_the_next_does_not(params: Params) -> None:
    model, batch = ModelShape(params.model, 4, 6, 5), MicroBatch(BatchShape(1, 3, 4), 5)

    def needs(clips: int) -> float:
        larger = dataclasses.replace(batch, shape=batch.shape._replace(batch_size=clips))
        return training_memory(model, larger, params.train).total_gb

    clips = largest_batch(model, batch, params.train, 1, 0.7)
    assert clips > 1
    assert needs(clips) <= 0.7 < needs(2 * clips)
    assert largest_batch(model, batch, params.train, 1, 0.5) == 0

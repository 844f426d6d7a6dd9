"""How the loss is computed and by how many devices: precision, recomputation, compilation, shards.

None of these changes the weights' names or, but for rounding, the result.

Shards: FSDP2 (`torch.distributed.fsdp.fully_shard`) deals weights, gradients, moving average and optimizer
state out to the workers, and gathers one unit of layers at a time while it computes. A device never holds
more than one unit and its shards of the rest. The host memory of each worker holds the network twice while it
is drawn, before step 0: 8 bytes per parameter.

Checkpoints are the same files with or without shards, so a run may continue with another number of workers.
To save, the workers gather one tensor at a time, and the first one writes it. To load, each worker reads one
tensor at a time, and keeps its shard. Why not `torch.distributed.checkpoint.state_dict`:

- It gathers all of a file first: measured with 39 million parameters, the first worker needs 338 MB (8.7
  bytes per parameter, for the optimizer) where this needs 34 MB. The files are equal byte for byte.
- `get_optimizer_state_dict` and `set_optimizer_state_dict` make a step of AdamW if its state is empty, as it
  is after a reset whose first update was skipped. A resumed run then counts from step 1, with other bits.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from videomar.checkpoint.manifest import ModelShape
from videomar.checkpoint.tensors import Later, in_order
from videomar.config import TrainParams
from videomar.errors import ParamsError
from videomar.model.head import DiffusionHead
from videomar.model.objective import Clips, FrameLosses, Hidden
from videomar.model.videomar import VideoMAR
from videomar.training.worker import Worker

if TYPE_CHECKING:  # a second to import, which a run without shards does without
    from torch.distributed.device_mesh import DeviceMesh


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Number formats of matrix products, by their names in params.yaml."""


def mesh_of(params: TrainParams, worker: Worker) -> "DeviceMesh | None":
    """Return the workers that share a model; None if every worker holds all of it."""
    if params.sharding == "ddp" or worker.world_size == 1:
        return None
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(worker.device.type, (worker.world_size,))


def shard(model: VideoMAR, mesh: "DeviceMesh", keep: bool = False) -> None:
    """Shard a model's weights in place over the mesh's devices.

    Args:
        model: all of it, on the host.
        mesh: the workers.
        keep: once gathered, weights stay so until the last backward pass of a step: see `synchronise`.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    # Layers that compute together; units inside another unit come before it.
    for unit in [*model.trunk.blocks, *_head_units(model.head)]:
        fully_shard(unit, mesh=mesh, reshard_after_forward=not keep)
    # The rest: first and last layers, and all that is called by another name than `forward`. Outside of a
    # pass these are shards like all others, because the moving average reads them.
    fully_shard(model, mesh=mesh, reshard_after_forward=not keep)
    register_fsdp_forward_method(model, "losses")


def _head_units(head: DiffusionHead) -> Iterator[nn.Module | list[nn.Module]]:
    yield head.net.cond_embed  # called by itself
    yield from head.net.blocks
    yield head.net


@contextlib.contextmanager
def synchronise(loss_of: nn.Module, params: TrainParams, last: bool) -> Iterator[None]:
    """Context of one micro-batch: with the last of a step, workers exchange gradients.

    By `resources.train.sharding`, of A micro-batches and N weights of 4 bytes:

            gathers and reductions of all weights    beside its shard, a worker holds
    ddp     0 and 1                                  all, always
    zero1   1 and 1                                  weights and gradients, 8 N bytes, during the step
    fsdp    2 A and A                                the weights and gradients of one unit
    """
    if params.sharding == "zero1" and isinstance(loss_of, Loss):
        from torch.distributed.fsdp import FSDPModule

        if isinstance(loss_of.model, FSDPModule):
            loss_of.model.set_requires_gradient_sync(last)
            loss_of.model.set_reshard_after_backward(last)
    if last or not isinstance(loss_of, nn.parallel.DistributedDataParallel):
        yield
        return
    with loss_of.no_sync():
        yield


def is_whole(value: Tensor) -> bool:
    """Return whether a tensor is whole, as all are except a DTensor."""
    return not hasattr(value, "full_tensor")


def gather(value: Tensor) -> Tensor:
    """Return all of a tensor that may be sharded; every worker must call it at the same time."""
    return value if is_whole(value) else value.full_tensor()  # type: ignore[attr-defined]


def shard_like(value: Tensor, like: Tensor) -> Tensor:
    """Return this worker's shard of a whole tensor if `like` is sharded, else the tensor."""
    if is_whole(like) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    sharded = cast("DTensor", like)
    # No source rank: every worker has read the same file, so none needs to send.
    part = distribute_tensor(
        value.to(like.device), sharded.device_mesh, sharded.placements, src_data_rank=None
    )
    return part.detach()


def gather_in_turn(
    tensors: Mapping[str, Mapping[str, Tensor]],
) -> tuple[dict[str, dict[str, Tensor | Later]], Iterator[Tensor]]:
    """Return sharded tensors for one worker to write, and the stream that gathers each of them.

    To gather a tensor takes all workers, so each must exhaust the stream: the writer does while it writes,
    and must take the rest if writing fails.
    """
    stream = (gather(values[name]) for values in tensors.values() for name in in_order(values))
    later: dict[str, dict[str, Tensor | Later]] = {
        stem: {name: Later(value.shape, value.dtype, lambda: next(stream)) for name, value in values.items()}
        for stem, values in tensors.items()
    }
    return later, stream


def clip_grad_norm(parameters: Iterable[Tensor], highest: float) -> Tensor:
    """Scale gradients down to a norm of at most `highest` over all workers; return the norm before.

    The norm stays on the device: the host does not wait for it.
    """
    weights = list(parameters)
    norm = gather(nn.utils.get_total_norm([w.grad for w in weights if w.grad is not None]))
    nn.utils.clip_grads_with_norm_(weights, highest, norm)
    return norm


def gather_model(model: VideoMAR, shape: ModelShape, worker: Worker) -> VideoMAR:
    """Return the model; of a sharded one, a whole copy on the first worker. Every worker must call it."""
    weights = model.state_dict()
    if all(is_whole(value) for value in weights.values()):
        return model
    copy = shape.build() if worker.rank == 0 else None
    copied = copy.state_dict() if copy else {}
    for name, value in weights.items():
        full = gather(value)
        if copy:
            copied[name].copy_(full)
    return copy.to(worker.device).requires_grad_(False) if copy else model


class Loss(nn.Module):
    """The model's loss as a forward pass, which is what DistributedDataParallel synchronises."""

    def __init__(self, model: VideoMAR, precision: str) -> None:
        super().__init__()
        self.model, self.precision = model, precision

    def forward(
        self,
        clips: Clips,
        params: TrainParams,
        generator: torch.Generator,
        hidden: Hidden | None = None,
    ) -> FrameLosses:
        """Return the errors of the hidden tokens: their mean, and sums by frame."""
        with torch.autocast(generator.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return self.model.losses(clips, params, generator, hidden)


def refuse_emulated(precision: str, device: torch.device) -> None:
    """Refuse a number format that the hardware emulates, which is far slower than float32.

    Raises:
        ParamsError: precision is bfloat16 on a device without it.
    """
    if precision == "float32":
        return
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if not native:
        raise ParamsError(
            f"train.precision: got {precision} on {device.type} hardware that only emulates it, expected "
            "hardware with bfloat16 products, or float32; set float32"
        )


def recompute_blocks(model: VideoMAR) -> None:
    """Make every block recompute its activations in the backward pass instead of storing them."""
    for block in model.trunk.blocks:
        forward = block.forward
        # A block draws no random numbers, so no generator's state needs to be restored.
        block.forward = lambda *arguments, forward=forward: checkpoint(
            forward, *arguments, use_reentrant=False, preserve_rng_state=False
        )


def compile_blocks(model: VideoMAR) -> None:
    """Compile every block and the head's network; blocks are alike, so once per shape of input.

    The code around them draws from generators that are arguments, which torch.compile does not support.
    """
    for block in model.trunk.blocks:
        block.compile()
    model.head.net.compile(dynamic=True)  # the number of hidden tokens differs at every step

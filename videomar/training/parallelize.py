"""A model in parts: each worker keeps its share of every weight, gradient, average and optimizer state.

FSDP2 (`torch.distributed.fsdp.fully_shard`) puts a unit of layers together while it computes, and takes it
apart again. A device never holds more than one unit and its share of the rest; the host's memory of each
worker holds the network twice while it is drawn, before step 0.

Checkpoints do not show it: their files hold whole tensors, which pass one at a time through every worker's
memory to the first worker, which writes them, and of which every worker reads its share. So a run may go on
with any number of workers, sharded or not.
"""

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
from videomar.model.objective import Clips, FrameLosses
from videomar.model.transformer import Trunk
from videomar.model.videomar import VideoMAR
from videomar.training.worker import Worker

if TYPE_CHECKING:  # a second to import, which a run without shards does without
    from torch.distributed.device_mesh import DeviceMesh


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Number formats of matrix products, by their names in params.yaml."""


def mesh_of(params: TrainParams, worker: Worker) -> "DeviceMesh | None":
    """The workers that a model is dealt out to; None = every worker holds all of it."""
    if params.sharding == "ddp" or worker.world_size == 1:
        return None
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(worker.device.type, (worker.world_size,))


def shard(model: VideoMAR, mesh: "DeviceMesh") -> None:
    """Deal a model's weights out to the workers, in place, on the mesh's devices."""
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for unit in [*_trunk_units(model.trunk), *_head_units(model.head)]:
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)
    # What is left: the first and last layers, and all that is called by another name than `forward`. Outside
    # of a pass these are shares like all others: the moving average reads them.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    register_fsdp_forward_method(model, "losses")


def _trunk_units(trunk: Trunk) -> Iterator[nn.Module | list[nn.Module]]:
    """Layers that compute together; those inside another unit come before it."""
    for block in trunk.blocks:
        # They read captions before any block runs, so the block's own call would come too late for them.
        attention = block.attn2
        yield [attention.wkv, attention.k_norm]  # type: ignore[list-item, union-attr]
        yield block


def _head_units(head: DiffusionHead) -> Iterator[nn.Module | list[nn.Module]]:
    yield head.net.cond_embed  # called by itself
    yield from head.net.blocks
    yield head.net


def whole_already(value: Tensor) -> bool:
    """Whether a tensor lies in one piece, as all but a DTensor do."""
    return not hasattr(value, "full_tensor")


def whole(value: Tensor) -> Tensor:
    """All of a tensor that may lie in parts; every worker calls it at the same time."""
    return value if whole_already(value) else value.full_tensor()  # type: ignore[attr-defined]


def share_of(value: Tensor, like: Tensor) -> Tensor:
    """This worker's share of a whole tensor, where `like` lies in parts; else the tensor."""
    if whole_already(like) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    laid_out = cast("DTensor", like)
    # No source rank: every worker has read the same file, and none needs to send.
    share = distribute_tensor(
        value.to(like.device), laid_out.device_mesh, laid_out.placements, src_data_rank=None
    )
    return share.detach()


def in_turn(
    tensors: Mapping[str, Mapping[str, Tensor]],
) -> tuple[dict[str, dict[str, Tensor | Later]], Iterator[Tensor]]:
    """Tensors in parts, for one worker to write, and the stream that makes each of them whole.

    Every worker takes the stream to its end, and so joins in gathering each tensor: the writer as it writes,
    and what is left of it where writing fails.
    """
    stream = (whole(values[name]) for values in tensors.values() for name in in_order(values))
    later: dict[str, dict[str, Tensor | Later]] = {
        stem: {name: Later(value.shape, value.dtype, lambda: next(stream)) for name, value in values.items()}
        for stem, values in tensors.items()
    }
    return later, stream


def clip_grad_norm(parameters: Iterable[Tensor], highest: float) -> float:
    """Scale gradients down to a norm of at most `highest`, over all workers; returns what it was."""
    weights = list(parameters)
    norm = whole(nn.utils.get_total_norm([w.grad for w in weights if w.grad is not None]))
    nn.utils.clip_grads_with_norm_(weights, highest, norm)
    return norm.item()


def in_one_piece(model: VideoMAR, shape: ModelShape, worker: Worker) -> VideoMAR:
    """The model; of one that lies in parts, a copy on the first worker's device. Every worker calls it."""
    weights = model.state_dict()
    if all(whole_already(value) for value in weights.values()):
        return model
    copy = shape.build() if worker.rank == 0 else None
    places = copy.state_dict() if copy else {}
    for name, value in weights.items():
        full = whole(value)
        if copy:
            places[name].copy_(full)
    return copy.to(worker.device).requires_grad_(False) if copy else model


class Loss(nn.Module):
    """The model's loss as a forward pass, which is what DistributedDataParallel synchronises."""

    def __init__(self, model: VideoMAR, precision: str) -> None:
        super().__init__()
        self.model, self.precision = model, precision

    def forward(self, clips: Clips, params: TrainParams, generator: torch.Generator) -> FrameLosses:
        """Errors of the hidden tokens: their mean, and where they lie."""
        with torch.autocast(generator.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return self.model.losses(clips, params, generator)


def refuse_emulated(precision: str, device: torch.device) -> None:
    """Refuse a number format that the hardware does not compute in: emulated, it is far slower than float32.

    Raises:
        ParamsError: bfloat16 is asked of a device without it.
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
    """Have every block compute its activations again on the way back instead of keeping them."""
    for block in model.trunk.blocks:
        forward = block.forward
        # A block draws nothing at random, so no generator's state needs to be put back.
        block.forward = lambda *arguments, forward=forward: checkpoint(
            forward, *arguments, use_reentrant=False, preserve_rng_state=False
        )


def compile_blocks(model: VideoMAR) -> None:
    """Compile every block and the head's network: all are alike, so it is done once for each shape of input.

    Around them numbers are drawn from generators that are arguments, which torch.compile does not take.
    """
    for block in model.trunk.blocks:
        block.compile()
    model.head.net.compile(dynamic=True)  # the number of hidden tokens is another at every step

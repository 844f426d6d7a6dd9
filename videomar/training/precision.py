"""How the loss is computed: in which number format, what is kept for the way back, compiled or not.

Neither choice changes the weights' names, nor, but for rounding, what is learnt.
"""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from videomar.config import TrainParams
from videomar.errors import ParamsError
from videomar.model.objective import Clips, FrameLosses
from videomar.model.videomar import VideoMAR

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Number formats of matrix products, by their names in params.yaml."""


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

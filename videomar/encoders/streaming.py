"""A causal network fed with a video chunk by chunk, as if it saw the whole.

Axes: B batch, C channels of the layer, T frames of the layer's own rate, H W its rows and columns.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

# Reach of a layer that looks at all earlier frames.
ALL = None


class Stream:
    """Context in which layers continue in time where their last call ended. Remembers what they saw last.

    Each layer gets the last frames of its earlier input in front of the next, as many as it looks back, and
    loses as many frames at the front of its output: that is what it would have made of the whole video. It
    holds for convolutions that repeat the first frame before the start, for layers that change the frame rate
    and treat the first frame as a still picture (one frame of theirs in, one frame out), and for attention
    over time, which keeps all frames, and whose mask is stretched accordingly.
    """

    def __init__(self, reach: Mapping[nn.Module, int | None]) -> None:
        self._reach = reach
        self._past: dict[nn.Module, Tensor] = {}
        self._prepended: dict[nn.Module, int] = {}
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> "Stream":
        for layer in self._reach:
            self._hooks.append(layer.register_forward_pre_hook(self._prepend))
            self._hooks.append(layer.register_forward_hook(self._cut))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def _prepend(self, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Inputs with the layer's past before the frames (B, C, T, H, W); notes the past of the next call."""
        frames = inputs[0]
        past = self._past.get(layer, frames[:, :, :0])
        self._prepended[layer] = past.shape[2]
        joined = torch.cat([past, frames], 2)
        reach = self._reach[layer]
        self._past[layer] = joined if reach is ALL else _last(joined, reach)
        if len(inputs) == 1:
            return (joined,)
        length = joined.shape[2]
        return joined, torch.ones(length, length, dtype=torch.bool, device=joined.device).tril()

    def _cut(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """The output (B, C, T, H, W) of the new frames alone."""
        return output[:, :, self._prepended[layer] :]


def _last(frames: Tensor, count: int) -> Tensor:
    """The last frames of (B, C, T, H, W); before the first there are copies of it."""
    still = frames[:, :, :1].expand(-1, -1, max(0, count - frames.shape[2]), -1, -1)
    # A copy, because a view would keep the whole chunk in memory.
    return torch.cat([still, frames], 2)[:, :, -count:].clone()

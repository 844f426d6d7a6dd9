"""A function of tensors as one launch: its kernels are recorded once for each shape, and then replayed.

The network that draws a token is small. On a GPU the host needs longer to start its kernels, about 150 in a
step of diffusion, than the GPU to run them; and it is evaluated many thousand times for a clip.

Source: CUDA graphs, through `torch.cuda.graph`. Unlike `torch.cuda.make_graphed_callables` it takes numbers
and missing inputs, is checked, and runs the function as it is wherever it cannot be recorded.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Shapes beyond these run launch by launch: each recording holds memory of its own.
_MOST_RECORDINGS = 64
# A library may choose another kernel while it is recorded, which rounds bfloat16 differently.
_CLOSE = 0.05
# A recording begins with a wait for the device, which would end one of another thread.
_RECORDING = threading.Lock()
_log = logging.getLogger(__name__)

Input = Tensor | float | None
Key = tuple[Any, ...]


class _Recording(NamedTuple):
    """Kernels that read `inputs` and write `outputs`, tensors whose memory stays where it is."""

    graph: Any
    inputs: list[Tensor | None]
    outputs: tuple[Tensor, ...]
    numbers: dict[int, float]
    """Values that inputs which are numbers have now, by their place."""


class Replayed:
    """Calls a function of tensors, numbers and None that returns tensors; on a GPU by replaying its kernels.

    The function must not draw random numbers, change its inputs, or depend on values that are neither inputs
    nor weights.

    The tensors that come back are overwritten by the next call. On other devices the function itself runs.
    Remembers a recording for each combination of shapes.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        self._function = function
        self._recordings: dict[Key, _Recording] = {}
        self._fits = True

    def __call__(self, *inputs: Input) -> tuple[Tensor, ...]:
        """Return what the function returns."""
        if not self._fits or not any(isinstance(x, Tensor) and x.is_cuda for x in inputs):
            return self._function(*inputs)
        key = tuple((x.shape, x.dtype) if isinstance(x, Tensor) else type(x) for x in inputs)
        if key not in self._recordings and len(self._recordings) == _MOST_RECORDINGS:
            return self._function(*inputs)
        try:
            recording = self._recordings.get(key)
            if recording is None:
                device = next(x.device for x in inputs if isinstance(x, Tensor))
                with _RECORDING, torch.cuda.device(device):
                    recording = self._recordings[key] = self._record(inputs, device)
        except RuntimeError as error:
            # Nothing is lost but speed.
            self._fits = False
            _log.warning("CUDA graph: %s; kernels are started one by one", " ".join(str(error).split()))
            return self._function(*inputs)
        for place, (value, kept) in enumerate(zip(inputs, recording.inputs, strict=True)):
            if isinstance(value, Tensor):
                kept.copy_(value)  # type: ignore[union-attr]
            elif value is not None and value != recording.numbers.get(place):
                kept.fill_(value)  # type: ignore[union-attr]
                recording.numbers[place] = value
        recording.graph.replay()
        return recording.outputs

    def _record(self, inputs: tuple[Input, ...], device: torch.device) -> _Recording:
        """Record the kernels for inputs of these shapes, and check them against the function itself.

        Raises:
            RuntimeError: they cannot be recorded, or give other values.
        """
        kept = [_buffer(x, device) for x in inputs]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # Libraries take their workspaces at the first call, which must not be part of a recording.
            expected = self._function(*kept)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as other requests of a server, may use the device meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = self._function(*kept)
        graph.replay()
        pairs = zip(outputs, expected, strict=True)
        if not all(torch.allclose(*pair, _CLOSE, _CLOSE, equal_nan=True) for pair in pairs):
            raise RuntimeError("replayed kernels gave other values than the function")
        return _Recording(graph, kept, outputs, {})


def _buffer(value: Input, device: torch.device) -> Tensor | None:
    """Return memory for an input, with its value; a number becomes a tensor without axes."""
    if isinstance(value, Tensor):
        return value.clone()
    return None if value is None else torch.full((), float(value), device=device)

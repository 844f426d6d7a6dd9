"""How many floating-point operations a sampler spends on a clip, by formula.

Counted are the products of matrices, as everywhere: a weight costs a multiplication and an addition for each
vector that it meets, and so do attention's scores and mean of values. Embeddings of conditions, norms and
additions, all below a hundredth, are not. Masked attention counts whole.

    frame i of a clip, cached      queries L           keys (i + 1) L, or those of the window
    the same without a cache       queries (i + 1) L   keys (i + 1) L

So a clip of T frames takes passes over T L tokens with a cache, and over T² L / 2 without; attention grows
with T² and T³.

Axes: T latent frames, L tokens per frame, D hidden size, M caption tokens, E caption channels.
"""

from typing import NamedTuple

import torch

from benchmarks.samplers import Sampler
from videomar.checkpoint.manifest import ModelShape
from videomar.config import SampleParams
from videomar.model import generation
from videomar.model.head import SINUSOID_CHANNELS
from videomar.model.linear import smallest_batch
from videomar.training.throughput import matrix_weights


class Pass(NamedTuple):
    """A pass of the trunk over the frame being generated, and what the head draws after it."""

    copies: int
    """2 with the null branch, else 1."""
    revealed: int
    """Tokens."""
    head_steps: int


class ClipSize(NamedTuple):
    """What a clip costs depends on."""

    num_frames: int
    """Latent frames, T; the first is given."""
    tokens_per_frame: int
    """L."""
    rows: int
    """Clips computed side by side; on a CPU 2 or more, see `smallest_batch`."""

    @classmethod
    def of(cls, num_frames: int, tokens_per_frame: int, batch: int, device: torch.device) -> "ClipSize":
        """Return the size of `batch` clips as a device computes them."""
        return cls(num_frames, tokens_per_frame, max(batch, smallest_batch(device)))


def passes_of(sampling: SampleParams, tokens_per_frame: int) -> list[Pass]:
    """Return the passes over one frame, in order."""
    found: list[Pass] = []
    left = tokens_per_frame
    while left:
        step = len(found)
        after = generation.hidden_after(step, sampling.num_unmask_steps, tokens_per_frame, left)
        weight = generation._guidance_weight(sampling, 1 - after / tokens_per_frame)
        steps = generation._head_steps(sampling, step)
        found.append(Pass(1 if weight == 1 else 2, left - after, steps))
        left = after
    return found


def clip_operations(model: ModelShape, sampler: Sampler, size: ClipSize) -> float:
    """Return the operations of a batch of clips, padding to `size.rows` included."""
    sampling, tokens = sampler.sampling, size.tokens_per_frame
    window = min(size.num_frames, sampling.window_frames or size.num_frames)
    copies = 1 if sampling.cfg_scale == 1 else 2
    passes = passes_of(sampling, tokens)
    total = _caption(model, size.rows * copies, of_states=True)
    if sampler.text_reused:
        total += _caption(model, size.rows * copies, of_states=False)
    for index in range(size.num_frames):
        keys = min(index + 1, window) * tokens
        queries = tokens if sampler.cached else keys
        last = index == size.num_frames - 1
        for each in passes if index > 0 else []:
            rows = size.rows * each.copies
            total += _trunk(model, sampler, rows, (queries, keys)) + _head(model, rows, each)
        if sampler.cached and not last:  # write the finished frame
            total += _trunk(model, sampler, size.rows * copies, (tokens, keys))
    return total


def _trunk(model: ModelShape, sampler: Sampler, rows: int, attended: tuple[int, int]) -> float:
    """Operations of a pass of so many rows, each with queries and keys."""
    shape, (queries, keys) = model.params, attended
    attention = 4 * shape.depth * shape.hidden_size * (keys + model.max_text_tokens)
    captions = 0.0 if sampler.text_reused else _caption(model, rows, of_states=False)
    return rows * queries * (2 * matrix_weights(model).tokens + attention) + captions


def _caption(model: ModelShape, rows: int, of_states: bool) -> float:
    """Operations on captions: their states as the trunk reads them, or keys and values of all blocks."""
    states = model.text_channels * model.params.hidden_size
    weights = states if of_states else matrix_weights(model).captions - states
    return 2.0 * rows * model.max_text_tokens * weights


def _head(model: ModelShape, rows: int, drawn: Pass) -> float:
    """Operations of the head on the tokens revealed in a pass; all tokens share one embedding of the time."""
    shape = model.params
    hidden = shape.hidden_size * shape.head_width
    time = (SINUSOID_CHANNELS + shape.head_width) * shape.head_width
    network = matrix_weights(model).head - hidden - time
    tokens = rows * drawn.revealed
    return 2.0 * (tokens * hidden + drawn.head_steps * (tokens * network + drawn.copies * time))

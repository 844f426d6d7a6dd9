"""Memory of one worker in training, by formula: what is kept of a network, and of a batch for its gradient.

Counted is what the code of `videomar.model` keeps: `tests/ops/test_plan_memory.py` adds up the bytes that
autograd stores, for networks of several shapes, and compares. Units below are values per token and channel,
in the format of the products (2 bytes with `precision: bfloat16`) or in float32.

Axes: B clips of a micro-batch, S tokens of a sequence, M caption tokens, D hidden size, W head width.
"""

import functools
import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from videomar.checkpoint.manifest import ModelShape
from videomar.config import TrainParams
from videomar.model.attention import SEQUENCE_OF_BLOCKS
from videomar.training.throughput import BatchShape, matrix_weights, sequence_frames, supervised_tokens

FLOAT32 = 4
MARGIN = 0.1
"""Share of the whole that is added for fragments of the allocator, libraries and copies in flight."""
CONTEXT_GB = 0.6
"""CUDA itself, with the handles of its libraries, 10^9 bytes."""


class Kept(NamedTuple):
    """Values that autograd keeps per token and channel."""

    products: float
    """In the format of the products."""
    single: float
    """In float32 whatever the precision."""

    def bytes(self, precision: str) -> float:
        """Bytes per token and channel."""
        return self.products * itemsize(precision) + self.single * FLOAT32


# Self-attention: input, q k v (3), q and k as they are multiplied (2), output. Cross-attention: input, query,
# output. Feed-forward: input. In float32: the inputs of both layer norms, and with bfloat16 q, k and query as
# their norms read them. With float32 these are among the products, and so is the input of each norm.
_BLOCK = Kept(products=11, single=5)
_BLOCK_FLOAT32 = Kept(products=14, single=0)
_FEED_FORWARD = 2
"""Hidden layer of the feed-forward, before and after GELU, per token and channel of it."""
# Keys and values of a block's caption (2), the key as it is multiplied, and as its norm reads it.
_CAPTION = Kept(products=3, single=1)
_CAPTION_FLOAT32 = Kept(products=3, single=0)
# The input of a block, which is all that a block keeps that is computed twice; and of the last norm.
_STREAM = Kept(products=0, single=1)
# A block of the head, and its first and last layers, per draw and head channel.
_HEAD_BLOCK, _HEAD_ENDS = 11, 8
# Time, noise, target and the terms of the loss, per draw and token channel.
_LOSS = {"flow": 6, "ddpm": 20}
# Gradients of the feed-forward while it runs backward, per token and channel of its hidden layer.
_TRANSIENT = 2


class Memory(NamedTuple):
    """Bytes on one device at the peak of a step."""

    weights: float
    gradients: float
    moments: float
    average: float
    """Moving average of the weights."""
    copies: float
    """Weights in bfloat16; buckets of gradients to exchange; layers gathered from shards."""
    activations: float
    margin: float

    @property
    def total(self) -> float:
        """Sum of all, bytes."""
        return sum(self)

    @property
    def total_gb(self) -> float:
        """Sum of all, 10^9 bytes."""
        return self.total / 1e9


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one worker computes at once."""

    shape: BatchShape
    caption_tokens: int
    """M: captions are padded to this length."""


def itemsize(precision: str) -> int:
    """Bytes of a number of `train.precision`."""
    return int(getattr(torch, precision).itemsize)


def micro_batch(batch_size: int, frames: int, tokens_per_frame: int, captions: int, parts: int) -> MicroBatch:
    """Return the largest part when a batch is split into `parts`."""
    return MicroBatch(BatchShape(math.ceil(batch_size / parts), frames, tokens_per_frame), captions)


class Sizes(NamedTuple):
    """Parameters of a network."""

    all: int
    block: int
    """Of one block of the trunk."""
    outside: int
    """Of what is in no block of trunk or head."""


@functools.cache
def parameter_sizes(model: ModelShape) -> Sizes:
    """Count the parameters of a network without allocating it."""
    with torch.device("meta"):
        network = model.build()
    blocks = {name: p.numel() for name, p in network.named_parameters() if "blocks." in name}
    total = sum(p.numel() for p in network.parameters())
    first = sum(number for name, number in blocks.items() if name.startswith("trunk.blocks.0."))
    return Sizes(total, first, total - sum(blocks.values()))


def training_memory(model: ModelShape, batch: MicroBatch, params: TrainParams, workers: int = 1) -> Memory:
    """Return the memory of one of several workers, with a micro-batch each.

    Args:
        model: shape of the network.
        batch: the largest micro-batch.
        params: section `train`, with the stage's own values.
        workers: processes, with a device each.
    """
    sizes = parameter_sizes(model)
    sharding = params.sharding if workers > 1 else "ddp"
    held = held_parameters(sizes, params, workers)
    copies = 0.0
    if params.precision == "bfloat16":
        copies += itemsize(params.precision) * sum(matrix_weights(model))
    if sharding == "fsdp":
        # The unit that computes and the one gathered ahead of it, the layers outside, and a unit's gradients.
        copies += FLOAT32 * (3 * sizes.block + sizes.outside)
    elif sharding == "zero1":
        copies += 2 * FLOAT32 * sizes.all  # weights and gradients, gathered during the step
    elif workers > 1:
        copies += FLOAT32 * sizes.all  # buckets of DistributedDataParallel
    fixed = FLOAT32 * held
    kept = activations(model, batch, params)
    parts = (fixed, fixed, 2 * fixed, fixed, copies, kept)
    return Memory(*parts, margin=MARGIN * sum(parts) + 1e9 * CONTEXT_GB)


def held_parameters(sizes: Sizes, params: TrainParams, workers: int) -> float:
    """Return the parameters that a worker keeps between steps, with average and moments."""
    return sizes.all / workers if params.sharding != "ddp" else sizes.all


def activations(model: ModelShape, batch: MicroBatch, params: TrainParams) -> float:
    """Return the bytes that are kept of a micro-batch at the end of the forward pass, and one block's more.

    The block's more is, with `activation_checkpointing`, what that block keeps when it is computed again, and
    in any case the gradients of its feed-forward.
    """
    shape = model.params
    tokens = batch.shape.batch_size * longest_sequence(batch.shape, params)
    wide = tokens * int(shape.hidden_size * shape.mlp_ratio)
    again: float = _TRANSIENT * itemsize(params.precision) * wide
    if params.activation_checkpointing:
        again += block_bytes(model, batch, params)
    return forward_bytes(model, batch, params) + again


def forward_bytes(model: ModelShape, batch: MicroBatch, params: TrainParams) -> float:
    """Return the bytes that are kept of a micro-batch at the end of the forward pass."""
    shape = model.params
    tokens = batch.shape.batch_size * longest_sequence(batch.shape, params)
    stream = tokens * shape.hidden_size * _STREAM.bytes(params.precision)
    block = stream if params.activation_checkpointing else block_bytes(model, batch, params)
    captions = batch.shape.batch_size * batch.caption_tokens * (model.text_channels + shape.hidden_size)
    ends = stream + captions * itemsize(params.precision)
    return shape.depth * block + ends + head_bytes(model, batch, params)


def block_bytes(model: ModelShape, batch: MicroBatch, params: TrainParams) -> float:
    """Return the bytes that one block of the trunk keeps, with keys and values of the captions."""
    shape, low = model.params, params.precision == "bfloat16"
    sequence = longest_sequence(batch.shape, params)
    tokens = batch.shape.batch_size * sequence
    channels = shape.hidden_size * (_BLOCK if low else _BLOCK_FLOAT32).bytes(params.precision)
    channels += int(shape.hidden_size * shape.mlp_ratio) * _FEED_FORWARD * itemsize(params.precision)
    caption = shape.hidden_size * (_CAPTION if low else _CAPTION_FLOAT32).bytes(params.precision)
    # Numbers to add to the scores of all pairs, where the mask is not one of blocks.
    pairs = sequence**2 if sequence < SEQUENCE_OF_BLOCKS else 0
    words = batch.shape.batch_size * batch.caption_tokens
    return tokens * channels + words * caption + pairs * itemsize(params.precision)


def head_bytes(model: ModelShape, batch: MicroBatch, params: TrainParams) -> float:
    """Return the bytes that the head keeps of all draws."""
    shape = model.params
    draws = supervised_tokens(batch.shape, params) * params.batch_multiplier
    width = shape.head_width * (_HEAD_BLOCK * shape.head_depth + _HEAD_ENDS)
    inputs = shape.hidden_size * itemsize(params.precision)
    token = model.latent_channels * shape.patch_size**2
    return draws * (width * itemsize(params.precision) + inputs + _LOSS[shape.head] * token * FLOAT32)


def longest_sequence(batch: BatchShape, params: TrainParams) -> int:
    """Return the most tokens of a sequence; in `single_frame`, those up to the last frame."""
    frames = batch.num_frames
    if params.objective == "all_frames":
        frames = round(sequence_frames(batch, params))
    return frames * batch.tokens_per_frame


def largest_batch(
    model: ModelShape, batch: MicroBatch, params: TrainParams, workers: int, most_gb: float
) -> int:
    """Return the largest power of two clips in a micro-batch that fits; 0: not even one does."""
    clips = 0
    while clips < 2**20:
        size = 2 * clips or 1
        trial = replace(batch, shape=batch.shape._replace(batch_size=size))
        if training_memory(model, trial, params, workers).total_gb > most_gb:
            break
        clips = size
    return clips

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


# Self-attention: input, q k v, rotated q and k, output. Cross-attention: input, query, its norm, output.
# Feed-forward: input; its hidden layer, before and after GELU, is `_FEED_FORWARD` of the wider layer.
_BLOCK = Kept(products=13, single=8)
_BLOCK_FLOAT32 = Kept(products=19, single=0)
_FEED_FORWARD = 2
# Keys and values of a block's caption, with the inputs of the key's norm.
_CAPTION = Kept(products=3, single=2)
_CAPTION_FLOAT32 = Kept(products=3, single=1)
# The input of a block, which is all that a block keeps that is computed twice.
_BLOCK_INPUT = Kept(products=0, single=1)
# Embedded tokens and the input of the last norm.
_TRUNK_ENDS = Kept(products=1, single=1)
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
    sharded = params.sharding == "fsdp" and workers > 1
    held = sizes.all / workers if sharded else sizes.all
    copies = 0.0
    if params.precision == "bfloat16":
        copies += itemsize(params.precision) * sum(matrix_weights(model))
    if sharded:
        # The unit that computes and the one gathered ahead of it, the layers outside, and a unit's gradients.
        copies += FLOAT32 * (3 * sizes.block + sizes.outside)
    elif workers > 1:
        copies += FLOAT32 * sizes.all  # buckets of DistributedDataParallel
    fixed = FLOAT32 * held
    kept = activations(model, batch, params)
    parts = (fixed, fixed, 2 * fixed, fixed, copies, kept)
    return Memory(*parts, margin=MARGIN * sum(parts) + 1e9 * CONTEXT_GB)


def activations(model: ModelShape, batch: MicroBatch, params: TrainParams) -> float:
    """Return the bytes that are kept of a micro-batch at the end of the forward pass, and for one block more.

    The block more is the one that is computed again with `activation_checkpointing`; without it, that is only
    the gradients of its widest layer.
    """
    shape = model.params
    tokens = batch.shape.batch_size * longest_sequence(batch.shape, params)
    wide = tokens * int(shape.hidden_size * shape.mlp_ratio)
    block = block_bytes(model, batch, params)
    again: float = _TRANSIENT * itemsize(params.precision) * wide
    if params.activation_checkpointing:
        again += block
        block = tokens * shape.hidden_size * _BLOCK_INPUT.bytes(params.precision)
    ends = tokens * shape.hidden_size * _TRUNK_ENDS.bytes(params.precision)
    captions = shape.depth * caption_bytes(model, batch, params)
    return shape.depth * block + captions + ends + head_bytes(model, batch, params) + again


def block_bytes(model: ModelShape, batch: MicroBatch, params: TrainParams) -> float:
    """Return the bytes that one block of the trunk keeps, without its caption."""
    shape = model.params
    sequence = longest_sequence(batch.shape, params)
    tokens = batch.shape.batch_size * sequence
    kept = _BLOCK if params.precision == "bfloat16" else _BLOCK_FLOAT32
    channels = shape.hidden_size * kept.bytes(params.precision)
    channels += int(shape.hidden_size * shape.mlp_ratio) * _FEED_FORWARD * itemsize(params.precision)
    return tokens * channels + sequence**2 * itemsize(params.precision)


def caption_bytes(model: ModelShape, batch: MicroBatch, params: TrainParams) -> float:
    """Return the bytes of one block's keys and values of the captions."""
    kept = _CAPTION if params.precision == "bfloat16" else _CAPTION_FLOAT32
    captions = batch.shape.batch_size * batch.caption_tokens
    return captions * model.params.hidden_size * kept.bytes(params.precision)


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

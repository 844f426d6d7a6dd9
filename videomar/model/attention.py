"""Attention of tokens to tokens, where a table of frames says which frames attend to which.

A mask of all pairs of tokens suits most sequences, and every kernel. At 480 x 768 pixels and 12 latent frames
it takes a gigabyte, its copy as numbers to add two more in every block, and 30 % of the pairs are allowed.
There, on a GPU, FlexAttention gets the table in blocks of 128 x 128 tokens and skips those that hold no
allowed pair; nothing of the size S x S exists.

Source: FlexAttention (arXiv 2412.05496).

Axes: B batch, N heads, T frames, L tokens per frame, S = T L tokens, K head channels.
"""

import functools
import os
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:  # half a second to import, for sequences that a CPU never has
    from torch.nn.attention.flex_attention import BlockMask

SEQUENCE_OF_BLOCKS = 8192
"""Shortest sequence whose mask is made of blocks, where the device can: all pairs would be 64 MB, and 128 MB
to add."""
BLOCK_TOKENS = 128


def token_mask(allowed: Tensor, tokens_per_frame: int) -> "Tensor | BlockMask":
    """Return which tokens attend to which from a table of frames (T, T): (S, S), or its blocks."""
    if allowed.is_cuda and len(allowed) * tokens_per_frame >= SEQUENCE_OF_BLOCKS and _can_compile():
        return block_mask(allowed, tokens_per_frame)
    rows = allowed.repeat_interleave(tokens_per_frame, 0)
    return rows.repeat_interleave(tokens_per_frame, 1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: "Tensor | BlockMask | None") -> Tensor:
    """Attention (B, N, S, K) of queries to keys and values under a mask of `token_mask`; None = to all."""
    if mask is None or isinstance(mask, Tensor):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    out: Tensor = _flex_attention(q.device.type)(q, k, v, block_mask=mask)
    return out


def block_mask(allowed: Tensor, tokens_per_frame: int, block: int = BLOCK_TOKENS) -> "BlockMask":
    """Return the blocks of tokens that hold an allowed pair, and those that hold no other.

    A block of tokens spans frames `first` to `last`; sums over all frames before give the number of allowed
    pairs of two such spans, so neither the mask of all tokens nor the host is needed.
    """
    from torch.nn.attention.flex_attention import BlockMask

    length = len(allowed) * tokens_per_frame
    starts = torch.arange(0, length, block, device=allowed.device)
    first = starts // tokens_per_frame
    last = (starts + block - 1).clamp_max(length - 1) // tokens_per_frame
    sums = F.pad(allowed.long().cumsum(0).cumsum(1), (1, 0, 1, 0))  # (T + 1, T + 1)
    upper, lower = sums[last + 1], sums[first]
    pairs = upper[:, last + 1] - upper[:, first] - lower[:, last + 1] + lower[:, first]
    span = last + 1 - first
    # The last block may be shorter than the others: its end has to be checked, token by token.
    whole = (starts + block <= length).long()
    full = pairs == span[:, None] * span
    full &= (whole[:, None] * whole).bool()
    partial = (pairs > 0) & ~full

    def may_attend(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return allowed[query // tokens_per_frame, key // tokens_per_frame]

    return BlockMask.from_kv_blocks(
        *_in_order(partial), *_in_order(full), block, may_attend, seq_lengths=(length, length)
    )


def _in_order(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many blocks each row has, and their columns before those that it has not: (1, 1, ...)."""
    columns = blocks.int().argsort(dim=1, descending=True, stable=True)
    return blocks.sum(1, dtype=torch.int32)[None, None], columns.int()[None, None]


@functools.cache
def _flex_attention(device: str) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    # As it is, it computes all pairs: for tests on a CPU. Compiled, it skips blocks.
    attention: Callable[..., Any] = flex_attention
    return torch.compile(attention) if device == "cuda" else attention


@functools.cache
def _can_compile() -> bool:
    # Triton makes the kernel, and a C compiler what starts it; a machine may have neither.
    from torch.utils._triton import has_triton

    compilers = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    return has_triton() and any(shutil.which(name) for name in compilers if name)

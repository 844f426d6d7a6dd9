"""Masks in blocks: the same attention as with a mask of all pairs of tokens, which never exists."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.fake_cuda import FakeCuda
from videomar.compute.seeding import step_generator
from videomar.model import attention
from videomar.model.attention import attend, block_mask, token_mask
from videomar.model.frames import causal, complete_and_masked

# A full, a shorter last and blocks within one frame; frames of 20, 16 and 3 tokens.
SIZES = [(6, 20, 16), (4, 16, 16), (12, 3, 16), (5, 40, 16)]


def tables(num_frames: int) -> dict[str, torch.Tensor]:
    tokens, hidden = torch.zeros(1, num_frames, 1, 2), torch.ones(1, num_frames, 1).bool()
    return {
        "single_frame": causal(tokens, hidden, (1, 1)).attn_mask,
        "all_frames": complete_and_masked(tokens, tokens, hidden, (1, 1)).attn_mask,
    }


@pytest.mark.parametrize("objective", ["single_frame", "all_frames"])
@pytest.mark.parametrize(("num_frames", "tokens_per_frame", "block"), SIZES)
def test_blocks_are_those_that_hold_an_allowed_pair(objective, num_frames, tokens_per_frame, block):
    allowed = tables(num_frames)[objective]
    dense = token_mask(allowed, tokens_per_frame)
    blocks = block_mask(allowed, tokens_per_frame, block)
    partial, full = (
        dense_blocks(blocks.kv_num_blocks, blocks.kv_indices),
        dense_blocks(blocks.full_kv_num_blocks, blocks.full_kv_indices),
    )
    length = len(dense)
    for row in range(-(-length // block)):
        for column in range(-(-length // block)):
            part = dense[row * block : (row + 1) * block, column * block : (column + 1) * block]
            whole = part.shape == (block, block)
            assert full[row, column] == (whole and bool(part.all())), (row, column)
            assert partial[row, column] == (bool(part.any()) and not full[row, column]), (row, column)


def dense_blocks(counts, columns):
    found = torch.zeros(columns.shape[-2:], dtype=torch.bool)
    for row, count in enumerate(counts[0, 0].tolist()):
        found[row, columns[0, 0, row, :count].long()] = True
    return found


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("objective", ["single_frame", "all_frames"])
def test_attention_by_blocks_is_attention_under_the_whole_mask(objective, measured, monkeypatch):
    # On a CPU PyTorch refuses gradients, which its compiled kernel lacks; the plain one has them.
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
    allowed, generator = tables(5)[objective], step_generator(0, 0)
    length = len(allowed) * 20
    drawn = [torch.randn(2, 3, length, 16, generator=generator) for _ in range(3)]
    results = []
    for mask in (token_mask(allowed, 20), block_mask(allowed, 20)):
        inputs = [tensor.clone().requires_grad_() for tensor in drawn]
        out = attend(*inputs, mask)
        (out * torch.arange(16.0)).sum().backward()
        results.append([out.detach(), *(tensor.grad for tensor in inputs)])
    worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*results, strict=True))
    measured(f"{objective}: attention and gradients by blocks and under the whole mask", worst, 1e-5)


@pytest.mark.slow
def test_new_masks_and_sizes_are_not_compiled_again():
    """A mask is a new function at every step; a kernel made for it alone would take seconds each time."""
    counter = CompileCounter()
    compiled = torch.compile(flex_attention, backend=counter)
    for num_frames, tokens_per_frame in [
        (4, 64),
        (4, 64),
        (5, 64),
        (6, 64),
        (7, 80),
        (7, 80),
        (8, 96),
        (9, 112),
    ]:
        mask = block_mask(tables(num_frames)["single_frame"], tokens_per_frame)
        q = torch.zeros(1, 2, num_frames * tokens_per_frame, 16)
        compiled(q, q, q, block_mask=mask)
    assert counter.frame_count <= 3  # the first size, then of any number of frames, then of any frames


class Largest(TorchDispatchMode):
    """Remembers how large the largest tensor is that anything made."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = [x for x in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(x, torch.Tensor)]
        self.numel = max([self.numel, *(tensor.numel() for tensor in made)])
        return out


def test_mask_of_a_long_sequence_is_never_that_of_all_its_tokens():
    """480 x 768 pixels and 12 latent frames: 31,680 tokens, a billion pairs."""
    allowed = tables(12)["all_frames"]
    with Largest() as largest:
        blocks = block_mask(allowed, 1440)
    assert blocks.seq_lengths == (22 * 1440, 22 * 1440)
    assert largest.numel < 100_000
    visited = int((blocks.kv_num_blocks + blocks.full_kv_num_blocks).sum()) / 248**2
    assert visited == pytest.approx(float(allowed.float().mean()), abs=0.03)


@pytest.mark.skipif(torch.cuda.is_available(), reason="stands in for a GPU")
def test_long_sequence_on_a_gpu_gets_blocks_and_nobody_waits_for_them(monkeypatch):
    monkeypatch.setattr(attention, "_can_compile", lambda: True)
    with FakeCuda() as cuda:
        allowed = torch.ones(11, 11, device="cuda").tril().bool()
        assert isinstance(token_mask(allowed, 100), torch.Tensor)
        assert isinstance(token_mask(allowed, 1440), BlockMask)
        assert not cuda.waits, cuda.places


def test_sequences_that_fit_keep_the_mask_of_all_pairs(monkeypatch):
    allowed = tables(4)["all_frames"]
    assert isinstance(token_mask(allowed, attention.SEQUENCE_OF_BLOCKS // 8), torch.Tensor)

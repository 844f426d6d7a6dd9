import os
import subprocess
import sys

import pytest
import torch

from videomar.compute.seeding import step_generator
from videomar.model.linear import Linear, in_bfloat16, smallest_batch

COUNTS = (2, 3, 5, 8, 9, 16, 17, 31)
_LAW = """
import torch
from tests.model.test_linear import check_law
for threads in (1, 2, 3):
    torch.set_num_threads(threads)
    for inputs, outputs in ((16, 96), (96, 288), (384, 96), (128, 384), (1536, 384)):
        for rows in (1, 4, 6, 16):
            check_law(inputs, outputs, rows)
"""


@torch.no_grad()
def check_law(inputs, outputs, rows):
    """A clip's product is the same in every batch from the smallest on, wherever the clip stands in it."""
    generator = step_generator(0, 0)
    layer = Linear(inputs, outputs)
    x = torch.randn(40, rows, inputs, generator=generator)
    whole = layer(x)
    for count in COUNTS:
        assert torch.equal(layer(x[:count]), whole[:count])
        assert torch.equal(layer(x[-count:]), whole[-count:])
    assert torch.equal(layer(x[torch.tensor([7, 0])]), whole[[7, 0]])


@pytest.mark.parametrize("rows", [1, 4, 6, 16, 64])
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 96), (96, 384), (384, 96), (1536, 384)])
def test_product_of_a_clip_does_not_depend_on_the_batch(inputs, outputs, rows):
    check_law(inputs, outputs, rows)


@pytest.mark.parametrize("instructions", ["SSE4_2", "AVX2", "AVX512"])
def test_product_of_a_clip_does_not_depend_on_the_batch_with_kernels_for_other_processors(instructions):
    """On Intel's processors MKL takes the kernels of older ones, too; elsewhere it may take its own."""
    environment = {**os.environ, "MKL_ENABLE_INSTRUCTIONS": instructions, "MKL_DYNAMIC": "FALSE"}
    subprocess.run([sys.executable, "-c", _LAW], env=environment, check=True, timeout=120)


def test_smallest_batch_leaves_a_gpu_alone():
    assert smallest_batch(torch.device("cuda")) == 1
    assert smallest_batch(torch.device("cpu")) == 2


@pytest.mark.parametrize("shape", [(2, 3, 8), (2, 4, 3, 8), (5, 8)])
@pytest.mark.parametrize("bias", [True, False])
def test_both_products_are_the_same_function(shape, bias):
    layer, x = Linear(8, 6, bias=bias), torch.randn(*shape, generator=step_generator(1, 0))
    with torch.no_grad():
        product = layer(x)
    assert product.shape == (*shape[:-1], 6)
    assert torch.allclose(product, layer(x), atol=1e-6)


def test_copy_in_bfloat16_shares_all_but_the_linear_layers(model):
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    narrow = in_bfloat16(model.trunk)
    assert type(narrow) is type(model.trunk)
    linear = {f"{name}." for name, layer in model.trunk.named_modules() if isinstance(layer, torch.nn.Linear)}
    for (name, wide), copied in zip(model.trunk.named_parameters(), narrow.parameters(), strict=True):
        if any(name.startswith(prefix) for prefix in linear):
            assert copied.dtype == torch.bfloat16
            assert torch.equal(copied, wide.bfloat16())
        else:
            assert copied is wide
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())

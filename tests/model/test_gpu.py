"""What must hold on a CUDA device as well: `pytest -m gpu` on a machine with torch and the bare libraries."""

import dataclasses

import pytest
import torch

from tests.conftest import lively_model
from videomar.compute.seeding import step_generator
from videomar.model.objective import Clips

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def clips(num_frames=4):
    return torch.randn(3, 4, num_frames, 2, 3, generator=step_generator(3, 0))


@pytest.mark.parametrize("head", ["flow", "ddpm"])
def test_trunk_and_head_compute_what_the_cpu_computes(params, captions, head, measured):
    model = lively_model(dataclasses.replace(params.model, head=head))
    mask = torch.zeros(3, 4, 6, dtype=torch.bool)
    inputs = (clips(), mask, *captions)
    here = model.trunk(*inputs)
    noisy, time = torch.randn(9, 4), torch.full((9,), 1.0)
    said = model.head.predict(noisy, time, here.flatten(0, 2)[:9])
    there_model = model.to("cuda")
    there = there_model.trunk(*(part.to("cuda") for part in inputs))
    error = (there.cpu() - here).abs().max()
    measured(f"{head}: hidden vectors on CUDA and CPU, float32", error, 1e-3)
    said_there = there_model.head.predict(
        noisy.to("cuda"), time.to("cuda"), here.to("cuda").flatten(0, 2)[:9]
    )
    measured(f"{head}: head on CUDA and CPU, float32", (said_there.cpu() - said).abs().max(), 1e-3)


@pytest.mark.parametrize("objective", ["single_frame", "all_frames"])
def test_training_step_in_bf16_gives_finite_gradients(params, captions, objective):
    model = lively_model(params.model).to("cuda")
    train = dataclasses.replace(params.train, objective=objective, cond_drop_prob=0.5)
    batch = Clips(*(part.to("cuda") for part in (clips(), *captions)))
    with torch.autocast("cuda", torch.bfloat16):
        loss = model.loss(batch, train, step_generator(0, 0, device="cuda"))
    loss.backward()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters() if weight.grad is not None)


def test_generation_is_a_function_of_the_seed(params, captions):
    model = lively_model(params.model).to("cuda")
    sampling = dataclasses.replace(params.sample, num_unmask_steps=3, cfg_scale=2.0)
    first, again = (
        model.generate(
            clips(1).to("cuda"),
            3,
            *(part.to("cuda") for part in captions),
            sampling,
            step_generator(0, 0, device="cuda"),
        )
        for _ in range(2)
    )
    assert torch.equal(first, again)
    assert torch.isfinite(first).all()

"""Training and generation on a GPU that is not there: no device mixes, and few waits for the device."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.training_subjects import PRESETS, train_params
from tests.conftest import lively_model
from tests.support.fake_cuda import CudaTensor, DeviceMixError, FakeCuda
from videomar.checkpoint.manifest import ModelShape
from videomar.compute.device import choose_device
from videomar.compute.seeding import step_generator
from videomar.model.objective import Clips
from videomar.training.optim import make_optimizer, update_ema
from videomar.training.parallelize import Loss, clip_grad_norm, recompute_blocks
from videomar.training.state import new_state

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="test_gpu.py runs the same on a real one")
DEVICE = torch.device("cuda")


@pytest.fixture(params=[True, False], ids=["values", "shapes"])
def cuda(request):
    with FakeCuda(request.param) as fake:
        yield fake


def waits_of(cuda, do):
    """What `do` waits for."""
    cuda.clear()
    do()
    return dict(cuda.waits)


# --- the GPU that is not there ---


@pytest.mark.parametrize(
    "mix",
    [
        lambda here, there: here + there,
        lambda here, there: there @ here,
        lambda here, there: torch.cat([here, there]),
        lambda here, there: torch.where(here > 0, there, 0.0),
        lambda here, there: F.linear(there, here),
        lambda here, there: F.scaled_dot_product_attention(here[None], there[None], there[None]),
        lambda here, there: there.lerp_(here, 0.5),
        lambda here, there: there.scatter(1, here.long(), 1.0),
        lambda here, there: F.embedding(here.long(), there),
        lambda here, there: nn.Linear(3, 2).to("cuda")(here),
    ],
)  # fmt: skip
def test_tensors_of_two_devices_do_not_meet(cuda, mix):
    with pytest.raises(RuntimeError, match="cuda|device"):
        mix(torch.ones(3, 3), torch.ones(3, 3, device="cuda"))
    mix(torch.ones(3, 3, device="cuda"), torch.ones(3, 3, device="cuda"))


def test_gradients_of_two_devices_do_not_meet(cuda):
    there = torch.ones(3, device="cuda", requires_grad=True)
    loss = (there * 2).sum()
    with pytest.raises(RuntimeError):
        loss.backward(torch.ones(3))
    (there.cpu() * torch.ones(3)).sum().backward()  # a gradient crosses where its tensor did
    assert isinstance(there.grad, CudaTensor)


def test_number_of_the_host_meets_any_tensor(cuda):
    assert (torch.ones(3, device="cuda") * torch.tensor(2.0)).device.type == "cuda"


@pytest.mark.parametrize(
    "draw",
    [
        lambda generator, device: torch.randn(3, generator=generator, device=device),
        lambda generator, device: torch.rand(3, generator=generator, device=device),
        lambda generator, device: torch.randperm(3, generator=generator, device=device),
        lambda generator, device: torch.randint(3, (2,), generator=generator, device=device),
        lambda generator, device: torch.empty(3, device=device).normal_(generator=generator),
        lambda generator, device: nn.init.normal_(torch.empty(3, device=device), generator=generator),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_generator_is_of_the_device_it_draws_for(cuda, draw, device):
    other = {"cpu": "cuda", "cuda": "cpu"}[device]
    assert draw(step_generator(0, 0, device=device), device).device.type == device
    with pytest.raises(DeviceMixError, match="generator"):
        draw(step_generator(0, 0, device=other), device)


@pytest.mark.parametrize(
    ("reason", "read"),
    [
        ("item", lambda x: x[0, 0].item()),
        ("item", lambda x: bool((x > 2).any())),
        ("item", lambda x: int(x.sum())),
        ("item", lambda x: 1 if x.isfinite().all() else 0),
        ("copy to the host", lambda x: x.tolist()),
        ("copy to the host", lambda x: x.cpu().numpy()),
        ("copy to the host", lambda x: torch.empty(3, 3).copy_(x)),
        ("nonzero", lambda x: x.nonzero()),
        ("boolean indexing", lambda x: x[x > 0]),
        ("boolean indexing", lambda x: torch.masked_select(x, x > 0)),
        ("boolean indexing", lambda x: x.clone().index_put_((x > 0,), x[0, 0].expand(9), accumulate=True)),
        ("repeat_interleave", lambda x: x.repeat_interleave(torch.ones(3, device="cuda").long(), 0)),
        ("equal", lambda x: torch.equal(x, x)),
        ("copy from pageable memory", lambda x: torch.ones(3).to("cuda")),
        ("copy from pageable memory", lambda x: torch.ones(3).to("cuda", non_blocking=True)),
        ("copy from pageable memory", lambda x: torch.ones(3).pin_memory().to("cuda")),
        ("copy from pageable memory", lambda x: torch.tensor([1.0], device="cuda")),
        ("copy from pageable memory", lambda x: torch.where(x > 0, x, torch.tensor(2.0))),
        ("copy from pageable memory", lambda x: x.clone().index_put_((x[0].long(),), torch.tensor(2.0))),
        ("index on the host", lambda x: x[torch.tensor([0, 1])]),
        ("synchronize", lambda x: torch.cuda.synchronize()),
    ],
)
def test_each_kind_of_wait_is_counted_once(cuda, reason, read):
    x = torch.ones(3, 3, device="cuda")
    assert waits_of(cuda, lambda: read(x)) == {reason: 1}


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x @ x + 1,
        lambda x: torch.where(x > 0, x, 0.0),
        lambda x: x.clone().__setitem__((0, 0), 2.0),
        lambda x: x[x.argmax(1)],
        lambda x: x.clone().masked_fill_(x > 0, 1.0),
        lambda x: torch.full((3,), 1.0, device="cuda"),
        lambda x: torch.zeros_like(x)[:, 0].copy_(x[0]),
        lambda x: torch.ones(3).pin_memory().to("cuda", non_blocking=True),
        lambda x: x.to("cpu", non_blocking=True),
        lambda x: torch.empty(3, pin_memory=True).to("cuda", non_blocking=True),
    ],
)
def test_work_without_an_answer_waits_for_nothing(cuda, work):
    x = torch.ones(3, 3, device="cuda")
    assert waits_of(cuda, lambda: work(x)) == {}


def test_place_of_a_wait_and_launches_are_counted(cuda):
    x = torch.ones(3, 3, device="cuda")
    cuda.clear()
    (x.t()[0] + 1).mul_(2).sum().item()
    [place] = cuda.places
    assert place.startswith("item: model/test_fake_cuda.py:")
    assert cuda.launches == {"add": 1, "mul_": 1, "sum": 1}


def test_values_beneath_are_those_of_the_cpu():
    with FakeCuda() as cuda:
        x = torch.arange(6.0).view(2, 3)
        there = x.to("cuda").requires_grad_()
        (there[there > 2].square().sum() * 2).backward()
        assert there.grad.cpu().tolist() == [[0, 0, 0], [12, 16, 20]]
        assert cuda.waits == {"copy from pageable memory": 1, "boolean indexing": 2, "copy to the host": 1}
        with pytest.raises(TypeError, match="numpy"):
            there.detach().numpy()


def test_autocast_makes_products_in_bfloat16_and_sums_in_float32(cuda):
    layer, x = nn.Linear(3, 3).to("cuda"), torch.ones(2, 3, device="cuda")
    assert choose_device("auto").type == "cuda"
    with torch.autocast("cuda", torch.bfloat16):
        product = layer(x)
        normed = F.layer_norm(product, (3,))
    assert (product.dtype, normed.dtype, layer(x).dtype) == (torch.bfloat16, torch.float32, torch.float32)


def test_graph_computes_when_it_is_replayed_and_refuses_waits():
    with FakeCuda() as cuda:
        x, graph = torch.ones(2, device="cuda"), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = (x + 1).mul_(2)
        assert y.isnan().all().item()
        x.fill_(5)
        graph.replay()
        assert y.tolist() == [12, 12]
        cuda.clear()
        graph.replay()
        assert cuda.launches == {"graph": 1}
        with pytest.raises(RuntimeError, match="capturing"), torch.cuda.graph(torch.cuda.CUDAGraph()):
            x.sum().item()


def test_nothing_remains_after_the_context():
    with FakeCuda():
        left = torch.ones(3, device="cuda")
    assert not torch.cuda.is_available()
    assert torch.Generator is type(step_generator(0, 0))
    with pytest.raises(RuntimeError, match="FakeCuda"):
        left + 1


# --- our code on it ---


def clips(num_frames=4):
    return torch.randn(3, 4, num_frames, 2, 3, generator=step_generator(3, 0))


def on_cuda(*tensors):
    return [tensor.to("cuda") for tensor in tensors]


@pytest.fixture
def fake():
    with FakeCuda() as fake:
        yield fake


HEADS, OBJECTIVES = ("flow", "ddpm"), ("single_frame", "all_frames")


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_training_step_stays_on_the_gpu(fake, params, captions, head, objective):
    """Loss, backward through checkpointed blocks, clipping, AdamW and the moving average."""
    train = dataclasses.replace(params.train, objective=objective, cond_drop_prob=0.5, history_noise=0.2)
    shape = ModelShape(
        dataclasses.replace(params.model, head=head, conditions=("motion", "history_noise")), 4, 6, 5
    )
    state = new_state(shape, train, DEVICE)
    recompute_blocks(state.model)
    loss_of = Loss(state.model, "bfloat16")
    batch = Clips(*on_cuda(clips(), *captions), {"motion": torch.zeros(3, device="cuda")})
    fake.clear()
    losses = loss_of(batch, train, step_generator(0, 0, device="cuda"))
    losses.mean.backward()
    clip_grad_norm(state.model.parameters(), 1.0)
    state.optimizer.step()
    update_ema(state.ema, state.model, 0.9)
    assert not fake.waits, fake.places
    weights = [*state.model.parameters(), *state.ema.parameters()]
    moments = [value for each in state.optimizer.state.values() for value in each.values()]
    assert all(isinstance(x, CudaTensor) for x in [*weights, *moments, losses.sums])
    assert all(isinstance(x.grad, CudaTensor) for x in state.model.parameters() if x.grad is not None)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("cfg_scale", [1.0, 2.0])
def test_generation_stays_on_the_gpu(fake, params, captions, head, cfg_scale):
    """A clip longer than its window, with and without guidance."""
    network = lively_model(dataclasses.replace(params.model, head=head)).to("cuda")
    sampling = dataclasses.replace(
        params.sample, num_unmask_steps=2, num_diffusion_steps=2, cfg_scale=cfg_scale, window_frames=3
    )
    context, text, mask = on_cuda(clips(1), *captions)
    noise = step_generator(0, 0, device="cuda")
    fake.clear()
    made = network.generate(context, 4, text, mask, sampling, noise)
    assert isinstance(made, CudaTensor)
    assert made.shape == (3, 4, 4, 2, 3)
    # Is the context finite? The seeds of the rows. One check of each recorded step.
    recorded = fake.waits.pop("equal")
    assert fake.waits == {"item": 1, "copy to the host": 1}, fake.places
    assert recorded <= 2 * (2 if cfg_scale == 1 else 4), fake.places


# --- presets, without storage ---


def preset_network(name):
    """The whole network of a preset, on the GPU, and a moving average."""
    preset = PRESETS[name]
    shape = ModelShape(preset.model, 16, *reversed(preset.caption))
    with torch.device("cuda"):
        model = shape.build().initialise(step_generator(0, -1, device="cuda"))
    return model, copy.deepcopy(model).requires_grad_(False)


def preset_clips(name, batch_size):
    preset = PRESETS[name]
    side = preset.size_px // preset.space_stride
    latents = torch.zeros(batch_size, 16, preset.latent_frames, side, side, device="cuda")
    text = torch.zeros(batch_size, *preset.caption, device="cuda")
    mask = torch.ones(batch_size, preset.caption[0], dtype=torch.bool, device="cuda")
    conditions = {name: torch.zeros(batch_size, device="cuda") for name in ("fps", "motion")}
    return Clips(latents, text, mask, conditions)


@pytest.mark.parametrize("name", ["small", "paper"])
def test_training_step_of_a_preset_waits_for_nothing(name):
    with FakeCuda(values=False) as cuda:
        model, ema = preset_network(name)
        train = train_params(PRESETS[name].objective, 2, 1e-4, "bfloat16")
        optimizer = make_optimizer(model, train)
        recompute_blocks(model)
        loss_of, batch = Loss(model, "bfloat16"), preset_clips(name, 2)
        cuda.clear()
        loss_of(batch, train, step_generator(0, 0, device="cuda")).mean.backward()
        clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        update_ema(ema, model, 0.99)
        assert not cuda.waits, cuda.places
        assert all(isinstance(x.grad, CudaTensor) for x in model.parameters() if x.grad is not None)


@pytest.mark.parametrize("name", ["small", "paper"])
def test_generation_of_a_preset_is_one_launch_a_step_of_the_head(name, params):
    steps = 3
    sampling = dataclasses.replace(
        params.sample, num_unmask_steps=2, num_diffusion_steps=steps, final_diffusion_steps=steps
    )
    sampling = dataclasses.replace(sampling, cfg_scale=3.0)
    with FakeCuda(values=False) as cuda:
        model, _ = preset_network(name)
        clips = preset_clips(name, 1)
        noise = step_generator(0, 0, device="cuda")
        cuda.clear()
        made = model.generate(clips.latents[:, :, :1], 3, clips.text, clips.text_mask, sampling, noise)
        assert made.shape == (1, 16, 3, *clips.latents.shape[3:])
        # Beside them, one launch for the check of each recording, whose answer is waited for.
        checks = cuda.launches["graph"] - 2 * 2 * steps
        assert 0 < checks <= cuda.waits.pop("equal")
        assert cuda.waits == {"item": 1, "copy to the host": 1}, cuda.places

"""What must hold on a real GPU: `pytest -m gpu` on a machine with torch and the bare libraries.

`test_fake_cuda.py` tests devices and waits without one; here are real kernels, and PyTorch's own check of
waits.
"""

import contextlib
import copy
import dataclasses
import shutil

import pytest
import torch

from benchmarks.gpu import SAMPLING
from benchmarks.training_subjects import train_params
from tests.conftest import lively_model
from tests.support.fake_cuda import NAME as FAKE_NAME
from videomar.checkpoint.manifest import ModelShape
from videomar.compute.device import (
    autocast,
    choose_device,
    fetch,
    full_float32,
    has_bfloat16,
    repeat_exactly,
    send,
)
from videomar.compute.seeding import step_generator
from videomar.config import ModelParams
from videomar.encoders.causal import CausalShape, CausalTokenizer
from videomar.encoders.load import load_tokenizer
from videomar.model import generation
from videomar.model.attention import attend, block_mask, token_mask
from videomar.model.frames import complete_and_masked
from videomar.model.objective import Clips, draw_hidden
from videomar.model.replay import Replayed
from videomar.training.optim import update_ema
from videomar.training.parallelize import Loss, clip_grad_norm, compile_blocks, recompute_blocks
from videomar.training.state import new_state

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
MODEL = ModelParams(
    hidden_size=64, depth=2, num_heads=2, mlp_ratio=4.0, rope_axis_dims=(16, 8, 8), patch_size=1,
    head_width=64, head_depth=2, head="flow", conditions=("motion", "history_noise"),
    residual=True, feed_previous=True,
)  # fmt: skip
SAMPLE = dataclasses.replace(SAMPLING["small"], num_unmask_steps=3, cfg_scale=2.0)
HEADS, OBJECTIVES = ("flow", "ddpm"), ("single_frame", "all_frames")


def require_real_gpu(beyond):
    """Skip a test of what a fake GPU (tests/support/fake_cuda.py) cannot stand for."""
    if torch.cuda.get_device_name() == FAKE_NAME:
        pytest.skip(f"a fake GPU does not reach {beyond}")


def require_triton():
    require_real_gpu("compiled kernels")
    if not pytest.importorskip("torch.utils._triton").has_triton():
        pytest.skip("needs Triton")


# Relative to the spread of the values: bfloat16 has 8 bits.
BF16_ERROR = 0.1


def clips(num_frames=4):
    return torch.randn(3, 4, num_frames, 2, 3, generator=step_generator(3, 0))


def batch_on(device, captions):
    motion = {"motion": torch.tensor([0.5, 1.0, torch.nan])}
    tensors = [part.to(device) for part in (clips(), *captions)]
    return Clips(*tensors, {name: values.to(device) for name, values in motion.items()})


def train(objective, **changes):
    changes = {"history_noise": 0.2, "cond_drop_prob": 0.5} | changes
    return dataclasses.replace(train_params(objective, 3, 5e-3, "bfloat16"), **changes)


@pytest.fixture
def repeatable():
    """Kernels with one order of additions, as `train` asks for."""
    repeat_exactly(torch.device("cuda"))
    yield
    torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def waits_refused():
    """PyTorch raises an error at whatever makes the host wait."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("head", HEADS)
def test_trunk_and_head_compute_what_the_cpu_computes(captions, head, measured):
    model = lively_model(dataclasses.replace(MODEL, head=head))
    mask = torch.zeros(3, 4, 6, dtype=torch.bool)
    mask[:, -1, ::2] = True
    inputs = (clips(), mask, *captions)
    here = model.trunk(*inputs)
    noisy, time = torch.randn(9, 4, generator=step_generator(4, 0)), torch.full((9,), 1.0)
    said = model.head.predict(noisy, time, here.flatten(0, 2)[:9])
    on_gpu = model.to("cuda")
    with full_float32():
        there = on_gpu.trunk(*(part.to("cuda") for part in inputs))
        drawn = on_gpu.head.predict(noisy.to("cuda"), time.to("cuda"), here.to("cuda").flatten(0, 2)[:9])
    measured(f"{head}: hidden vectors on CUDA and CPU, float32", (there.cpu() - here).abs().max(), 1e-3)
    measured(f"{head}: head on CUDA and CPU, float32", (drawn.cpu() - said).abs().max(), 1e-3)
    with autocast(torch.device("cuda")):
        narrow = on_gpu.trunk(*(part.to("cuda") for part in inputs))
    error = (narrow.float().cpu() - here).square().mean().sqrt() / here.std()
    measured(f"{head}: hidden vectors in bfloat16, relative", error, BF16_ERROR)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_and_gradients_are_those_of_the_cpu(captions, head, objective, measured):
    """The same weights, tokens and noise: drawn on the CPU, because devices draw differently."""
    params = train(objective, history_noise=0.0, cond_drop_prob=0.0, condition_drop_prob=0.0)
    model = lively_model(dataclasses.replace(MODEL, head=head))
    shape = (3, 4, 6)
    hidden = draw_hidden(shape, params, step_generator(5, 0))
    losses, gradients = [], []
    for device in ("cpu", "cuda"):
        network = copy.deepcopy(model).to(device)
        network.head.draw_time = lambda count, *_, device=device: torch.full((count,), 0.25, device=device)
        network.head.losses = lambda tokens, vectors, name, generator, head=network.head: head.errors(
            tokens, vectors, head.draw_time(len(tokens)).long() if head.outputs_per_channel == 2 else
            head.draw_time(len(tokens)), torch.full_like(tokens, 0.5)
        )  # fmt: skip
        with full_float32():
            loss = network.losses(
                batch_on(device, captions), params, step_generator(0, 0, device=device),
                hidden.to(torch.device(device)),
            )  # fmt: skip
            loss.mean.backward()
        losses.append(loss.mean.item())
        gradients.append(network.trunk.blocks[0].ff[0].weight.grad.cpu())
    measured(f"{head}, {objective}: loss on CUDA and CPU", abs(losses[0] - losses[1]), 1e-3 * abs(losses[0]))
    scale = gradients[0].abs().max()
    error = (gradients[0] - gradients[1]).abs().max() / scale
    measured(f"{head}, {objective}: gradients on CUDA and CPU, relative", error, 1e-2)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_training_waits_for_nothing_and_learns(captions, head, objective, repeatable):
    """Loss, backward through checkpointed blocks, clipping, fused AdamW and the moving average.

    Masks and noise are always the same, so the loss falls at once.
    """
    device, params = torch.device("cuda"), train(objective, condition_drop_prob=0.0)
    shape = ModelShape(dataclasses.replace(MODEL, head=head), 4, 6, 5)
    state = new_state(shape, params, device)
    recompute_blocks(state.model)
    loss_of, batch = Loss(state.model, "bfloat16"), batch_on(device, captions)
    losses = []
    for step in range(20):
        hidden = draw_hidden((3, 4, 6), params, step_generator(0, 0)).to(device)
        state.optimizer.zero_grad()
        # The first steps make tables, moments and workspaces.
        with waits_refused() if step > 1 else contextlib.nullcontext():
            loss = loss_of(batch, params, step_generator(0, 0, device=device), hidden)
            loss.mean.backward()
            clip_grad_norm(state.model.parameters(), 1.0)
            state.optimizer.step()
            update_ema(state.ema, state.model, 0.9)
        losses.append(loss.mean.detach())
    losses = torch.stack(losses).tolist()
    assert all(torch.isfinite(weight).all() for weight in state.model.parameters())
    assert losses[-1] < 0.9 * losses[0]
    assert any(
        not torch.equal(a, w) for a, w in zip(state.ema.parameters(), state.model.parameters(), strict=True)
    )


def test_step_has_the_same_bits_when_it_is_repeated(captions, repeatable):
    device, params, results = torch.device("cuda"), train("all_frames"), []
    for _ in range(2):
        state = new_state(ModelShape(MODEL, 4, 6, 5), params, device)
        loss_of, batch = Loss(state.model, "bfloat16"), batch_on(device, captions)
        for step in range(3):
            state.optimizer.zero_grad()
            loss_of(batch, params, step_generator(0, step, device=device)).mean.backward()
            clip_grad_norm(state.model.parameters(), 1.0)
            state.optimizer.step()
        results.append(torch.cat([weight.detach().flatten() for weight in state.model.parameters()]))
    assert torch.equal(*results)


def test_compiled_blocks_give_the_loss_of_plain_ones(captions, measured):
    require_triton()
    model, losses = lively_model(MODEL).to("cuda"), []
    for compiled in (False, True):
        if compiled:
            compile_blocks(model)
        loss_of = Loss(model, "bfloat16")
        losses.append(
            loss_of(
                batch_on("cuda", captions), train("all_frames"), step_generator(0, 0, device="cuda")
            ).mean.item()
        )
    measured("loss of compiled blocks, relative", abs(losses[0] - losses[1]) / losses[0], 0.02)


def test_attention_in_blocks_is_attention_with_a_mask(measured):
    """FlexAttention against the mask of all pairs, at a length where it is used."""
    require_triton()
    tokens, frames = torch.zeros(1, 6, 200, 1, device="cuda"), 10
    hidden = torch.zeros(1, 6, 200, dtype=torch.bool, device="cuda")
    allowed = complete_and_masked(tokens, tokens, hidden, (10, 20)).attn_mask
    assert len(allowed) == frames
    noise = step_generator(0, 0, device="cuda")
    drawn = torch.randn(3, 1, 2, 200 * frames, 32, generator=noise, device="cuda").bfloat16()
    results = []
    for mask in (token_mask(allowed, 200), block_mask(allowed, 200)):
        inputs = [tensor.clone().requires_grad_() for tensor in drawn]
        out = attend(*inputs, mask)
        out.square().sum().backward()
        results.append([out.detach(), *(tensor.grad for tensor in inputs)])
    worst = max((a - b).abs().max() / b.abs().max() for a, b in zip(*results, strict=True))
    measured("FlexAttention and masked attention with gradients, bfloat16, relative", worst, 0.03)


@pytest.mark.parametrize("head", HEADS)
def test_generation_is_a_function_of_the_seed(captions, head):
    model = lively_model(dataclasses.replace(MODEL, head=head)).to("cuda")
    inputs = [part.to("cuda") for part in captions]
    context = clips(1).to("cuda")
    first, again, other = (
        model.generate(context, 3, *inputs, SAMPLE, step_generator(seed, 0, device="cuda"))
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.isfinite(first).all()


@pytest.mark.parametrize("head", HEADS)
def test_recorded_steps_of_the_head_give_the_clip_of_plain_ones(
    captions, head, measured, monkeypatch, caplog
):
    model = lively_model(dataclasses.replace(MODEL, head=head)).to("cuda")
    inputs, context = [part.to("cuda") for part in captions], clips(1).to("cuda")
    made = []
    for recorded in (True, False):
        if not recorded:
            monkeypatch.setattr(generation, "Replayed", lambda function: function)
        made.append(model.generate(context, 4, *inputs, SAMPLE, step_generator(0, 0, device="cuda")))
    assert not caplog.messages  # it did not fall back to plain ones
    difference = (made[0] - made[1]).abs().max() / made[1].std()
    measured(f"{head}: clip with recorded steps and without, relative", difference, 0.05)


def test_recorded_function_follows_its_inputs():
    function = Replayed(lambda x, y, weight: (x * weight if y is None else torch.lerp(x, y, weight),))
    x, y = torch.randn(2, 5, 7, device="cuda")
    for turn in range(3):
        for missing in (True, False):
            given = (x + turn, None if missing else y - turn, 0.25 * turn)
            [result] = function(*given)
            expected = given[0] * given[2] if missing else torch.lerp(given[0], given[1], given[2])
            assert torch.allclose(result, expected)


def test_window_and_conditions_work_on_the_gpu_also_while_a_training_runs(captions, repeatable):
    model = lively_model(MODEL).to("cuda")
    sampling = dataclasses.replace(SAMPLE, window_frames=3, motion=1.0, history_noise=0.1)
    noise = [step_generator(0, number, device="cuda") for number in range(3)]
    made = model.generate(clips(1).to("cuda"), 5, *(part.to("cuda") for part in captions), sampling, noise)
    assert made.shape == (3, 4, 5, 2, 3)
    assert torch.isfinite(made).all()


def test_tokenizer_gives_the_latents_and_pictures_of_the_cpu(measured):
    coder = CausalTokenizer(CausalShape(channels=4, time_stride=4, space_stride=8, hidden_size=16, depth=2))
    coder.initialise(step_generator(0, 0)).eval().requires_grad_(False)
    for weight in coder.parameters():
        if not weight.any():
            weight.normal_(0, 0.1, generator=step_generator(1, 0))
    video = torch.rand(2, 3, 17, 32, 48, generator=step_generator(2, 0)) * 2 - 1
    latents = coder.encode(video, 2)
    pictures = coder.decode(latents, 2)
    coder.to("cuda")
    with full_float32():
        error = (coder.encode(video.to("cuda"), 2).cpu() - latents).abs().max()
        decoded = coder.decode(latents.to("cuda"), 2).cpu()
    measured("latents of our tokenizer on CUDA and CPU", error, 1e-3)
    measured("pictures of our tokenizer on CUDA and CPU", (decoded - pictures).abs().max(), 1e-3)


def test_torchscript_tokenizer_works_on_the_gpu(tmp_path, measured):
    require_real_gpu("TorchScript's interpreter")
    pytest.importorskip("pandas")  # a bare machine lacks it, and reads no video
    pytest.importorskip("cv2")
    from tests.encoders.conftest import Decoder, Encoder, redraw, write_torchscript

    write_torchscript(tmp_path / "coder", redraw(Encoder(4)), redraw(Decoder(4)))
    video = torch.rand(1, 3, 17, 32, 48, generator=step_generator(2, 0)) * 2 - 1
    latents = load_tokenizer(tmp_path / "coder").encode(video)
    with full_float32():
        there = load_tokenizer(tmp_path / "coder", "cuda").encode(video.to("cuda"))
    measured("latents of a TorchScript tokenizer on CUDA and CPU", (there.cpu() - latents).abs().max(), 1e-3)


def test_copies_from_pinned_memory_are_not_waited_for():
    values = torch.arange(1000.0)
    device = choose_device("auto")
    with waits_refused():
        there = send(values, device)
    assert torch.equal(there.cpu(), values)
    assert has_bfloat16(device) == (torch.cuda.get_device_capability() >= (8, 0))


def test_latents_of_a_clip_do_not_depend_on_the_clips_beside_it_in_batches_of_one_size(measured):
    coder = CausalTokenizer(CausalShape(channels=4, time_stride=4, space_stride=8, hidden_size=32, depth=2))
    coder.initialise(step_generator(0, 0)).eval().requires_grad_(False).to(choose_device("auto"))
    video = (torch.rand(8, 3, 17, 32, 32, generator=step_generator(2, 0)) * 2 - 1).to("cuda")
    together, turned = coder.encode(video), coder.encode(video.roll(3, 0)).roll(-3, 0)
    filled = coder.encode(torch.cat([video[:2], video[1:2].expand(6, -1, -1, -1, -1)]))[:2]
    measured("latents at another place of a batch", (together - turned).abs().max(), 1e-6)
    measured("latents in a batch that was filled up", (together[:2] - filled).abs().max(), 1e-6)


def test_values_come_back_while_the_gpu_goes_on():
    values = torch.arange(1000.0, device="cuda")
    with waits_refused():
        wait = fetch(values * 2)
        later = values * 3
    assert torch.equal(wait(), torch.arange(1000.0) * 2)
    assert torch.equal(later.cpu(), torch.arange(1000.0) * 3)


def test_captions_have_the_states_of_the_cpu_but_for_the_format_they_were_published_in(tmp_path, measured):
    require_real_gpu("networks that are built without memory, as by transformers")
    pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    from tests.encoders.test_text import CAPTIONS, write_model
    from videomar.encoders.text import TransformersText

    for kind in ("qwen2", "t5", "bert"):
        folder = write_model(tmp_path / kind, kind)
        here, there = TransformersText(folder, 60), TransformersText(folder, 60, device="cuda")
        with full_float32():
            pairs = zip(here.encode(CAPTIONS), there.encode(CAPTIONS), strict=True)
            error = max((ours - theirs).abs().max() for ours, theirs in pairs)
        measured(f"states of {kind} on CUDA and CPU", error, 1e-3)
    transformers.AutoModel.from_pretrained(tmp_path / "qwen2", dtype=torch.bfloat16).save_pretrained(
        tmp_path / "narrow"
    )
    write_tokenizer_files(tmp_path / "qwen2", tmp_path / "narrow")
    there = TransformersText(tmp_path / "narrow", 60, device="cuda")
    assert there.model.dtype == (torch.bfloat16 if has_bfloat16(there.device) else torch.float32)
    pairs = zip(
        TransformersText(tmp_path / "narrow", 60).encode(CAPTIONS), there.encode(CAPTIONS), strict=True
    )
    error = max((ours - theirs).abs().mean() for ours, theirs in pairs)
    measured("states of qwen2 in bfloat16 and in float32", error, 0.05)


def write_tokenizer_files(source, target):
    for path in source.glob("tokenizer*"):
        shutil.copy(path, target)

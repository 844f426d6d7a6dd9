import dataclasses
import time

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.training.conftest import files_of, with_train
from videomar.checkpoint.manifest import ModelShape
from videomar.compute.seeding import step_generator
from videomar.model.objective import Clips, draw_frames
from videomar.model.patchify import patchify
from videomar.training.loop import train
from videomar.training.optim import ema_decay_at
from videomar.training.throughput import (
    BatchShape,
    Meter,
    matmul_rate,
    sequence_frames,
    step_flops,
    supervised_tokens,
)
from videomar.training.worker import Worker

CPU = torch.device("cpu")


def batch(size=16, num_frames=5):
    """16 latent channels, 4 x 4 tokens a frame, captions of 8 tokens and 24 channels."""
    generator = step_generator(0, 0)
    latents = torch.randn(size, 16, num_frames, 4, 4, generator=generator)
    return Clips(latents, torch.randn(size, 8, 24, generator=generator), torch.ones(size, 8).bool())


def train_params(params, objective):
    return dataclasses.replace(params.train, objective=objective)


@pytest.mark.parametrize("num_frames", [1, 2, 5])
@pytest.mark.parametrize("objective", ["all_frames", "single_frame"])
@pytest.mark.parametrize("head", ["flow", "ddpm"])
def test_flops_are_those_that_torch_counts(params, objective, head, num_frames, measured):
    check_flops(params, objective, head, num_frames, 64, 0.06, measured)


def test_flops_of_a_wider_network_are_nearer(params, measured):
    """The formula counts a gradient for the inputs of first layers, which matters in tiny networks only."""
    check_flops(params, "all_frames", "flow", 5, 256, 0.01, measured)


def check_flops(params, objective, head, num_frames, width, bound, measured):
    rope = tuple(width // params.model.num_heads // share for share in (2, 4, 4))
    network = dataclasses.replace(
        params.model, head=head, conditions=(), hidden_size=width, rope_axis_dims=rope
    )
    shape = ModelShape(network, 16, 24, 8)
    model = shape.build().initialise(step_generator(0, 0))
    clips, train = batch(num_frames=num_frames), train_params(params, objective)
    counted = 0.0
    for step in range(8):  # the counter knows attention by its matrix products only
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model.loss(clips, train, step_generator(0, step)).backward()
        counted += counter.get_total_flops() / 8
    ours = step_flops(shape, BatchShape.of(clips, 1), train)
    measured(
        f"operations of a step of width {width} by formula and by torch's counter",
        abs(ours / counted - 1),
        bound,
    )


@pytest.mark.parametrize("objective", ["all_frames", "single_frame"])
def test_expected_frames_and_tokens_are_the_mean_of_those_drawn(params, objective):
    clips, train = batch(size=3), train_params(params, objective)
    shape = BatchShape.of(clips, 1)
    drawn = [
        draw_frames(patchify(clips.latents, 1), (4, 4), train, step_generator(0, step)) for step in range(400)
    ]
    frames = sum(len(frames.positions) for frames in drawn) / 400
    tokens = sum(int(frames.token_mask.sum()) for frames in drawn) / 400
    assert sequence_frames(shape, train) == pytest.approx(frames, rel=0.03)
    assert supervised_tokens(shape, train) == pytest.approx(tokens, rel=0.01)


def test_constant_mask_ratio_hides_its_share(params):
    train = dataclasses.replace(
        params.train, objective="all_frames", mask_ratio_min=0.0, mask_ratio_mean=0.49, mask_ratio_std=1e-9
    )
    # Of 2 clips 2 masked frames each; 0.49 of 16 tokens, rounded up.
    assert supervised_tokens(BatchShape(2, 3, 16), train) == pytest.approx(2 * 2 * 8)


def test_loss_is_the_mean_of_its_frames(model, captions, params):
    latents = torch.randn(3, 4, 5, 2, 3, generator=step_generator(0, 0))
    for objective in ("all_frames", "single_frame"):
        train = train_params(params, objective)
        losses = model.losses(Clips(latents, *captions), train, step_generator(0, 1))
        assert losses.sums.shape == losses.counts.shape == (5,)
        assert losses.counts[0] == 0
        assert torch.allclose(losses.sums.sum() / losses.counts.sum(), losses.mean)
        assert torch.equal(losses.mean, model.loss(Clips(latents, *captions), train, step_generator(0, 1)))
        assert not losses.sums.requires_grad


def test_frame_that_is_far_off_has_the_loss_that_shows_it(model, captions, params):
    """The last frame is huge, and in nobody's history: its error must show there and nowhere else."""
    latents = torch.randn(3, 4, 5, 2, 3, generator=step_generator(0, 0))
    latents[:, :, 4] *= 100
    losses = model.losses(Clips(latents, *captions), train_params(params, "all_frames"), step_generator(0, 1))
    by_frame = losses.sums[1:] / losses.counts[1:]
    assert by_frame[3] > 100 * by_frame[:3].max()


def test_meter_returns_rates_of_its_window_and_starts_over(params, shape):
    clips, train = batch(size=2, num_frames=3), train_params(params, "all_frames")
    meter = Meter(shape, Worker(), rate=1e9)
    assert meter.take() == {}
    for _ in range(2):
        meter.add_step([clips], train, waited_s=0.5, step_s=2.0)
        meter.add_frames(torch.tensor([0.0, 8.0, 4.0]), torch.tensor([0.0, 4.0, 4.0]))
    figures = meter.take()
    assert figures["tokens_per_s"] == 2 * 2 * 4 * 16 / 4.0
    assert figures["supervised_tokens_per_s"] == 2 * 8 / 4.0
    assert figures["data_wait_share"] == 0.25
    flops = step_flops(shape, BatchShape.of(clips, 1), train)
    assert figures["mfu"] == pytest.approx(2 * flops / 4.0 / 1e9)
    assert (figures["loss/frame_1"], figures["loss/frame_2"]) == (2.0, 1.0)
    assert "loss/frame_0" not in figures
    assert 0.05 < figures["peak_memory_gb"] < 100
    assert meter.take() == {}


def test_matmul_rate_is_near_that_of_a_large_product():
    left = torch.ones(1024, 1024)
    torch.mm(left, left)
    start = time.perf_counter()
    for _ in range(3):
        torch.mm(left, left)
    alone = 3 * 2 * 1024**3 / (time.perf_counter() - start)
    assert 0.3 < matmul_rate(CPU, torch.float32) / alone < 5


class Notes:
    """A tracker that keeps what it receives."""

    def __init__(self):
        self.figures, self.tags, self.shown = {}, {}, []

    def log(self, step, figures):
        self.figures[step] = figures

    def tag(self, values):
        self.tags |= values

    def log_preview(self, step, model):
        self.shown.append(step)

    def flush(self):
        pass


def test_run_tells_its_tracker_how_fast_it_is_and_where_its_stages_end(data, shape, params, tmp_path):
    notes = Notes()
    train(shape, data, with_train(params, preview_every=5), tmp_path / "run", Worker(), notes)
    first, last = notes.figures[2], notes.figures[12]
    for figures, frames in ((first, {1}), (last, {1, 2})):
        assert {f"loss/frame_{frame}" for frame in frames} == {key for key in figures if "/frame_" in key}
        assert 0 < figures["mfu"] < 1.5
        assert 0 < figures["data_wait_share"] < 1
        assert figures["tokens_per_s"] > figures["supervised_tokens_per_s"] > 0
    assert first["loss/stage_0"] == first["loss"]
    assert last["loss/stage_1"] == last["loss"]
    assert last["loss/stage_1"] == pytest.approx((last["loss/frame_1"] + last["loss/frame_2"]) / 2, rel=0.2)
    assert last["ema_decay"] == ema_decay_at(11, params.train.ema_decay)
    assert notes.shown == [5, 10]
    assert notes.tags["stage_0_ended"] == "after step 6: steps"
    assert notes.tags["stage_1_batch_size"] == "4"


def test_tracking_changes_no_bit_of_a_run(data, shape, params, tmp_path):
    train(shape, data, params.train, tmp_path / "tracked", Worker(), Notes())
    train(shape, data, params.train, tmp_path / "alone", Worker(), None)
    assert files_of(tmp_path / "tracked") == files_of(tmp_path / "alone")

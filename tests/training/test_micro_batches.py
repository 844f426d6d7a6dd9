"""A batch in parts is the batch: over micro-batches, over workers, and with both."""

import dataclasses

import pytest
import torch

from videomar.compute.seeding import step_generator
from videomar.model.objective import Clips
from videomar.training.curriculum import draw_of
from videomar.training.micro_batches import backward, parts_of
from videomar.training.parallelize import Loss
from videomar.training.worker import Worker


def gradients(model, parts, params):
    model.zero_grad()
    loss = backward(Loss(model, "float32"), parts, params, 1, Worker()).item()
    return loss, torch.cat([weight.grad.flatten() for weight in model.parameters()])


@pytest.fixture
def uneven(dataset, params, model):
    """Two micro-batches that hide unlike numbers of tokens: two clips of three frames, and one of two."""
    stage = params.train.curriculum[-1]
    draw = draw_of(stage, params.train)
    first, second = parts_of(3, dataset, draw, 2, Worker())
    clips = second.clips
    conditions = {name: values[:1] for name, values in clips.conditions.items()}
    short = Clips(clips.latents[:1, :, :2], clips.text[:1], clips.text_mask[:1], conditions)
    return [first, second._replace(clips=short)]


@pytest.mark.parametrize("objective", ["all_frames", "single_frame"])
def test_gradient_of_micro_batches_is_that_of_the_mean_over_all_tokens(model, uneven, params, objective):
    """Against the errors of all tokens in one pile, which is what the mean of the whole batch is."""
    settings = dataclasses.replace(params.train, objective=objective)
    copies = [part._replace(generator=part.generator.clone_state()) for part in uneven]
    counts = [part.drawn(settings, 1).num_hidden for part in copies]
    assert counts[0] != counts[1]
    model.zero_grad()
    total = sum(
        model.loss(part.clips, settings, part.generator.clone_state()) * count
        for part, count in zip(uneven, counts, strict=True)
    ) / sum(counts)
    total.backward()
    expected = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    loss, got = gradients(model, uneven, settings)
    assert loss == pytest.approx(total.item(), rel=1e-6)
    assert (got - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("objective", ["all_frames", "single_frame"])
def test_counted_tokens_are_those_that_are_learnt(model, uneven, params, objective):
    settings = dataclasses.replace(params.train, objective=objective)
    copy = uneven[0]._replace(generator=uneven[0].generator.clone_state())
    counted = copy.drawn(settings, 1).num_hidden
    learnt = model.losses(uneven[0].clips, settings, uneven[0].generator).counts
    assert counted == int(learnt.sum())


def test_one_part_has_the_gradient_of_the_plain_loss(model, dataset, params):
    """To the bit: a run without micro-batches is what it was before there were any."""
    parts = parts_of(0, dataset, draw_of(params.train.curriculum[-1], params.train), 1, Worker())
    loss, got = gradients(model, [parts[0]._replace(generator=step_generator(0, 0))], params.train)
    model.zero_grad()
    plain = model.loss(parts[0].clips, params.train, step_generator(0, 0))
    plain.backward()
    assert loss == plain.item()
    assert got.equal(torch.cat([weight.grad.flatten() for weight in model.parameters()]))


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_global_batches_are_the_same_for_any_number_of_workers(dataset, params, num_workers):
    draw = draw_of(params.train.curriculum[-1], params.train)
    for step in range(7):
        whole = dataset.batch_at(step, draw).clip_ids
        for accumulation in (1, 4 // num_workers):
            dealt = [
                part.clip_ids
                for rank in range(num_workers)
                for part in parts_of(step, dataset, draw, accumulation, Worker(rank, num_workers))
            ]
            together = [dealt[place % len(dealt)][place // len(dealt)] for place in range(draw.batch_size)]
            assert together == whole

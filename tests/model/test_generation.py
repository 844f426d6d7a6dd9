import dataclasses

import pytest
import torch

from tests.conftest import lively_model
from videomar.compute.seeding import step_generator
from videomar.errors import DataError
from videomar.model import generation
from videomar.model.generation import RowNoise, generate_frames, hidden_after
from videomar.model.patchify import patchify


@pytest.fixture
def sampling(params):
    return dataclasses.replace(
        params.sample, num_unmask_steps=3, num_diffusion_steps=4, final_diffusion_steps=4, cfg_scale=1.0
    )


def context(frames=1, rows=2, columns=3, batch_size=3):
    return torch.randn(batch_size, 4, frames, rows, columns, generator=step_generator(5, 0))


def trunk_passes(model):
    """Rows of every pass of the trunk from here on."""
    passes = []
    model.trunk.norm.register_forward_hook(lambda module, inputs, output: passes.append(len(output)))
    return passes


def test_generate_continues_the_context_unchanged(model, captions, sampling):
    given = context(2)
    clip = model.generate(given, 4, *captions, sampling, step_generator(0, 0))
    assert clip.shape == (3, 4, 4, 2, 3)
    assert torch.equal(clip[:, :, :2], given)
    assert torch.isfinite(clip).all()


@pytest.mark.parametrize("cfg_scale", [1.0, 3.0])
def test_frames_one_by_one_are_those_of_the_clip_and_cost_what_was_asked_for(
    model, captions, sampling, cfg_scale
):
    asked = dataclasses.replace(sampling, cfg_scale=cfg_scale)
    clip = model.generate(context(2), 5, *captions, asked, step_generator(0, 0))
    passes = trunk_passes(model)
    frames = generate_frames(model.trunk, model.head, context(2), 5, captions, asked, step_generator(0, 0))
    assert torch.equal(next(frames), clip[:, :, 2:3])
    one = len(passes)
    assert torch.equal(torch.cat(list(frames), 2), clip[:, :, 3:])
    assert one == 2 + asked.num_unmask_steps < len(passes)


def test_generate_is_a_function_of_the_generator(model, captions, sampling):
    first, again, other = (
        model.generate(context(), 3, *captions, sampling, step_generator(seed, 0)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("head", ["flow", "ddpm"])
@pytest.mark.parametrize("cfg_scale", [1.0, 3.0])
@pytest.mark.parametrize("threads", [1, 2])
def test_row_has_the_same_bits_whatever_is_beside_it(
    params, captions, sampling, head, cfg_scale, threads, measured, monkeypatch
):
    monkeypatch.setattr(generation, "_WORTH_THREADS", 0.0)  # so that small passes take as many as large ones
    model = lively_model(dataclasses.replace(params.model, head=head, conditions=("motion", "history_noise")))
    asked = dataclasses.replace(sampling, cfg_scale=cfg_scale, motion=4.0, history_noise=0.1)
    many = context(batch_size=5)
    rows = torch.tensor([0, 1, 2, 0, 1])
    text, mask = captions[0][rows], captions[1][rows]

    def clips(index):
        generators = [step_generator(row, 7) for row in index]
        return model.generate(many[index], 3, text[index], mask[index], asked, generators)

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = clips([0, 1, 2, 3, 4])
        alone = (clips([1])[0] - together[1]).abs().max()
        measured(f"{head}, guidance {cfg_scale}: a clip alone and among five, {threads} threads", alone, 0.0)
        assert torch.equal(clips([4, 2, 0]), together[[4, 2, 0]])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("worth", "inside"), [(2e8, 1), (0.0, 3)])
def test_small_passes_take_one_thread_and_the_caller_keeps_its_own(
    model, captions, sampling, monkeypatch, worth, inside
):
    monkeypatch.setattr(generation, "_WORTH_THREADS", worth)
    seen, between, before = set(), set(), torch.get_num_threads()
    model.trunk.norm.register_forward_hook(lambda *_: seen.add(torch.get_num_threads()))
    torch.set_num_threads(3)
    try:
        for _ in generate_frames(
            model.trunk, model.head, context(), 4, captions, sampling, step_generator(0, 0)
        ):
            between.add(torch.get_num_threads())
        assert (seen, between | {torch.get_num_threads()}) == ({inside}, {3})
    finally:
        torch.set_num_threads(before)


def test_guidance_of_nearly_one_is_no_guidance(model, captions, sampling, measured):
    plain = model.generate(context(), 3, *captions, sampling, step_generator(0, 0))
    nearly = dataclasses.replace(sampling, cfg_scale=1 + 1e-9)
    guided = model.generate(context(), 3, *captions, nearly, step_generator(0, 0))
    measured("guidance 1 + 1e-9 against no guidance", (plain - guided).abs().max(), 1e-5)


def test_guidance_changes_clips_with_a_caption_only(model, captions, sampling):
    plain = model.generate(context(), 3, *captions, sampling, step_generator(0, 0))
    strong = dataclasses.replace(sampling, cfg_scale=3.0)
    guided = model.generate(context(), 3, *captions, strong, step_generator(0, 0))
    assert not torch.allclose(plain[0], guided[0], atol=1e-3)
    assert torch.allclose(plain[2], guided[2], atol=1e-5)  # its caption is empty


def test_null_branch_is_not_computed_while_guidance_is_off(model, captions, sampling):
    strong = dataclasses.replace(sampling, cfg_scale=3.0, cfg_from=0.9)
    passes = trunk_passes(model)
    late = model.generate(context(), 2, *captions, strong, step_generator(0, 0))
    rows = passes[0] // 2
    # The context with both branches, two reveals without guidance, the last with it.
    assert passes == [2 * rows, rows, rows, 2 * rows]
    always = dataclasses.replace(strong, cfg_from=0.0)
    assert not torch.equal(late, model.generate(context(), 2, *captions, always, step_generator(0, 0)))


def test_captions_are_read_once_for_a_whole_clip(model, captions, sampling):
    calls = []
    model.trunk.blocks[0].attn2.wkv.register_forward_hook(lambda *_: calls.append(1))
    model.generate(context(), 4, *captions, sampling, step_generator(0, 0))
    assert len(calls) == 1


def test_head_steps_are_annealed_over_the_reveals(model, captions, sampling):
    annealed = dataclasses.replace(sampling, num_diffusion_steps=9, final_diffusion_steps=1)
    steps = []
    draw = model.head.sample
    model.head.sample = lambda condition, temperature, count, noise, step: (
        steps.append(count) or draw(condition, temperature, count, noise, step)
    )
    model.generate(context(), 3, *captions, annealed, step_generator(0, 0))
    assert steps == [9, 5, 1] * 2


def test_temperature_falls_from_frame_to_frame_as_in_the_paper(model, captions, sampling):
    cooling = dataclasses.replace(sampling, temperature=0.95, final_temperature=0.90, num_unmask_steps=1)
    temperatures = []
    draw = model.head.sample
    model.head.sample = lambda condition, temperature, count, noise, step: (
        temperatures.append(temperature) or draw(condition, temperature, count, noise, step)
    )
    model.generate(context(1), 5, *captions, cooling, step_generator(0, 0))
    assert temperatures == pytest.approx([0.95 - 0.05 * (frame - 1) / (5 - 1) for frame in (1, 2, 3, 4)])


@pytest.mark.parametrize("head", ["flow", "ddpm"])
def test_temperature_zero_draws_no_noise(params, captions, sampling, head):
    model = lively_model(dataclasses.replace(params.model, head=head))
    cold = dataclasses.replace(sampling, temperature=0.0, final_temperature=0.0, num_unmask_steps=1)
    first, other = (model.generate(context(), 3, *captions, cold, step_generator(s, 0)) for s in (0, 1))
    assert torch.equal(first, other)


@pytest.mark.parametrize("cfg_scale", [1.0, 3.0])
def test_token_is_the_one_before_it_plus_what_the_head_drew(params, captions, sampling, cfg_scale):
    """The one before as the network saw it: with its noise."""
    model = lively_model(dataclasses.replace(params.model, conditions=("history_noise",)))
    asked = dataclasses.replace(
        sampling, num_unmask_steps=1, cfg_scale=cfg_scale, history_noise=0.2, clamp=1e9
    )
    given, drawn, seen = context(2), [], []
    sample, run = model.head.sample, model.trunk.forward_tokens

    def kept(*inputs):
        drawn.append(sample(*inputs))
        return drawn[-1]

    def looked(frames, *others):
        if not frames.token_mask.any():
            seen.append(frames.tokens[:3, 0])
        return run(frames, *others)

    model.head.sample, model.trunk.forward_tokens = kept, looked
    clip = model.generate(given, 5, *captions, asked, step_generator(0, 0))
    made = patchify(clip, 1)
    for number, tokens in enumerate(drawn):
        change = (made[:, number + 2] - seen[number + 1]) / model.head.residual_scale
        # All tokens are revealed at once, in an order that is not known here.
        assert torch.allclose(change.sort(1).values, tokens.sort(1).values, atol=1e-5)
    assert len(drawn) == len(seen) - 1 == 3


def test_clamp_bounds_all_but_the_first_generated_frame(model, captions, sampling):
    tight = dataclasses.replace(sampling, clamp=0.01)
    clip = model.generate(context(), 4, *captions, tight, step_generator(0, 0))
    assert clip[:, :, 2:].abs().max() <= 0.01
    assert clip[:, :, 1].abs().max() > 0.01


def test_window_as_long_as_the_clip_changes_nothing_and_a_shorter_one_forgets(model, captions, sampling):
    def clip(window, given):
        asked = dataclasses.replace(sampling, window_frames=window, sink_frames=0)
        return model.generate(given, 5, *captions, asked, step_generator(0, 0))

    given = context(3)
    assert torch.equal(clip(0, given), clip(5, given))
    changed = given.clone()
    changed[:, :, 0] += 5
    # One block deep, a frame that left the window is gone; the model has two, through which traces remain.
    model.trunk.blocks = model.trunk.blocks[:1]
    assert not torch.equal(clip(0, given)[:, :, 3:], clip(0, changed)[:, :, 3:])
    assert torch.equal(clip(3, given)[:, :, 3:], clip(3, changed)[:, :, 3:])


def test_sink_is_seen_as_if_right_before_the_window(model, captions, sampling):
    """One block deep, where keys know only their own frame, a long clip equals one without the middle."""

    def frame(given, length, **changes):
        asked = dataclasses.replace(sampling, **changes)
        return model.generate(given, length, *captions, asked, step_generator(0, 0))[:, :, -1]

    model.trunk.blocks = model.trunk.blocks[:1]
    given = context(9)
    for sink, window, left in ((1, 3, [0, 8]), (1, 4, [0, 7, 8]), (2, 4, [0, 1, 8])):
        short = frame(given[:, :, left], window, window_frames=0)
        assert torch.allclose(frame(given, 10, window_frames=window, sink_frames=sink), short, atol=1e-4)
        without = frame(given, 10, window_frames=window, sink_frames=0)
        assert not torch.allclose(without, short, atol=1e-3)
    # Until the window slides a sink changes nothing.
    whole = frame(given, 10, window_frames=0, sink_frames=0)
    assert torch.equal(frame(given, 10, window_frames=10, sink_frames=2), whole)


def test_clip_longer_than_the_context_by_far_stays_finite_and_in_bounded_memory(model, captions, sampling):
    asked = dataclasses.replace(sampling, window_frames=3, sink_frames=1)
    clip = model.generate(context(), 20, *captions, asked, step_generator(0, 0))
    assert clip.shape[2] == 20
    assert torch.isfinite(clip).all()


@pytest.mark.parametrize("size", [(1, 5), (4, 2), (6, 6)])
def test_other_sizes_than_trained_are_generated(model, captions, sampling, size):
    clip = model.generate(context(1, *size), 3, *captions, sampling, step_generator(0, 0))
    assert clip.shape == (3, 4, 3, *size)


def test_motion_asked_for_changes_the_clip(conditioned_model, captions, sampling):
    clips = [
        conditioned_model.generate(
            context(), 3, *captions, dataclasses.replace(sampling, motion=motion), step_generator(0, 0)
        )
        for motion in (None, 2.0, 20.0)
    ]
    assert not torch.allclose(clips[0], clips[1], atol=1e-4)
    assert not torch.allclose(clips[1], clips[2], atol=1e-4)


def test_history_noise_changes_only_frames_after_the_first_generated(conditioned_model, captions, sampling):
    plain = conditioned_model.generate(context(), 4, *captions, sampling, step_generator(0, 0))
    noisy = dataclasses.replace(sampling, history_noise=0.3)
    other = conditioned_model.generate(context(), 4, *captions, noisy, step_generator(0, 0))
    assert torch.equal(plain[:, :, :2], other[:, :, :2])
    assert not torch.allclose(plain[:, :, 2], other[:, :, 2], atol=1e-3)


@pytest.mark.parametrize("frames", [3, 4])
def test_context_that_fills_the_clip_is_refused(model, captions, sampling, frames):
    with pytest.raises(DataError, match=f"got {frames} latent frames, expected 1 to 2"):
        model.generate(context(frames), 3, *captions, sampling, step_generator(0, 0))


def test_context_with_nan_is_refused(model, captions, sampling):
    broken = context()
    broken[0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(DataError, match="got 1 values of 72 that are not finite"):
        model.generate(broken, 3, *captions, sampling, step_generator(0, 0))


@pytest.mark.parametrize("wish", [{"motion": 3.0}, {"fps": 8.0}, {"history_noise": 0.2}])
def test_conditions_that_the_model_does_not_know_are_refused(params, captions, sampling, wish):
    deaf = lively_model(dataclasses.replace(params.model, conditions=()))
    (name,) = wish
    with pytest.raises(DataError, match=f"sample.{name}: got {wish[name]}, expected none"):
        deaf.generate(context(), 3, *captions, dataclasses.replace(sampling, **wish), step_generator(0, 0))


def test_wrong_number_of_generators_is_refused():
    with pytest.raises(ValueError, match="got 2 for 3 rows"):
        RowNoise([step_generator(0, 0)] * 2, 3)


def test_padding_of_a_batch_copies_the_last_row():
    noise = RowNoise([step_generator(0, 0), step_generator(1, 0)], 2).padded(4).normal(3)
    assert torch.equal(noise[1], noise[2])
    assert torch.equal(noise[1], noise[3])
    assert not torch.equal(noise[0], noise[1])


@pytest.mark.parametrize("num_tokens", [1, 2, 7, 16, 60, 256])
@pytest.mark.parametrize("num_steps", [1, 2, 8, 64, 300])
def test_reveals_sum_to_all_tokens_and_never_stall(num_tokens, num_steps):
    hidden = num_tokens
    for step in range(num_steps):
        after = hidden_after(step, num_steps, num_tokens, hidden)
        assert after < hidden or hidden == 0
        hidden = after
        if hidden == 0:
            break
    assert hidden == 0


def test_reveals_start_slowly_and_end_fast():
    hidden, shown = 64, []
    for step in range(8):
        after = hidden_after(step, 8, 64, hidden)
        shown.append(hidden - after)
        hidden = after
    assert shown[0] < shown[-1]

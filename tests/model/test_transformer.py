import dataclasses
import math

import pytest
import torch
import yaml

from tests.conftest import ROOT, lively_model
from videomar.compute.seeding import step_generator
from videomar.config import ModelParams
from videomar.config.models import CONDITIONS
from videomar.errors import DataError
from videomar.model.frames import Frames, causal, frames_before
from videomar.model.kv_cache import KVCache
from videomar.model.patchify import patchify, token_grid, unpatchify
from videomar.model.rope import grid_positions, rotate, rotation_at
from videomar.model.videomar import VideoMAR

GRID = (2, 3)


def clips(num_frames=4, batch_size=3):
    return torch.randn(batch_size, 4, num_frames, *GRID, generator=step_generator(3, 0))


def test_patchify_round_trip_keeps_every_value():
    latents = torch.randn(2, 4, 3, 4, 6)
    tokens = patchify(latents, 2)
    assert tokens.shape == (2, 3, 6, 16)
    assert torch.equal(unpatchify(tokens, 2, (2, 3)), latents)


def test_patchify_orders_channel_then_row_then_column():
    latents = torch.arange(2 * 2 * 2).view(1, 2, 1, 2, 2)
    assert patchify(latents, 2).flatten().tolist() == list(range(8))


def test_rope_scores_depend_on_relative_offsets_only(measured):
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64).unbind(0)
    dims = (8, 4, 4)

    def score(at, other):
        turned = [rotate(x, rotation_at(torch.tensor([place]), dims)) for x, place in ((q, at), (k, other))]
        return (turned[0] * turned[1]).sum()

    near = score((1, 2, 3), (0, 1, 1))
    far = score((11, 7, 5), (10, 6, 3))
    measured("RoPE: score of one offset at two places", (near - far).abs(), 1e-5)
    assert not torch.allclose(near, score((1, 2, 3), (0, 1, 2)), atol=1e-3)


def test_positions_run_by_frame_then_row_then_column():
    positions = grid_positions(torch.arange(5, 7), (1, 2))
    assert positions.tolist() == [[5, 0, 0], [5, 0, 1], [6, 0, 0], [6, 0, 1]]


def test_future_frames_leave_hidden_vectors_bitwise_unchanged(model, captions, measured):
    latents = clips()
    mask = torch.zeros(3, 4, 6, dtype=torch.bool)
    mask[:, :, ::2] = True
    before = model.trunk(latents, mask, *captions)
    changed = latents.clone()
    changed[:, :, 2:] += 1
    after = model.trunk(changed, mask, *captions)
    error = (before[:, :2] - after[:, :2]).abs().max()
    measured("hidden vectors of frames before a changed one", error, 0.0)
    assert not torch.equal(before[:, 2], after[:, 2])


def test_frames_are_bidirectional_inside(model, captions):
    latents = clips()
    mask = torch.zeros(3, 4, 6, dtype=torch.bool)
    changed = latents.clone()
    changed[:, :, 1, -1, -1] += 1
    difference = model.trunk(latents, mask, *captions) - model.trunk(changed, mask, *captions)
    assert difference[:, 1, 0].abs().max() > 1e-5


PRESETS = {
    "default": {},
    "ddpm": {"head": "ddpm"},
    "paper": {"head": "ddpm", "conditions": (), "residual": False, "feed_previous": False},
    "with conditions": {"conditions": CONDITIONS},
    "patches": {"patch_size": 2},
    "deep": {"depth": 5, "num_heads": 4, "rope_axis_dims": (4, 2, 2)},
}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("grid", [(2, 3), (3, 1), (1, 4)])
def test_cached_frames_equal_the_whole_pass(params, captions, preset, grid, measured):
    model = lively_model(dataclasses.replace(params.model, **PRESETS[preset]))
    size = model.params.patch_size
    latents = torch.randn(3, 4, 4, grid[0] * size, grid[1] * size, generator=step_generator(3, 0))
    num_tokens = grid[0] * grid[1]
    tokens = patchify(latents, size)
    previous = frames_before(tokens)
    token_mask = torch.zeros(3, 4, num_tokens, dtype=torch.bool)
    token_mask[:, 3, ::2] = True
    whole = model.trunk(latents, token_mask, *captions)
    cache, conditioning = KVCache(4 * num_tokens), model.trunk.encode_text(*captions)
    for index in range(4):
        now = slice(index, index + 1)
        frame = Frames(tokens[:, now], token_mask[:, now], previous[:, now], grid, torch.tensor([index]))
        draft = frame._replace(token_mask=torch.ones(3, 1, num_tokens, dtype=torch.bool))
        model.trunk.forward_tokens(draft, conditioning, cache)  # a draft leaves no trace
        cached = model.trunk.forward_tokens(frame, conditioning, cache)
        cache.commit(num_tokens)
        error = (cached[:, 0] - whole[:, index]).abs().max()
        measured(f"cached frame by frame = one pass ({preset}, {grid[0]}x{grid[1]} tokens)", error, 1e-5)


def test_hidden_tokens_do_not_leak(model, captions):
    latents = clips()
    mask = torch.zeros(3, 4, 6, dtype=torch.bool)
    mask[:, 2:] = True
    changed = latents.clone()
    changed[:, :, 2:] = 99
    assert torch.equal(model.trunk(latents, mask, *captions), model.trunk(changed, mask, *captions))


def test_hidden_token_is_fed_the_one_before_it_and_no_other(params, captions):
    model = lively_model(dataclasses.replace(params.model, depth=1))
    # Without attention each place keeps to itself.
    for layer in (model.trunk.blocks[0].attn1.wo, model.trunk.blocks[0].attn2.wo):
        torch.nn.init.zeros_(layer.weight)
    latents, mask = clips(), torch.zeros(3, 4, 6, dtype=torch.bool)
    mask[:, 2, :3] = True
    before = model.trunk(latents, mask, *captions)
    for frame, place, moved in ((1, 2, [2]), (1, 4, []), (0, 2, [])):
        changed = latents.clone()
        changed[:, :, frame].view(3, 4, 6)[..., place] += 1
        after = model.trunk(changed, mask, *captions)
        assert [i for i in range(6) if not torch.equal(after[:, 2, i], before[:, 2, i])] == moved


def test_padding_of_captions_has_no_effect(model, captions):
    text, mask = captions
    noisy = torch.where(mask[..., None], text, torch.randn_like(text))
    shown = torch.zeros(3, 4, 6, dtype=torch.bool)
    assert torch.equal(model.trunk(clips(), shown, text, mask), model.trunk(clips(), shown, noisy, mask))


def test_empty_caption_is_the_null_text(model, captions):
    text, mask = captions
    dropped = model.trunk.encode_text(text, mask, drop=torch.tensor([True, True, True]))
    as_is = model.trunk.encode_text(text, mask)
    for (keys, _), (null_keys, _) in zip(as_is.text, dropped.text, strict=True):
        assert torch.equal(keys[2], null_keys[0])
        assert not torch.equal(keys[0], null_keys[0])


def frame_at(index, tokens):
    nothing = torch.zeros(*tokens.shape[:3]).bool()
    return Frames(tokens, nothing, torch.zeros_like(tokens), GRID, torch.tensor([index]))


def test_cache_refuses_more_tokens_than_its_capacity(model, captions):
    frame = frame_at(0, patchify(clips(1), 1))
    with pytest.raises(ValueError, match="got 6 tokens, expected at most 4"):
        model.trunk.forward_tokens(frame, model.trunk.encode_text(*captions), KVCache(4))


def test_cache_that_forgot_a_frame_equals_a_pass_without_it_in_one_block(params, captions, measured):
    """In one block a frame's keys hold nothing of earlier frames, so that forgetting one is exact."""
    model = lively_model(dataclasses.replace(params.model, depth=1))
    tokens, conditioning, cache = patchify(clips(4), 1), model.trunk.encode_text(*captions), KVCache(18)
    for index in range(4):
        cache.make_room(6)
        last = model.trunk.forward_tokens(frame_at(index, tokens[:, index : index + 1]), conditioning, cache)
        cache.commit(6)
    later = frame_at(1, tokens[:, 1:])._replace(positions=torch.arange(1, 4))
    positions = torch.arange(3)
    whole = model.trunk.forward_tokens(
        later._replace(attn_mask=positions[:, None] >= positions), conditioning
    )
    error = (last[:, 0] - whole[:, 2]).abs().max()
    measured("cache that forgot frame 0 = pass without it (one block)", error, 1e-5)


def test_captions_longer_than_the_network_are_refused(model):
    with pytest.raises(DataError, match="got 7 tokens, expected at most 5"):
        model.trunk.encode_text(torch.zeros(1, 7, 6), torch.ones(1, 7).bool())


def test_captions_may_come_without_their_padding(model, captions):
    text, mask = captions
    padded = model.trunk.encode_text(text[:1], mask[:1])
    bare = model.trunk.encode_text(text[:1, :3], mask[:1, :3])
    assert torch.equal(padded.text_mask, bare.text_mask)
    shown = torch.zeros(1, 2, 6, dtype=torch.bool)
    frames = causal(patchify(clips(2, 1), 1), shown, GRID)
    assert torch.allclose(
        model.trunk.forward_tokens(frames, padded), model.trunk.forward_tokens(frames, bare), atol=1e-6
    )


def test_conditions_change_the_hidden_vectors_and_dropped_rows_know_none(conditioned_model, captions):
    def hidden(drop, **conditions):
        values = {name: torch.tensor([value]) for name, value in conditions.items()}
        conditioning = conditioned_model.trunk.encode_text(*captions, values, torch.full((3,), drop))
        frames = causal(patchify(clips(2), 1), torch.zeros(3, 2, 6).bool(), GRID)
        return conditioned_model.trunk.forward_tokens(frames, conditioning)

    nothing = hidden(False)
    assert torch.equal(nothing, hidden(False, motion=math.nan, fps=math.nan))
    assert not torch.allclose(nothing, hidden(False, motion=5.0), atol=1e-4)
    assert not torch.allclose(hidden(False, motion=5.0), hidden(False, motion=20.0), atol=1e-4)
    assert not torch.allclose(nothing, hidden(False, fps=8.0), atol=1e-4)
    assert torch.equal(hidden(True), hidden(True, motion=5.0, fps=8.0))


def test_noise_level_of_a_frame_reaches_it_and_later_frames_only(conditioned_model, captions):
    conditioning = conditioned_model.trunk.encode_text(*captions)
    frames = causal(patchify(clips(3), 1), torch.zeros(3, 3, 6).bool(), GRID)
    none = conditioned_model.trunk.forward_tokens(frames, conditioning)
    level = conditioned_model.trunk.forward_tokens(
        frames._replace(noise_levels=torch.tensor([[0.0, 0.5, 0.0]])), conditioning
    )
    assert torch.equal(none[:, 0], level[:, 0])
    assert (none[:, 1:] - level[:, 1:]).abs().amin((0, 2, 3)).max() < 1
    assert not torch.allclose(none[:, 1], level[:, 1], atol=1e-3)
    assert not torch.allclose(none[:, 2], level[:, 2], atol=1e-4)


def test_bf16_autocast_stays_near_float32(model, captions, measured):
    latents, mask = clips(), torch.zeros(3, 4, 6, dtype=torch.bool)
    full = model.trunk(latents, mask, *captions)
    with torch.autocast("cpu", torch.bfloat16):
        half = model.trunk(latents, mask, *captions)
    error = (half.float() - full).square().mean().sqrt() / full.square().mean().sqrt()
    assert error > 0
    measured("trunk: bf16 autocast against float32 (relative)", error, 0.02)


def test_size_that_the_patches_do_not_divide_is_refused(params):
    with pytest.raises(DataError, match="got 3x4 positions, expected multiples of model.patch_size 2"):
        token_grid(torch.zeros(1, 4, 1, 4, 3), 2)


def test_paper_preset_has_1_38_billion_parameters():
    params = yaml.safe_load((ROOT / "presets/paper.yaml").read_text())
    shape = {**params["model"], "rope_axis_dims": tuple(params["model"]["rope_axis_dims"]), "conditions": ()}
    with torch.device("meta"):
        network = VideoMAR(ModelParams(**shape), 16, 1536, params["text"]["max_tokens"])
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    assert sum(count.values()) == pytest.approx(1.38e9, rel=0.005)
    assert count["head"] == pytest.approx(20.8e6, rel=0.02)

import torch

from videomar.model.cache import KVCache
from videomar.model.patchify import patchify, unpatchify
from videomar.model.rope import grid_positions, rotate, rotation
from videomar.runtime import step_generator

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


def test_rope_scores_depend_on_relative_offsets_only():
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64).unbind(0)
    dims = (8, 4, 4)

    def score(at, other):
        turned = [rotate(x, rotation(torch.tensor([place]), dims)) for x, place in ((q, at), (k, other))]
        return (turned[0] * turned[1]).sum()

    near = score((1, 2, 3), (0, 1, 1))
    far = score((11, 7, 5), (10, 6, 3))
    assert torch.allclose(near, far, atol=1e-5)
    assert not torch.allclose(near, score((1, 2, 3), (0, 1, 2)), atol=1e-3)


def test_positions_run_by_frame_then_row_then_column():
    positions = grid_positions(range(5, 7), (1, 2), torch.device("cpu"))
    assert positions.tolist() == [[5, 0, 0], [5, 0, 1], [6, 0, 0], [6, 0, 1]]


def test_future_frames_leave_hidden_vectors_bitwise_unchanged(model, captions):
    latents = clips()
    mask = torch.zeros(3, 4, 6, dtype=torch.bool)
    before = model.trunk(latents, mask, *captions)
    changed = latents.clone()
    changed[:, :, 2:] += 1
    after = model.trunk(changed, mask, *captions)
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.equal(before[:, 2], after[:, 2])


def test_frames_are_bidirectional_inside(model, captions):
    latents = clips()
    mask = torch.zeros(3, 4, 6, dtype=torch.bool)
    changed = latents.clone()
    changed[:, :, 1, -1, -1] += 1
    difference = model.trunk(latents, mask, *captions) - model.trunk(changed, mask, *captions)
    assert difference[:, 1, 0].abs().max() > 1e-5


def test_cached_frames_equal_the_whole_pass(model, captions):
    latents = clips()
    tokens = patchify(latents, 1)
    token_mask = torch.zeros(3, 4, 6, dtype=torch.bool)
    token_mask[:, 3, ::2] = True
    whole = model.trunk(latents, token_mask, *captions)
    cache, memory = KVCache(24), model.trunk.read_text(*captions)
    for frame in range(4):
        draft = torch.ones(3, 1, 6, dtype=torch.bool)
        model.trunk.run(tokens[:, frame : frame + 1], draft, GRID, memory, cache)  # a draft leaves no trace
        hidden = token_mask[:, frame : frame + 1]
        cached = model.trunk.run(tokens[:, frame : frame + 1], hidden, GRID, memory, cache)
        cache.commit(6)
        assert torch.allclose(cached[:, 0], whole[:, frame], atol=1e-5)


def test_hidden_tokens_do_not_leak(model, captions):
    latents = clips()
    mask = torch.zeros(3, 4, 6, dtype=torch.bool)
    mask[:, 3] = True
    changed = latents.clone()
    changed[:, :, 3] = 99
    assert torch.equal(model.trunk(latents, mask, *captions), model.trunk(changed, mask, *captions))


def test_padding_of_captions_has_no_effect(model, captions):
    text, mask = captions
    noisy = torch.where(mask[..., None], text, torch.randn_like(text))
    shown = torch.zeros(3, 4, 6, dtype=torch.bool)
    assert torch.equal(model.trunk(clips(), shown, text, mask), model.trunk(clips(), shown, noisy, mask))


def test_empty_caption_is_the_null_text(model, captions):
    text, mask = captions
    dropped = model.trunk.read_text(text, mask, drop=torch.tensor([True, True, True]))
    as_is = model.trunk.read_text(text, mask)
    for (keys, _), (null_keys, _) in zip(as_is.blocks, dropped.blocks, strict=True):
        assert torch.equal(keys[2], null_keys[0])
        assert not torch.equal(keys[0], null_keys[0])


def test_cache_refuses_more_tokens_than_its_capacity(model, captions):
    import pytest

    cache = KVCache(4)
    frame = patchify(clips(1), 1)
    with pytest.raises(ValueError, match="got 6 tokens, expected at most 4"):
        model.trunk.run(frame, torch.zeros(3, 1, 6).bool(), GRID, model.trunk.read_text(*captions), cache)

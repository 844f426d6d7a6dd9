import pytest
import torch

from videomar.model.masking import draw_hidden_counts, draw_target_frames, draw_token_mask, hidden_after
from videomar.seeding import step_generator


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


def test_target_frames_are_all_but_the_first():
    target = draw_target_frames(2000, 5, step_generator(0, 0))
    counts = torch.bincount(target, minlength=5)
    assert counts[0] == 0
    assert counts[1:].min() > 400


def test_still_image_is_learnt_at_frame_zero():
    assert draw_target_frames(3, 1, step_generator(0, 0)).tolist() == [0, 0, 0]


def test_hidden_share_follows_the_truncated_normal():
    counts = draw_hidden_counts(20_000, 1000, (0.7, 1.0, 0.25), step_generator(0, 0)).float() / 1000
    assert counts.min() >= 0.7
    assert counts.max() <= 1.0
    # Mean of a normal (1, 0.25) truncated to [0.7, 1]: 1 - 0.25 (phi(0) - phi(1.2)) / (Phi(0) - Phi(-1.2)).
    assert counts.mean().item() == pytest.approx(0.867, abs=0.003)


def test_token_mask_hides_exactly_the_count():
    counts = torch.tensor([0, 3, 16])
    assert draw_token_mask(counts, 16, step_generator(0, 0)).sum(1).tolist() == [0, 3, 16]

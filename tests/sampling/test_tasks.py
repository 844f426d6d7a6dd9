import dataclasses

import pytest
import torch

from videomar.errors import DataError, ParamsError
from videomar.sampling.tasks import extrapolate_latents, tasks_of, window_of


def test_tasks_have_names_of_their_own_and_hold_those_of_the_contract(params) -> None:
    suite = dataclasses.replace(params.suite, context_frames=(1, 2, 3, 4), seeds=2)
    kinds = [task.kind for task in tasks_of(suite)]
    assert len(set(kinds)) == len(kinds)
    assert {"image", "image_wrong_prompt", "continuation", "continuation_untrained"} < set(kinds)
    assert {"continuation_seed1", "continuation_3", "continuation_4", "continuation_linear"} < set(kinds)


def test_extra_seeds_of_the_wrong_prompt_and_stretched_clips_are_few(params) -> None:
    tasks = {task.kind: task for task in tasks_of(dataclasses.replace(params.suite, seeds=2))}
    extra = {kind for kind, task in tasks.items() if task.extra}
    assert extra == {"image_wrong_prompt_seed1", "image_longer", "image_larger"}


@pytest.mark.parametrize("frames", [(1,), (2, 3), (1, 2, 2), (0, 1, 2)])
def test_context_lengths_without_the_contracts_are_refused(params, frames: tuple[int, ...]) -> None:
    with pytest.raises(ParamsError, match="suite.context_frames"):
        dataclasses.replace(params.suite, context_frames=frames)


def test_window_of_a_longer_clip_is_the_trained_length_and_holds_the_sink(params) -> None:
    def window(length: int, **changes: int) -> int:
        return window_of(dataclasses.replace(params.sample, **changes), length, 5)

    assert [window(length, window_frames=0) for length in (3, 5, 6, 17)] == [0, 0, 5, 5]
    assert window(17, window_frames=7) == window(3, window_frames=7) == 7
    assert window(17, window_frames=0, sink_frames=4) == 6
    assert window(17, window_frames=4, sink_frames=2) == 4
    for sink_frames in (-1, 3):
        with pytest.raises(ParamsError, match="sample.sink_frames"):
            window(17, window_frames=4, sink_frames=sink_frames)


def test_extrapolation_continues_a_straight_line_exactly() -> None:
    start, step = torch.randn(2, 4, 1, 3, 3), torch.randn(2, 4, 1, 3, 3)
    line = start + step * torch.arange(6).reshape(6, 1, 1)
    assert torch.allclose(extrapolate_latents(line[:, :, :2], 6), line, atol=1e-5)
    assert torch.allclose(extrapolate_latents(line[0, :, :3], 6), line[0], atol=1e-5)


def test_extrapolation_of_one_frame_repeats_it() -> None:
    latents = torch.randn(4, 1, 2, 2)
    assert torch.equal(extrapolate_latents(latents, 3), latents.expand(4, 3, 2, 2))
    assert torch.equal(extrapolate_latents(latents, 1), latents)
    for frames in (0, 1):
        with pytest.raises(DataError, match=f"expected 1 to {frames}"):
            extrapolate_latents(torch.randn(4, 2 * (1 - frames) + 2 * frames, 2, 2), frames)

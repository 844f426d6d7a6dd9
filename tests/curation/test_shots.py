"""Windows never cross a cut, and their ids are a function of content and place."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from tests.support.videos import find_shots
from videomar.config import IngestParams
from videomar.curation.shots import Shot, clip_id, split_into_clips, trim_shots


def test_shots_end_where_the_picture_changes(ingest_params: IngestParams) -> None:
    rng = np.random.default_rng(0)
    scenes = [rng.integers(0, 255, (8, 8, 3)).repeat(8, 0).repeat(8, 1) for _ in range(3)]
    frames = np.stack([scenes[0]] * 10 + [scenes[1]] * 5 + [scenes[2]] * 9).astype(np.uint8)
    shots = find_shots(frames, np.arange(24) / 8, "words", ingest_params)
    assert [(shot.start_s, shot.end_s) for shot in shots] == [(0, 1.25), (1.25, 1.875), (1.875, 3)]
    assert {shot.caption for shot in shots} == {"words"}


@pytest.mark.parametrize("seed", range(5))
def test_clips_never_cross_a_cut(seed: int, ingest_params: IngestParams) -> None:
    edges = np.sort(np.random.default_rng(seed).uniform(0, 60, 20))
    shots = [Shot(start, end) for start, end in pairwise(edges)]
    for clip in split_into_clips(shots, ingest_params):
        inside = [s for s in shots if s.start_s - 6e-4 <= clip.start_s and clip.end_s <= s.end_s + 2e-3]
        assert len(inside) == 1
        assert (clip.reason is None) == (inside[0].end_s - inside[0].start_s >= 9 / 8 - 1e-3)


def test_shot_of_exactly_one_window_is_one_clip(ingest_params: IngestParams) -> None:
    params = dataclasses.replace(ingest_params, num_frames=17)
    spans = [Shot(i * 17 / 8, (i + 1) * 17 / 8, str(i)) for i in range(32)]
    clips = split_into_clips(spans, params)
    assert [clip.caption for clip in clips] == [str(i) for i in range(32)]
    assert all(clip.reason is None for clip in clips)


def test_windows_are_a_stride_apart(ingest_params: IngestParams) -> None:
    starts = [clip.start_s for clip in split_into_clips([Shot(1.0, 3.125)], ingest_params)]
    assert starts == [1.0, 1.5, 2.0]


def test_shot_too_short_for_a_whole_clip_has_the_longest_that_fits(ingest_params: IngestParams) -> None:
    """At 8 frames a second: room for 12, 9, 8, 5 and 4 frames."""
    params = dataclasses.replace(ingest_params, num_frames=9, shorter_clips=(5, 2), stride_frames=2)
    ends = [1.5, 1.125, 1.0, 0.625, 0.5, 0.125]
    clips = [split_into_clips([Shot(0.0, end)], params) for end in ends]
    assert [[clip.num_frames for clip in found] for found in clips] == [[9, 9], [9], [5, 5], [5], [2, 2], [0]]
    assert [(clip.start_s, clip.end_s) for clip in clips[2]] == [(0.0, 0.625), (0.25, 0.875)]
    assert [clip.reason for clip in clips[5]] == ["too_short"]


def test_shorter_lengths_change_no_clip_of_a_shot_that_is_long_enough(ingest_params: IngestParams) -> None:
    shots = [Shot(0.0, 10.0), Shot(10.0, 10.5), Shot(10.5, 11.7)]
    with_shorter = dataclasses.replace(ingest_params, shorter_clips=(5, 3))
    before, after = (split_into_clips(shots, params) for params in (ingest_params, with_shorter))
    assert [clip for clip in before if not clip.reason] == [clip for clip in after if clip.num_frames == 9]


def test_spans_past_the_end_are_trimmed() -> None:
    assert trim_shots([Shot(0, 2), Shot(2, 4), Shot(4, 6)], 3.0) == [Shot(0, 2), Shot(2, 3.0)]


def test_clip_id_depends_on_content_and_place_alone() -> None:
    assert clip_id("ab", 0.1, 2.0) == clip_id("ab", 0.1 + 1e-9, 2.0)
    assert len({clip_id("ab", 0.1, 2.0), clip_id("ac", 0.1, 2.0), clip_id("ab", 0.2, 2.0)}) == 3
    assert len(clip_id("ab", 0.1, 2.0)) == 16

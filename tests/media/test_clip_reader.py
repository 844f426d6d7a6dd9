"""Clips in one pass: the pixels of `read_clips`, the memory of one clip."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.videos import ODD_NAME
from videomar.media.clip_reader import stream_clips
from videomar.media.decode import read_clips
from videomar.media.probe import UnreadableError
from videomar.media.shapes import ClipShape

STARTS_S = [1.5, 0.0, 0.25, 1.5, 5.0]


@pytest.mark.parametrize(
    "name", ["plain.mp4", "rotated.mp4", "uneven.mp4", "edit_list.mp4", "transport.ts", ODD_NAME]
)
def test_streamed_clips_equal_those_read_at_once(videos: Path, name: str, clip_shape: ClipShape) -> None:
    streamed = dict(stream_clips(videos / name, STARTS_S, clip_shape))
    assert sorted(streamed) == list(range(len(STARTS_S)))
    for number, start_s in enumerate(STARTS_S):
        [alone] = read_clips(videos / name, [start_s], clip_shape)
        np.testing.assert_array_equal(streamed[number], alone)


def test_clips_come_while_the_video_is_read(videos: Path, clip_shape: ClipShape) -> None:
    """The last starts after the end, where the last frame stays on show; until then it cannot be known."""
    order = [number for number, _ in stream_clips(videos / "long_gop.mp4", [99.0, 0.0, 9.5, 3.1], clip_shape)]
    assert order == [1, 3, 2, 0]


def test_many_clips_take_no_more_memory_than_a_few(
    videos: Path, clip_shape: ClipShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, starts_s = videos / "long_gop.mp4", [0.1 * number for number in range(130)]
    monkeypatch.setattr("videomar.media.decode._MAX_BYTES", 100 * 64 * 64 * 3)
    with pytest.raises(UnreadableError, match="too_long"):
        read_clips(path, starts_s, clip_shape)
    assert len(dict(stream_clips(path, starts_s, clip_shape))) == len(starts_s)


def test_video_that_breaks_off_is_refused_behind_the_last_clip(videos: Path, clip_shape: ClipShape) -> None:
    with pytest.raises(UnreadableError, match="damaged"):
        list(stream_clips(videos / "truncated.mp4", [0.0], clip_shape))

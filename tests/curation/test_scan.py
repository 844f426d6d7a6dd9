"""One pass with bounded memory finds the clips that the whole video holds."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.videos import find_shots, read_video
from videomar.config import IngestParams
from videomar.curation.shots import (
    Captions,
    ClipSpan,
    Shot,
    scan_clips,
    split_into_clips,
    trim_shots,
    video_end,
)
from videomar.media.clip_reader import FrameWindow, clip_frames
from videomar.media.decode import FrameBlock
from videomar.media.probe import UnreadableError, probe

Found = tuple[ClipSpan, list[float]]
NOTHING_SAID = Captions("words", [])


def blocks_of(
    frames: NDArray[np.uint8], times: NDArray[np.float64], size: int, jumps: Sequence[int] = ()
) -> Iterator[FrameBlock]:
    for first in range(0, len(times), size):
        cuts = tuple(jump - first for jump in jumps if first <= jump < first + size)
        yield FrameBlock(frames[first : first + size], times[first : first + size], cuts)


def look(params: IngestParams, clip: ClipSpan, video: FrameBlock | FrameWindow) -> Found:
    """The clip and the times of the frames that training would see."""
    times = video.times
    shape = dataclasses.replace(params, num_frames=max(2, clip.num_frames), shorter_clips=())
    return clip, [] if clip.reason else times[clip_frames(times, clip.start_s, shape)].tolist()


def scanned(blocks: Iterator[FrameBlock], captions: Captions, params: IngestParams) -> set[str]:
    found = scan_clips(Path("a.mp4"), blocks, captions, params, lambda clip, video: look(params, clip, video))
    return {repr(item) for item in found}


def expected(
    frames: NDArray[np.uint8], times: NDArray[np.float64], captions: Captions, params: IngestParams
) -> set[str]:
    shots = trim_shots(captions.spans, video_end(times)) or find_shots(frames, times, captions.whole, params)
    unique = {
        (clip.start_s, clip.end_s): look(params, clip, FrameBlock(frames, times))
        for clip in reversed(split_into_clips(shots, params))
    }
    return {repr(item) for item in unique.values()}


def film(seed: int, num_frames: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Shots of flat colours, at uneven times, some of them rounded to the millisecond."""
    generator = np.random.default_rng(seed)
    colours = generator.integers(0, 255, (num_frames, 3))
    cuts = generator.random(num_frames) < 0.02
    shown = colours[np.maximum.accumulate(np.where(cuts, np.arange(num_frames), 0))]
    frames = np.broadcast_to(shown[:, None, None], (num_frames, 8, 8, 3)).astype(np.uint8)
    steps = generator.choice([1 / 24, 1 / 24, 0.125, 0.021], num_frames - 1)
    times = np.concatenate([[0.0], np.cumsum(steps)])
    return frames, times.round(3) if seed % 2 else times


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("stride_frames", "shorter"), [(1, ()), (4, ()), (20, ()), (4, (5, 2))])
def test_clips_are_those_of_the_whole_video(
    seed: int, stride_frames: int, shorter: tuple[int, ...], ingest_params: IngestParams
) -> None:
    params = dataclasses.replace(ingest_params, stride_frames=stride_frames, shorter_clips=shorter)
    frames, times = film(seed, 700)
    wanted = expected(frames, times, NOTHING_SAID, params)
    assert len(wanted) > 10
    for size in (1, 7, 64, 1000):
        assert scanned(blocks_of(frames, times, size), NOTHING_SAID, params) == wanted


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_clips_of_captioned_spans_are_those_of_the_whole_video(
    size: int, ingest_params: IngestParams
) -> None:
    frames, times = film(0, 500)
    spans = [(5.0, 12.0), (0.0, 1.2), (0.3, 9.0), (0.3, 9.5), (2.0, 2.4), (15.0, 900.0), (800.0, 900.0)]
    captions = Captions("", [Shot(start, end, f"{start} to {end}") for start, end in spans])
    wanted = expected(frames, times, captions, ingest_params)
    assert len(wanted) > 20
    assert scanned(blocks_of(frames, times, size), captions, ingest_params) == wanted


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
@pytest.mark.parametrize("spans", [(), ((0.0, 9.0), (0.3, 9.5), (2.0, 3.1), (12.0, 900.0))])
def test_no_clip_spans_a_jump_of_the_stream(
    size: int, spans: tuple[tuple[float, float], ...], ingest_params: IngestParams
) -> None:
    """The jumps, where the picture stays the same, split shots and spans: as if they were written so."""
    frames, times = np.zeros((400, 8, 8, 3), np.uint8), np.arange(400) / 24
    jumps = [30, 31, 64, 199, 350]
    edges = [0.0, *times[jumps].tolist(), video_end(times)]
    pieces = [
        Shot(max(start, before), min(end, after), "words")
        for start, end in spans or [(0.0, math.inf)]
        for before, after in pairwise(edges)
        if max(start, before) < min(end, after)
    ]
    unique = {(clip.start_s, clip.end_s): clip for clip in split_into_clips(pieces, ingest_params)}
    wanted = {repr(look(ingest_params, clip, FrameBlock(frames, times))) for clip in unique.values()}
    captions = Captions("words", [Shot(start, end, "words") for start, end in spans])
    assert len(wanted) > 15
    assert scanned(blocks_of(frames, times, size, jumps), captions, ingest_params) == wanted


@pytest.mark.parametrize(
    "name", ["plain.mp4", "rotated.mp4", "uneven.mp4", "edit_list.mp4", "long_gop.mp4", "transport.ts"]
)
def test_clips_of_files_are_those_of_the_whole_video(
    videos: Path, name: str, ingest_params: IngestParams
) -> None:
    frames, times = read_video(videos / name, probe(videos / name), 64)
    found = scanned(blocks_of(frames, times, 7), NOTHING_SAID, ingest_params)
    assert found == expected(frames, times, NOTHING_SAID, ingest_params)


def test_single_frame_is_too_short(ingest_params: IngestParams) -> None:
    frames, times = film(0, 1)
    wanted = expected(frames, times, NOTHING_SAID, ingest_params)
    assert scanned(blocks_of(frames, times, 64), NOTHING_SAID, ingest_params) == wanted
    assert "too_short" in wanted.pop()


@pytest.mark.parametrize("rate", [24, 120])
def test_frames_held_grow_neither_with_the_video_nor_with_its_frame_rate(
    rate: int, ingest_params: IngestParams
) -> None:
    held = []

    def take(clip: ClipSpan, video: FrameWindow) -> None:
        held.append(len(video.times))

    def endless() -> Iterator[FrameBlock]:
        for first in range(0, 20_000, 64):
            yield FrameBlock(np.zeros((64, 4, 4, 3), np.uint8), np.arange(first, first + 64) / rate)

    scan_clips(Path("a.mp4"), endless(), NOTHING_SAID, ingest_params, take)
    assert len(held) > 300
    # Of a clip, and of a block that ends with it.
    on_grid = ingest_params.num_frames + 64 / rate * ingest_params.fps
    assert max(held[10:]) <= on_grid + 3


def test_clip_that_does_not_fit_is_refused(
    ingest_params: IngestParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("videomar.media.clip_reader._MAX_BYTES", 8 * 8 * 8 * 3)
    frames, times = film(0, 100)
    with pytest.raises(UnreadableError, match="too_long: over .* frames"):
        scanned(blocks_of(frames, times, 8), NOTHING_SAID, ingest_params)

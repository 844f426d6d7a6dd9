"""Clips in one pass, each as soon as it is complete; the end of a video as context."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.videos import ODD_NAME, read_video, run_ffmpeg
from videomar.config import Params
from videomar.errors import DataError
from videomar.media import clip_reader
from videomar.media.clip_reader import clip_frames, map_clips, read_clips, read_context
from videomar.media.decode import open_video
from videomar.media.mp4 import write_mp4
from videomar.media.probe import UnreadableError, probe
from videomar.media.shapes import ClipShape

STARTS_S = [1.5, 0.0, 0.25, 1.5, 5.0]


@pytest.mark.parametrize(
    "name", ["plain.mp4", "rotated.mp4", "uneven.mp4", "edit_list.mp4", "transport.ts", ODD_NAME]
)
def test_clips_of_one_pass_equal_those_read_alone(videos: Path, name: str, clip_shape: ClipShape) -> None:
    together = map_clips(videos / name, STARTS_S, clip_shape, lambda clip: clip)
    assert len(together) == len(STARTS_S)
    for clip, start_s in zip(together, STARTS_S, strict=True):
        [alone] = read_clips(videos / name, [start_s], clip_shape)
        np.testing.assert_array_equal(clip, alone)


def test_clips_come_while_the_video_is_read(
    videos: Path, clip_shape: ClipShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last starts after the end, where the last frame stays on show; until then it cannot be known."""
    events: list[str] = []
    append = clip_reader.FrameWindow.append

    def appended(window: clip_reader.FrameWindow, *block: Any) -> None:
        events.append("block")
        append(window, *block)

    monkeypatch.setattr(clip_reader.FrameWindow, "append", appended)
    starts_s = [99.0, 0.0, 9.5, 3.1]
    map_clips(videos / "long_gop.mp4", starts_s, clip_shape, lambda clip: events.append("clip"))
    # Blocks of 64 frames, at 24 a second: the clips end at 1.0, 4.1 and 10.5 s.
    assert events == ["block", "clip", "block", "clip", *["block"] * 2, "clip", *["block"] * 2, "clip"]


def test_many_clips_take_no_more_memory_than_a_few(
    videos: Path, clip_shape: ClipShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, starts_s = videos / "long_gop.mp4", [0.1 * number for number in range(130)]
    monkeypatch.setattr("videomar.media.clip_reader._MAX_BYTES", 100 * 64 * 64 * 3)
    with pytest.raises(UnreadableError, match="too_long"):
        read_clips(path, starts_s, clip_shape)
    assert len(map_clips(path, starts_s, clip_shape, np.mean)) == len(starts_s)


def test_video_that_breaks_off_is_refused_behind_the_last_clip(videos: Path, clip_shape: ClipShape) -> None:
    with pytest.raises(UnreadableError, match="damaged"):
        map_clips(videos / "truncated.mp4", [0.0], clip_shape, np.mean)


def test_picture_is_one_frame(tmp_path: Path, params: Params) -> None:
    Image.new("RGB", (6, 4), (200, 0, 0)).save(tmp_path / "a.png")
    frames = read_context(tmp_path / "a.png", params.ingest)
    assert frames.shape == (1, 4, 6, 3)
    assert frames[0, 0, 0].tolist() == [200, 0, 0]


def test_end_of_a_video_comes_at_the_frame_rate_of_clips(tmp_path: Path, params: Params) -> None:
    """Sixty frames at 16 a second, each lighter than the last; clips have 8 a second."""
    light = np.arange(60, dtype=np.uint8)[:, None, None, None] * np.uint8(4)
    write_mp4(tmp_path / "a.mp4", np.broadcast_to(light, (60, 32, 48, 3)), 16.0)
    frames = read_context(tmp_path / "a.mp4", params.ingest)
    assert frames.shape == (17, 32, 48, 3)
    seen = frames.mean((1, 2, 3))
    assert seen == pytest.approx(4.0 * np.arange(59 - 32, 60, 2), abs=3)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films of 70 seconds; the brightness of a frame tells its second, the key frames lie 4 seconds apart."""
    folder = tmp_path_factory.mktemp("films")
    grey = "color=black:size=64x64:rate=24:duration=70,format=gray,geq=lum='mod(N*3,240)'"
    options = ["-g", "96", "-bf", "2", "-pix_fmt", "yuv420p", "-preset", "ultrafast"]
    run_ffmpeg(folder, "-f", "lavfi", "-i", grey, *options, "film.mp4")
    for name in ("film.mkv", "film.ts", "film.avi"):
        run_ffmpeg(folder, "-i", "film.mp4", "-c", "copy", name)
    run_ffmpeg(folder, "-i", "film.mp4", "-c", "copy", "-movflags", "faststart", "front.mp4")
    whole = (folder / "front.mp4").read_bytes()
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    return folder


@pytest.mark.parametrize("held_bytes", [500_000_000, 0])
@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.ts", "film.avi"])
def test_end_of_a_long_video_has_the_frames_of_reading_it_all(
    films: Path, name: str, held_bytes: int, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its index is used or not, and whether the last seconds fit into memory or are read twice."""
    monkeypatch.setattr(clip_reader, "_HELD_BYTES", held_bytes)
    frames, times = read_video(films / name, probe(films / name), 64)
    shape = ClipShape(64, 64, params.ingest.fps, params.ingest.num_frames)
    start_s = times[-1] - (shape.num_frames - 1) / shape.fps
    expected = frames[clip_frames(times, start_s, shape)]
    given = read_context(films / name, params.ingest, (64, 64))
    assert given.shape == expected.shape
    # The decoders round differently; the next frame is lighter by three.
    assert np.abs(given.astype(int) - expected).mean(axis=(1, 2, 3)).max() < 1


def test_of_a_long_video_only_the_end_is_read_where_its_index_leads_there(
    films: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: dict[str, list[int]] = {}

    def counted(path: Path, *arguments: Any) -> Iterator[clip_reader.FrameBlock]:
        for block in open_video(path, *arguments):
            read.setdefault(path.name, []).append(len(block.times))
            yield block

    monkeypatch.setattr(clip_reader, "open_video", counted)
    for name in ("film.mp4", "film.mkv", "film.ts"):
        assert len(read_context(films / name, params.ingest)) == params.ingest.num_frames
    assert sum(read["film.mp4"]) < 10 * 24
    assert sum(read["film.mkv"]) < 10 * 24
    assert sum(read["film.ts"]) == 70 * 24


def test_end_of_a_video_that_breaks_off_is_refused(films: Path, params: Params) -> None:
    with pytest.raises(DataError, match=r"no readable video \(damaged"):
        read_context(films / "truncated.mp4", params.ingest)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(("size", "rate"), [("3840x2160", 24), pytest.param("1920x1080", 120, marks=SLOW)])
def test_large_and_fast_video_is_context_at_the_size_that_is_needed(
    size: str, rate: int, tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = f"color=gray:size={size}:rate={rate}:duration=2.5"
    run_ffmpeg(tmp_path, "-f", "lavfi", "-i", large, "-preset", "ultrafast", "-pix_fmt", "yuv420p", "a.mp4")
    monkeypatch.setattr(clip_reader, "_MAX_BYTES", 1)
    frames = read_context(tmp_path / "a.mp4", params.ingest, (256, 256))
    assert frames.shape == (17, 512, 910, 3)


def test_short_video_is_context_as_a_whole(tmp_path: Path, params: Params) -> None:
    write_mp4(tmp_path / "a.mp4", np.zeros((4, 32, 32, 3), np.uint8), 8.0)
    assert len(read_context(tmp_path / "a.mp4", params.ingest)) == 4


@pytest.mark.parametrize(("name", "content"), [("a.txt", b"no picture"), ("a.mp4", b""), ("b.png", None)])
def test_what_is_no_picture_and_no_video_is_refused(
    tmp_path: Path, params: Params, name: str, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: .*expected a picture"):
        read_context(tmp_path / name, params.ingest)

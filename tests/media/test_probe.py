"""What headers say, and which files are refused with which reason."""

import errno
from pathlib import Path

import av
import numpy as np
import pytest

from tests.media.test_decode import ffmpeg_frames
from tests.support.videos import ODD_NAME, read_video, run_ffmpeg
from videomar.errors import DataError
from videomar.media import decode, streams
from videomar.media import probe as probe_module
from videomar.media.probe import Orientation, UnreadableError, nearest_orientation, probe


def test_probe_reads_a_plain_header(videos: Path) -> None:
    info = probe(videos / "plain.mp4")
    assert (info.width, info.height, info.fps, info.num_frames) == (96, 64, 24.0, 72)
    assert (info.rotation, info.sample_aspect_ratio, info.codec) == (0, 1.0, "h264")
    assert info.duration_s == pytest.approx(3.0)


def test_probe_displays_a_rotated_video_upright(videos: Path) -> None:
    info = probe(videos / "rotated.mp4")
    assert (info.width, info.height, info.rotation) == (64, 96, 90)


def test_probe_widens_wide_pixels(videos: Path) -> None:
    info = probe(videos / "wide_pixels.mp4")
    assert (info.width, info.height, info.coded_width) == (192, 64, 96)


@pytest.mark.parametrize("ratio", ["1/1000", "1000/1"])
def test_shape_of_pixels_that_cannot_be_meant_is_ignored(videos: Path, tmp_path: Path, ratio: str) -> None:
    short = ["-i", "plain.mp4", "-frames:v", "2", "-vf", f"setsar={ratio}", "-pix_fmt", "yuv420p"]
    run_ffmpeg(videos, *short, str(tmp_path / "a.mp4"))
    info = probe(tmp_path / "a.mp4")
    assert (info.width, info.height) == (96, 64)


def test_probe_takes_any_name(videos: Path) -> None:
    assert probe(videos / ODD_NAME) == probe(videos / "plain.mp4")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty.mp4", "empty_file"),
        ("text.mp4", "not_a_video"),
        ("playlist.mp4", "not_a_video"),
        ("sound.mp4", "no_video_stream"),
    ],
)
def test_probe_refuses_with_a_reason(videos: Path, name: str, reason: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        probe(videos / name)
    assert caught.value.reason == reason


def test_probe_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        probe(tmp_path / "none.mp4")


def test_unknown_codec_is_refused(videos: Path, tmp_path: Path) -> None:
    data = (videos / "plain.mp4").read_bytes()
    assert data.count(b"avc1") == 2  # a brand of the file, and the codec of the stream
    first, second, third = data.split(b"avc1")
    (tmp_path / "a.mp4").write_bytes(first + b"avc1" + second + b"zzzz" + third)
    with pytest.raises(UnreadableError, match="unreadable: no decoder for its codec"):
        probe(tmp_path / "a.mp4")


_FLIPS = ["", "-display_hflip", "-display_vflip", "-display_hflip -display_vflip"]


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_orientation_is_that_of_the_whole_display_matrix(videos: Path, tmp_path: Path, turn: int) -> None:
    for number, flips in enumerate(_FLIPS):
        path = tmp_path / f"{number}.mp4"
        flags = ["-display_rotation", str(turn), *flips.split()]
        run_ffmpeg(videos, *flags, "-i", "plain.mp4", "-c", "copy", "-frames:v", "4", str(path))
        info = probe(path)
        frames, _ = read_video(path, info, 1000)
        assert (info.width, info.height) == ((64, 96) if turn % 180 else (96, 64))
        np.testing.assert_array_equal(frames, ffmpeg_frames(path, info.width, info.height))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ((0, 0, 0, 0), (0, False)),
        ((1, 0, 0, 1), (0, False)),
        ((-1, 0, 0, 1), (0, True)),
        ((1, 0, 0, -1), (180, True)),
        ((0, 1, -1, 0), (90, False)),
        ((0, 1, 1, 0), (270, True)),
        ((0, -1, -1, 0), (90, True)),
        ((0.87, -0.5, 0.5, 0.87), (0, False)),
        ((0.5, -0.87, 0.87, 0.5), (270, False)),
        ((0, 2, -1, 0), (90, False)),
    ],
)
def test_any_matrix_has_a_nearest_orientation(rows: tuple[float, ...], expected: tuple[int, bool]) -> None:
    matrix = np.zeros((3, 3), np.int32)
    matrix[:2, :2] = np.reshape(rows, (2, 2)) * np.array(65536)
    assert nearest_orientation(matrix.tobytes()) == Orientation(*expected)


# Each stream as size, seconds and codec; the container; the one that is the film, counted from 0.
_STREAMS = {
    "still_first": ([("320x240", 0.04, "mjpeg"), ("96x64", 2, "libx264")], "mp4", 1),
    "still_first_matroska": ([("320x240", 0.04, "mjpeg"), ("96x64", 2, "libx264")], "mkv", 1),
    "still_last": ([("96x64", 2, "libx264"), ("320x240", 0.04, "mjpeg")], "mkv", 0),
    "small_first": ([("64x64", 2, "libx264"), ("96x64", 2, "libx264")], "mp4", 1),
    "small_and_little_longer": ([("64x64", 2.04, "libx264"), ("96x64", 2, "libx264")], "mkv", 1),
    "large_and_short": ([("320x240", 0.5, "libx264"), ("96x64", 2, "libx264")], "mov", 1),
    "equal": ([("96x64", 2, "libx264"), ("96x64", 2, "libx264")], "ts", 0),
    "broadcast": ([("64x64", 2, "mpeg2video"), ("96x64", 2, "mpeg2video")], "ts", 1),
}


@pytest.mark.parametrize("name", _STREAMS)
def test_film_is_the_longest_then_the_largest_stream(tmp_path: Path, name: str) -> None:
    sources, container, expected = _STREAMS[name]
    inputs, maps, codecs = list[str](), list[str](), list[str]()
    for number, (size, seconds, codec) in enumerate(sources):
        inputs += ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate=25:duration={seconds}"]
        maps += ["-map", f"{number}:v"]
        codecs += [f"-c:v:{number}", codec]
    path = tmp_path / f"a.{container}"
    run_ffmpeg(tmp_path, *inputs, *maps, *codecs, "-pix_fmt", "yuv420p", "-strict", "-1", str(path))
    info = probe(path)
    assert info.stream_index == expected
    assert f"{info.width}x{info.height}" == sources[expected][0]
    assert info.stream is not None
    assert info.stream.startswith(f"{expected + 1} of 2: {info.codec} {info.width}x{info.height}, 2.0 s; ")
    frames, times = read_video(path, info, 1000)
    assert frames.shape == (50, info.height, info.width, 3)
    assert times[-1] == pytest.approx(1.96, abs=0.002)


def test_cover_of_a_song_is_no_film(videos: Path, tmp_path: Path) -> None:
    picture, film = str(videos / "picture.png"), str(videos / "plain.mp4")
    cover = ["-map", "0", "-map", "1", "-c", "copy", "-disposition:v:0", "attached_pic"]
    run_ffmpeg(tmp_path, "-f", "lavfi", "-i", "sine=duration=1", "sound.m4a")
    run_ffmpeg(tmp_path, "-i", picture, "-i", "sound.m4a", *cover, "song.m4a")
    with pytest.raises(UnreadableError, match="no_video_stream"):
        probe(tmp_path / "song.m4a")
    run_ffmpeg(tmp_path, "-i", picture, "-i", film, *cover, "film.mp4")
    info = probe(tmp_path / "film.mp4")
    assert (info.stream, info.codec) == (None, "h264")
    assert len(read_video(tmp_path / "film.mp4", info, 64)[1]) == 72


def test_of_very_long_streams_the_largest_is_the_film(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of packets are not read only to compare lengths."""
    monkeypatch.setattr(streams, "_MAX_PACKETS", 40)
    size = "testsrc2=size={}:rate=25:duration={}".format
    two = ["-f", "lavfi", "-i", size("64x64", 4), "-f", "lavfi", "-i", size("96x64", 3)]
    run_ffmpeg(tmp_path, *two, "-map", "0", "-map", "1", "-pix_fmt", "yuv420p", "a.mkv")
    assert probe(tmp_path / "a.mkv").stream == "2 of 2: h264 96x64, 1.6 s; 1: h264 64x64, over 1.6 s"


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE, errno.ENOSPC])
def test_fault_of_this_machine_is_no_verdict_on_the_file(
    videos: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = probe(videos / "transport.ts")

    def fails(*_: object) -> None:
        av.error.err_check(-number)

    for module in (probe_module, decode):
        monkeypatch.setattr(module, "open_container", fails)
    for read in (
        lambda: probe(videos / "transport.ts"),
        lambda: list(decode.open_video(videos / "transport.ts", info, 64)),
    ):
        with pytest.raises(DataError, match="from this machine, expected room") as refused:
            read()
        assert not isinstance(refused.value, UnreadableError)

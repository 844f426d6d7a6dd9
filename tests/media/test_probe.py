"""What headers say, and which files are refused with which reason."""

from pathlib import Path

import pytest

from tests.support.videos import ODD_NAME
from videomar.errors import DataError
from videomar.media.probe import UnreadableError, probe


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


def test_probe_takes_any_name(videos: Path) -> None:
    assert probe(videos / ODD_NAME) == probe(videos / "plain.mp4")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty.mp4", "empty_file"),
        ("text.mp4", "not_a_video"),
        ("picture.png", "not_a_video"),
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

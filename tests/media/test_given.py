import numpy as np
import pytest
from PIL import Image

from videomar.errors import DataError
from videomar.media import given
from videomar.media.given import read_given
from videomar.media.mp4 import write_mp4


def test_picture_is_one_frame(tmp_path, params):
    Image.new("RGB", (6, 4), (200, 0, 0)).save(tmp_path / "a.png")
    frames = read_given(tmp_path / "a.png", params.ingest)
    assert frames.shape == (1, 4, 6, 3)
    assert frames[0, 0, 0].tolist() == [200, 0, 0]


def test_end_of_a_video_comes_at_the_frame_rate_of_clips(tmp_path, params):
    """Sixty frames at 16 a second, each lighter than the last; clips have 8 a second."""
    light = np.arange(60, dtype=np.uint8)[:, None, None, None] * np.uint8(4)
    write_mp4(tmp_path / "a.mp4", np.broadcast_to(light, (60, 32, 48, 3)), 16.0)
    frames = read_given(tmp_path / "a.mp4", params.ingest)
    assert frames.shape == (17, 32, 48, 3)
    seen = frames.mean((1, 2, 3))
    assert seen == pytest.approx(4.0 * np.arange(59 - 32, 60, 2), abs=3)


def test_of_a_long_video_only_the_end_is_held(tmp_path, params, monkeypatch):
    """200 frames, of which a clip spans 17 and the decoder gives 64 at a time."""
    write_mp4(tmp_path / "a.mp4", np.zeros((200, 32, 32, 3), np.uint8), 8.0)
    held = []
    monkeypatch.setattr(given, "check_memory", lambda path, frames: held.append(sum(map(len, frames))))
    assert len(read_given(tmp_path / "a.mp4", params.ingest)) == 17
    assert max(held) <= 128


def test_short_video_gives_what_it_has(tmp_path, params):
    write_mp4(tmp_path / "a.mp4", np.zeros((4, 32, 32, 3), np.uint8), 8.0)
    assert len(read_given(tmp_path / "a.mp4", params.ingest)) == 4


@pytest.mark.parametrize(("name", "content"), [("a.txt", b"no picture"), ("a.mp4", b""), ("b.png", None)])
def test_what_is_no_picture_and_no_video_is_refused(tmp_path, params, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: .*expected a picture"):
        read_given(tmp_path / name, params.ingest)

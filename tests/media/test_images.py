from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videomar.errors import DataError
from videomar.media.images import read_picture
from videomar.media.mp4 import write_mp4
from videomar.media.probe import probe


def test_picture_round_trip_from_path_and_bytes(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read_picture(tmp_path / "a.png"), pixels)
    assert np.array_equal(read_picture((tmp_path / "a.png").read_bytes()), pixels)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_picture_of_any_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 3)).save(tmp_path / "a.tiff")
    assert read_picture(tmp_path / "a.tiff").shape == (3, 4, 3)


def test_picture_is_turned_as_its_tag_says(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 4))
    tag = picture.getexif()
    tag[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=tag)
    assert read_picture(tmp_path / "a.jpg").shape == (8, 4, 3)


def test_picture_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(DataError, match="no readable picture"):
        read_picture(tmp_path / "a.png")
    with pytest.raises(DataError, match="no such file"):
        read_picture(tmp_path / "b.png")
    with pytest.raises(DataError, match="no readable picture"):
        read_picture(tmp_path)
    Image.new("1", (9000, 9000)).save(tmp_path / "large.png")
    with pytest.raises(DataError, match="9000x9000"):
        read_picture(tmp_path / "large.png")


@pytest.mark.parametrize("name", ["a.mp4", "-y.mp4", "file:a$(x) b.mp4"])
def test_mp4_is_written_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    write_mp4(Path(name), np.zeros((5, 32, 31, 3), np.uint8), 8.0)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    info = probe((tmp_path / name).rename(tmp_path / "plain.mp4"))
    assert (info.width, info.height, info.fps) == (32, 32, 8.0)


def test_mp4_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_mp4(tmp_path / "a.mp4", np.zeros((2, 8, 8, 3), np.uint8), 8.0)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]

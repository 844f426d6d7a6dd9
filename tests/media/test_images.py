import contextlib
import io
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from tests.support.pictures import tiff
from videomar.errors import DataError
from videomar.media.images import is_picture, read_picture
from videomar.media.mp4 import write_mp4
from videomar.media.probe import probe


def test_picture_round_trip_from_path_and_bytes(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read_picture(tmp_path / "a.png"), pixels)
    assert np.array_equal(read_picture((tmp_path / "a.png").read_bytes()), pixels)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(
            (kind, "a.mp4")
            for kind in ("AVIF", "BMP", "DDS", "DIB", "GIF", "ICNS", "JPEG", "JPEG2000", "MPO")
        ),
        *((kind, "a") for kind in ("PCX", "PNG", "PPM", "QOI", "SGI", "TIFF", "WEBP")),
        *(("TGA", "a.tga"), ("IM", "a.IM"), ("SPIDER", "a.spi"), ("BLP", "a.blp"), ("ICO", "a.ico")),
    ],
)
def test_every_format_is_known_by_its_bytes_and_not_by_its_name(tmp_path: Path, kind: str, name: str) -> None:
    """But for three that begin with nothing of their own."""
    pixels = np.full((256, 256, 3), 102, np.uint8)
    pixels[:, 128:] = 204
    picture = Image.fromarray(pixels)
    mode = {"BLP": "P", "SPIDER": "F"}.get(kind, "RGB")
    with (tmp_path / name).open("wb") as file:
        picture.convert(mode).save(file, kind)
    shown = read_picture(tmp_path / name)
    assert is_picture(tmp_path / name)
    height, width, _ = shown.shape
    assert abs(int(shown[height // 2, width // 4, 0]) - 102) <= 3
    assert abs(int(shown[height // 2, 3 * width // 4, 0]) - 204) <= 3


def several(path: Path, kind: str, **options: object) -> Path:
    first, *rest = [Image.new("RGB", (16, 16), (grey, grey, grey)) for grey in (60, 130, 200)]
    first.save(path, kind, save_all=True, append_images=rest, **options)
    return path


@pytest.mark.parametrize("kind", ["MPO", "TIFF"])
def test_first_of_several_pictures_is_used(tmp_path: Path, kind: str) -> None:
    """A phone's JPEG file has a gain map or a depth map behind its picture."""
    path, notes = several(tmp_path / "a.jpg", kind), list[str]()
    assert is_picture(path)
    assert np.abs(read_picture(path, notes.append).astype(int) - 60).max() <= 1
    assert notes == (["it has several pages; the first is used"] if kind == "TIFF" else [])


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF"])
def test_animation_is_a_video_and_no_picture(tmp_path: Path, kind: str) -> None:
    path = several(tmp_path / "a.png", kind, duration=100)
    assert not is_picture(path)
    with pytest.raises(DataError, match="got an animation, expected one picture; save one of its frames"):
        read_picture(path)


def test_videos_and_other_files_are_no_pictures_whatever_their_names(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", np.zeros((5, 32, 32, 3), np.uint8), 8.0)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.mp4").read_bytes())
    (tmp_path / "a.tga").write_bytes((tmp_path / "a.mp4").read_bytes())
    (tmp_path / "program.ps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (tmp_path / "stream.mpg").write_bytes(b"\0\0\1\xb3" + bytes(100))
    (tmp_path / "stream.mpv").write_bytes(b"\0\0\1\xba\x44" + bytes(100))
    Image.new("RGB", (8, 8)).save(tmp_path / "many.mjpeg", "JPEG")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    for path in (*sorted(tmp_path.iterdir()), tmp_path / "nothing.jpg"):
        assert not is_picture(path), path


def test_damaged_picture_is_a_picture_that_cannot_be_read(tmp_path: Path) -> None:
    """So that the message is about it, and not about a video."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    for kind in ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "QOI", "TIFF", "WEBP"):
        path = tmp_path / f"a.{kind}"
        noise.save(path, kind)
        whole = path.read_bytes()
        for kept in (20, len(whole) // 2, len(whole) - 20):
            path.write_bytes(whole[:kept])
            assert is_picture(path)
            with contextlib.suppress(DataError):  # some formats say where they end only in what was cut off
                assert read_picture(path).shape == (64, 64, 3)
                assert kept > 20, kind


def test_mutated_pictures_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8))
    for kind in (
        "AVIF",
        "BMP",
        "DDS",
        "GIF",
        "ICNS",
        "ICO",
        "JPEG",
        "MPO",
        "PCX",
        "PNG",
        "QOI",
        "SGI",
        "TIFF",
        "WEBP",
    ):
        file = io.BytesIO()
        noise.save(file, kind)
        for _ in range(20):
            data = bytearray(file.getvalue())
            for place in rng.integers(0, min(len(data), 400), 6):
                data[place] = rng.integers(0, 256)
            with contextlib.suppress(DataError):
                assert read_picture(bytes(data)).ndim == 3


def test_heic_needs_a_package_and_one_line_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    files = {
        "HEIC": b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(100),
        "JPEG XL": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100),
    }
    for name, content in files.items():
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(content)
        assert is_picture(path)
        with pytest.raises(DataError, match=f"got a {name} picture, expected .*`pip install pillow"):
            read_picture(path)


def test_heic_is_read_where_its_package_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the package: it teaches Pillow the format, as the real one does."""

    class File(PngImageFile):
        format = "HEIF"

        def _open(self) -> None:
            assert self.fp is not None
            self.fp = io.BytesIO(self.fp.read()[24:])
            super()._open()

    package = types.ModuleType("pillow_heif")
    package.register_heif_opener = (
        lambda: Image.register_open(  # type: ignore[attr-defined]
            "HEIF", File, lambda start: start[8:12] == b"heic"
        )
    )
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (1, 2, 3)).save(file, "PNG")
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + file.getvalue())
    for _ in range(2):
        assert is_picture(path)
        assert read_picture(path)[0, 0].tolist() == [1, 2, 3]


def test_small_copy_in_a_camera_raw_file_is_not_taken_for_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.dng"
    path.write_bytes(tiff(np.arange(8, dtype=np.uint16), tags={254: 1}))
    assert is_picture(path)
    with pytest.raises(DataError, match="got a small copy of another picture first, as camera raw"):
        read_picture(path)


def test_picture_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(DataError, match="no readable picture"):
        read_picture(tmp_path / "a.png")
    with pytest.raises(DataError, match="no such file"):
        read_picture(tmp_path / "b.png")
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path, tmp_path / "pipe.png"):
        with pytest.raises(DataError, match=r"no readable picture \(a folder, a pipe or a device\)"):
            read_picture(path)
        assert not is_picture(path)
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

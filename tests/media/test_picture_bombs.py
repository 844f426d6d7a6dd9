"""Small files that would take all memory: what they come to, and what reading them takes at most."""

import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.pictures import GREY, PALETTE, RGBA, black_png, chunk, read_apart, tiff
from videomar.errors import DataError
from videomar.media.images import MAX_FILE_BYTES, is_picture, read_picture

TOO_LARGE = "got {} pixels, expected at most {}"
TEXT = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000), 9))
PROFILE = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(50_000_000), 9))
TEXTS = 100 * chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000), 9))


def written(path: Path, size: tuple[int, int], kind: str, **options: object) -> bytes:
    Image.new(str(options.pop("mode", "RGB")), size).save(path, kind, **options)
    return path.read_bytes()


def icon(png: bytes) -> bytes:
    """An icon that says it is of 256 pixels."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, len(png), 22) + png


def fits() -> bytes:
    """A compressed picture that unpacks to a hundred megabytes."""
    cards = {"XTENSION": "'BINTABLE'", "BITPIX": 8, "NAXIS": 2, "NAXIS1": 8, "NAXIS2": 1, "ZIMAGE": "T"}
    cards |= {"ZCMPTYPE": "'GZIP_1  '", "ZBITPIX": 8, "ZNAXIS": 2, "ZNAXIS1": 8, "ZNAXIS2": 8}
    first = {"SIMPLE": "T", "BITPIX": 8, "NAXIS": 0}
    made = b""
    for header in (first, cards):
        lines = [f"{key:<8}= {value!s:>20}".ljust(80) for key, value in header.items()]
        made += "".join([*lines, "END".ljust(80)]).encode().ljust(2880)
    return made + gzip.compress(bytes(100_000_000))


BOMBS: dict[str, tuple[Callable[[Path], bytes], Any, int]] = {
    "tall.png": (lambda _: black_png(4, 4_000_000), [64, 4, 3], 150),
    "wide.png": (lambda _: black_png(64_000_000, 1), TOO_LARGE.format("64000000x1", 64000000), 20),
    "square.png": (lambda _: black_png(8000, 8000, PALETTE), [4000, 4000, 3], 200),
    "deep.png": (lambda _: black_png(8000, 8000, GREY, 16), [4000, 4000, 3], 300),
    "huge.png": (lambda _: black_png(60_000, 60_000, GREY, 1), TOO_LARGE.format(3_600_000_000, 64000000), 20),
    "text.png": (lambda _: black_png(8, 8, more=TEXT), "over 1 MB of text or profile in it", 20),
    "texts.png": (lambda _: black_png(8, 8, more=TEXTS), "over 1 MB of text or profile in it", 80),
    "profile.png": (lambda _: black_png(8, 8, more=PROFILE), "over 1 MB of text or profile in it", 20),
    "photo.jpg": (lambda path: written(path, (13_000, 13_000), "JPEG", mode="L"), [3250, 3250, 3], 200),
    "progressive.jpg": (
        lambda path: written(path, (9000, 9000), "JPEG", mode="L", progressive=True),
        TOO_LARGE.format("9000x9000", 64000000),
        20,
    ),
    "square.webp": (
        lambda path: written(path, (6000, 6000), "WEBP", quality=1, method=0),
        TOO_LARGE.format("6000x6000", 32000000),
        20,
    ),
    "square.jp2": (lambda path: written(path, (6000, 6000), "JPEG2000", mode="L"), [3000, 3000, 3], 200),
    "icon.ico": (
        lambda _: icon(black_png(13_000, 13_000, GREY, 1)),
        TOO_LARGE.format("13000x13000", 16000000),
        20,
    ),
    "tile.tiff": (
        lambda _: tiff(np.arange(8, dtype=np.uint8), tags={259: 8, 322: 30_000, 323: 30_000}),
        "got a strip or tile of 900000000 bytes",
        20,
    ),
    "written_in_python.qoi": (
        lambda _: b"qoif" + struct.pack(">IIBB", 8000, 8000, 3, 0) + b"\xfd" * 1_100_000,
        TOO_LARGE.format("8000x8000", 16000000),
        20,
    ),
    "archive.fits": (lambda _: fits(), "got a compressed FITS file", 20),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, float]]:
    folder = tmp_path_factory.mktemp("bombs")
    files = [folder / name for name in BOMBS]
    for path in files:
        path.write_bytes(BOMBS[path.name][0](path))
        assert path.stat().st_size < 3_000_000
    return dict(zip(BOMBS, read_apart(*files), strict=True))


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_read_or_refused_in_little_memory(outcomes: dict[str, tuple[Any, float]], name: str) -> None:
    _, expected, most_mb = BOMBS[name]
    result, took_mb = outcomes[name]
    assert took_mb < most_mb
    if isinstance(expected, str):
        assert expected in result
        assert "\n" not in result
    else:
        assert result == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("a.png", "RGBA", {}),
        ("a.tiff", "RGBA", {"compression": "tiff_lzw"}),
        ("a.avif", "RGB", {"speed": 10}),
        ("a.jp2", "RGB", {}),
        ("a.webp", "RGB", {"quality": 1, "method": 0}),
        ("a.jpg", "CMYK", {"progressive": True}),
    ],
)
def test_largest_picture_of_each_kind_takes_little_over_half_a_gigabyte(
    tmp_path: Path, name: str, mode: str, options: dict[str, Any]
) -> None:
    path, side = tmp_path / name, 5600 if name == "a.webp" else 8000
    if name == "a.png":
        path.write_bytes(black_png(side, side, RGBA, 16))
    else:
        Image.new(mode, (side, side)).save(path, **options)
    ((result, took_mb),) = read_apart(path)
    assert isinstance(result, list)
    assert took_mb < 650


def test_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.webp"
    path.write_bytes(b"RIFF\0\0\0\0WEBPVP8 ")
    with path.open("r+b") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # a hole: it takes no room on the disk
    assert is_picture(path)
    with pytest.raises(DataError, match=f"got a file of {MAX_FILE_BYTES + 1} bytes, expected at most"):
        read_picture(path)


def test_animation_of_a_million_frames_is_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    first, second = Image.new("P", (4, 4)), Image.new("P", (4, 4), 1)
    first.save(path, save_all=True, append_images=[second], duration=20)
    whole = path.read_bytes()
    start = whole.rindex(b"!\xf9")
    path.write_bytes(whole[:start] + whole[start:-1] * 1_000_000 + b";")
    ((result, took_mb),) = read_apart(path)
    assert "got an animation" in result
    assert took_mb < 20

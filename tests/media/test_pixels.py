"""Pixels of every kind of picture as eight-bit sRGB on black."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from tests.support.pictures import profile, tiff
from videomar.media.images import convert_picture, read_picture
from videomar.media.pixels import KEPT_PIXELS, LONGEST, displayed_size

SRGB_PRIMARIES = np.array([[0.4360, 0.2225, 0.0139], [0.3851, 0.7169, 0.0971], [0.1431, 0.0606, 0.7141]])
DEEP = np.array([0, 257, 4095, 32896, 65535], np.uint16)
DEEP_SEEN = [0, 1, 16, 128, 255]


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def row(source: bytes | Path) -> tuple[list[int], list[str]]:
    """Grey values of the first row, and the notes for a user."""
    notes: list[str] = []
    pixels = read_picture(source, notes.append)
    assert pixels.dtype == np.uint8
    assert (pixels == pixels[..., :1]).all()
    return pixels[0, :, 0].tolist(), notes


@pytest.mark.parametrize(
    "file",
    [
        saved(Image.fromarray(DEEP[None]), "PNG"),
        saved(Image.fromarray(DEEP[None]), "JPEG2000"),
        saved(Image.fromarray(DEEP[None]), "PPM"),
        tiff(DEEP),
        tiff(DEEP, ">"),
        tiff(65535 - DEEP, photometric=0),
        b"P2 5 1 1000\n0 4 62 502 1000\n",
    ],
    ids=["png", "jp2", "pgm", "tiff", "big-endian", "white-is-zero", "maxval"],
)
def test_sixteen_bits_are_shown_by_their_full_range(file: bytes) -> None:
    assert row(file) == (DEEP_SEEN, [])


@pytest.mark.parametrize(
    ("values", "seen", "note"),
    [
        (np.array([0, 128, 255], np.uint32), [0, 128, 255], "from 0 as black to 255 as white"),
        (np.array([0, 32896, 65535], np.int32), [0, 128, 255], "from 0 as black to 65535 as white"),
        (np.array([0, 2**31, 2**32 - 1], np.uint32), [0, 128, 255], "to 4.29497e+09 as white"),
        (np.array([-1000, 0, 1000], np.int16), [0, 128, 255], "from -1000 as black to 1000 as white"),
        (np.array([-1000, 0, 1000], np.int32), [0, 128, 255], "from -1000 as black to 1000 as white"),
        (np.array([7, 7, 7], np.int32), [7, 7, 7], "to 255 as white"),
        (np.array([-7, -7, -7], np.int32), [0, 0, 0], "from -7 as black"),
        (np.array([0, 0.5, 1, np.nan, np.inf, -np.inf], np.float32), [0, 128, 255, 0, 255, 0], None),
        (np.array([-0.1, 0.5, 0.8], np.float32), [0, 128, 204], None),
        (np.array([0, 127.5, 255], np.float32), [0, 128, 255], "from 0 as black to 255 as white"),
        (np.array([-5, 0, 5], np.float32), [0, 128, 255], "from -5 as black to 5 as white"),
        (np.array([np.nan, np.nan], np.float32), [0, 0], None),
    ],
    ids=str,
)
def test_deeper_values_are_shown_by_the_range_they_need(
    values: NDArray[np.float64], seen: list[int], note: str | None
) -> None:
    got, notes = row(tiff(values))
    assert got == seen
    assert len(notes) == (note is not None)
    assert note is None or note in notes[0]


def test_few_floats_above_white_are_highlights() -> None:
    values = np.full((16, 16), 0.5, np.float32)
    values[3, 4] = 7.0
    shown = convert_picture(Image.fromarray(values))
    assert shown[3, 4].tolist() == [255] * 3
    assert shown[3, 5].tolist() == [128] * 3


def test_range_that_a_file_states_counts() -> None:
    values = np.array([0, 1, 2], np.float32)
    assert row(tiff(values, tags={340: 0.0, 341: 2.0})) == ([0, 128, 255], [])
    assert row(tiff(np.array([0, 2048, 4095], np.uint16), tags={341: 4095})) == ([0, 128, 255], [])


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I;16B"])
def test_every_mode_shows_its_colour(mode: str) -> None:
    picture = Image.new("RGB", (3, 2), (255, 255, 255) if mode == "1" else (204, 102, 51))
    grey = Image.new("RGB", (3, 2), (255, 255, 255) if mode == "1" else (120, 120, 120))
    if mode == "LAB":
        to_lab = ImageCms.buildTransform(
            ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
        )
        made, seen = ImageCms.applyTransform(picture, to_lab), picture
    elif mode == "I;16B":
        made, seen = Image.frombytes(mode, (3, 2), np.full((2, 3), 120 * 257, ">u2").tobytes()), grey
    else:
        seen = grey if mode in ("1", "L") else picture
        made = seen.convert(mode)
    assert made is not None
    assert np.abs(convert_picture(made).astype(int) - np.asarray(seen)).max() <= 2


def test_cmyk_of_every_writer_shows_its_colour() -> None:
    """Adobe's programs store inverted values in JPEG; TIFF has them as they are."""
    picture = Image.new("RGB", (16, 16), (200, 100, 50)).convert("CMYK")
    for kind in ("JPEG", "TIFF"):
        shown = read_picture(saved(picture, kind))
        assert np.abs(shown.astype(int) - (200, 100, 50)).max() <= 2


def transparent_pictures() -> dict[str, tuple[bytes | Image.Image, list[list[int]]]]:
    """Pictures of three pixels that are opaque, half and wholly transparent, or only the last two."""
    half = [[200, 100, 50], [100, 50, 25], [0, 0, 0]]
    grey = [[200] * 3, [100] * 3, [0] * 3]
    gone = [[200, 100, 50], [0, 0, 0], [0, 0, 0]]
    rgba = np.array([[[200, 100, 50, 255], [200, 100, 50, 128], [200, 100, 50, 0]]], np.uint8)
    la = np.array([[[200, 255], [200, 128], [200, 0]]], np.uint8)
    pa = Image.new("PA", (3, 1))
    pa.putpalette([value for value in range(256) for _ in range(3)])
    pa.putdata([(200, 255), (200, 128), (200, 0)])
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    palette.putpalette([200, 100, 50] * 3)
    key = Image.fromarray(np.array([[[200, 100, 50], [1, 2, 3], [1, 2, 3]]], np.uint8))
    deep = Image.fromarray(np.array([[200 * 257, 9, 9]], np.uint16))
    return {
        "RGBA png": (saved(Image.fromarray(rgba), "PNG"), half),
        "RGBA webp": (saved(Image.fromarray(rgba), "WEBP", lossless=True, exact=True), half),
        "RGBA tiff": (saved(Image.fromarray(rgba), "TIFF"), half),
        "RGBa": (Image.fromarray(rgba).convert("RGBa"), half),
        "LA png": (saved(Image.fromarray(la), "PNG"), grey),
        "La": (Image.fromarray(la).convert("La"), grey),
        "PA": (pa, grey),
        "palette with opacity": (saved(palette, "PNG", transparency=bytes([255, 128, 0])), half),
        "colour key": (saved(key, "PNG", transparency=(1, 2, 3)), gone),
        "key of 16 bits": (saved(deep, "PNG", transparency=9), [[200] * 3, [0] * 3, [0] * 3]),
    }


@pytest.mark.parametrize("name", transparent_pictures())
def test_transparent_parts_are_black_and_that_is_said(name: str) -> None:
    source, seen = transparent_pictures()[name]
    notes: list[str] = []
    read = read_picture if isinstance(source, bytes) else convert_picture
    shown = read(source, notes.append)  # type: ignore[operator]
    assert np.abs(shown[0].astype(int) - seen).max() <= 1
    assert notes == ["what is transparent in it is black"]


def test_opaque_alpha_is_nothing_to_mention() -> None:
    notes: list[str] = []
    read_picture(saved(Image.new("RGBA", (4, 4), (1, 2, 3, 255)), "PNG"), notes.append)
    assert notes == []


def test_profile_is_converted_to_srgb() -> None:
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    swapped = profile(b"RGB ", 2.2, SRGB_PRIMARIES[[1, 0, 2]])  # its red is sRGB's green
    for kind in ("PNG", "JPEG", "TIFF", "WEBP", "AVIF"):
        shown = read_picture(saved(red, kind, icc_profile=swapped))
        assert np.abs(shown.astype(int) - (0, 255, 0)).max() <= 6, kind


def test_profile_of_grey_and_of_transparent_pictures_is_converted() -> None:
    linear = profile(b"GRAY", 1.0)
    grey, deep = Image.new("L", (4, 4), 128), Image.fromarray(np.full((4, 4), 128 * 257, np.uint16))
    for picture in (grey, deep):
        shown = read_picture(saved(picture, "PNG", icc_profile=linear))
        assert np.abs(shown.astype(int) - 188).max() <= 2  # sRGB's value of half the light
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    swapped = profile(b"RGB ", 2.2, SRGB_PRIMARIES[[1, 0, 2]])
    shown = read_picture(saved(half, "PNG", icc_profile=swapped))
    assert np.abs(shown.astype(int) - (0, 128, 0)).max() <= 2


@pytest.mark.parametrize("data", [b"no profile", profile(b"GRAY", 1.0), profile(b"RGB ", 2.2)[:150]])
def test_profile_that_is_broken_or_of_other_colours_is_ignored(data: bytes) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    assert np.array_equal(read_picture(saved(picture, "PNG", icc_profile=data)), np.asarray(picture))


def test_profile_of_srgb_changes_no_pixel() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(read_picture(saved(picture, "PNG", icc_profile=data)), np.asarray(picture))


@pytest.mark.parametrize(
    ("kind", "orientation"), itertools.product(["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO"], range(1, 9))
)
def test_picture_is_turned_as_its_tag_says(kind: str, orientation: int) -> None:
    corners = np.zeros((16, 24, 3), np.uint8)
    corners[:8, :8], corners[:8, 16:], corners[8:, :8] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    picture = Image.fromarray(corners)
    tag = picture.getexif()
    tag[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {} if kind in ("PNG", "TIFF") else {"quality": 95}
    file = saved(picture, kind, exif=tag.tobytes() if kind == "AVIF" else tag, **options)
    plain = Image.open(io.BytesIO(saved(picture, "PNG", exif=tag)))
    seen = np.asarray(ImageOps.exif_transpose(plain).convert("RGB")).astype(int)
    shown = read_picture(file)
    assert shown.shape == seen.shape
    middles = (slice(4, None, 8), slice(4, None, 8))
    assert np.abs(shown[middles].astype(int) - seen[middles]).max() < 60
    with Image.open(io.BytesIO(file)) as opened:
        assert displayed_size(opened) == seen.shape[1::-1]


def test_damaged_exif_is_no_reason_to_refuse_pixels() -> None:
    picture = Image.new("RGB", (8, 4), (200, 100, 50))
    for exif in (b"Exif\0\0MM\0*\0\0\xff\xff", b"Exif\0\0" + bytes(100), b"nonsense"):
        assert read_picture(saved(picture, "PNG", exif=exif)).shape == (4, 8, 3)


def test_large_picture_is_made_smaller_and_keeps_its_place() -> None:
    """Bands, and the last of them with a rest: against a reduction of the whole."""
    width, height = 5001, 3999
    slope = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 120, width)).astype(np.uint8)
    picture = Image.merge("RGB", [Image.fromarray(slope)] * 3)
    assert KEPT_PIXELS < width * height < 4 * KEPT_PIXELS
    whole = np.asarray(picture.reduce(2)).astype(int)
    assert np.array_equal(convert_picture(picture), whole)
    jpeg = read_picture(saved(picture, "JPEG", quality=95)).astype(int)
    assert jpeg.shape == whole.shape
    assert np.abs(jpeg - whole).max() <= 3


@pytest.mark.parametrize("size", [(3, 4000), (4000, 3)])
def test_middle_of_a_strip_is_what_is_used(size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size)
    picture.paste((250, 250, 250), (*(side // 2 - 20 for side in size), *(side // 2 + 20 for side in size)))
    notes: list[str] = []
    pixels = convert_picture(picture, notes.append)
    assert sorted(pixels.shape) == [3, 3, 3 * LONGEST]
    assert (pixels.reshape(-1, 3)[len(pixels.reshape(-1, 3)) // 2] == 250).all()
    assert len(notes) == 1
    assert "only its middle is used" in notes[0]

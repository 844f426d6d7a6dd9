"""Pixels of any picture that Pillow opens, as eight-bit sRGB on black.

    1, L, P, RGB, HSV, YCbCr, CMYK   as Pillow converts them; CMYK by its profile, if it has one; also Lab
    ICC profile                      converted to sRGB by LittleCMS; a broken one is ignored, as browsers do
    opacity                          on black, as that of videos
    16 bits                          0 is black, 65,535 white, or the largest value of the file's bits
    32 bits, integers                white is the smallest of 8, 16 and 32 bits that holds all values
    floats                           0 is black, 1 white; if over 1 in 100 is larger, as integers
    negative values                  the smallest value is black, the largest white
    NaN, -inf and inf                black, black and white
    EXIF orientation                 all eight, of every format that has it

A TIFF file that states its smallest and largest value is shown by these. A large picture is converted band by
band and made smaller at once: beside what Pillow holds, memory has only the result and one band.

Axes: H W rows and columns in pixels.
"""

import io
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms
from PIL.ExifTags import Base

KEPT_PIXELS = 16_000_000
"""A larger picture is made smaller by a whole number: no clip shows as many."""
LONGEST = 16
"""Times its short side that a picture may be long: of a longer one the middle is used."""

Note: TypeAlias = Callable[[str], None]

_BAND_PIXELS = 1_000_000
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_GREY = ("1", "L", "LA", "La", *_DEEP)
_WHITES = (2**8 - 1, 2**16 - 1, 2**32 - 1)
_MANY = 0.01  # share of floats over 1 from which they are no highlights
_PROFILED = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
# Orientations 2 to 8: rows backwards, columns backwards, rows for columns.
_TURNS = {
    2: (False, True, False),
    3: (True, True, False),
    4: (True, False, False),
    5: (False, False, True),
    6: (True, False, True),
    7: (True, True, True),
    8: (False, True, True),
}

_Box: TypeAlias = tuple[int, int, int, int]


def rgb_pixels(picture: Image.Image, note: Note | None = None) -> NDArray[np.uint8]:
    """Return the pixels (H, W, 3) of an open picture, of its current frame if it has several.

    Args:
        picture: Of any mode.
        note: Called with what a user should know about the result, one clause each.

    Raises:
        Exception: whatever Pillow raises on damaged files.
    """
    say = note or (lambda _: None)
    with without_warnings():
        picture.load()
    left, top, right, bottom = box = middle(picture.size)
    if right - left < picture.width or bottom - top < picture.height:
        say(f"only its middle is used, because one side is over {LONGEST} times the other")
    step = _step(right - left, bottom - top)
    convert = _converter(picture, box, say)
    pixels = np.empty((math.ceil((bottom - top) / step), math.ceil((right - left) / step), 3), np.uint8)
    for first, band in _bands(picture, box, step):
        rgb = convert(band)
        rows = np.asarray(rgb.reduce(step) if step > 1 else rgb)
        pixels[first // step : first // step + len(rows)] = rows
    return _turned(pixels, _orientation(picture))


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep Pillow's from a user: they are about damage and size, which end as errors, or can be seen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def displayed_size(picture: Image.Image) -> tuple[int, int]:
    """Width and height of the part of an open picture that is used, as displayed."""
    left, top, right, bottom = middle(picture.size)
    size = right - left, bottom - top
    return size[::-1] if _TURNS.get(_orientation(picture), (False, False, False))[2] else size


def _step(width: int, height: int) -> int:
    """Pixels along each side that become one."""
    return math.ceil(math.sqrt(width * height / KEPT_PIXELS))


def middle(size: tuple[int, int]) -> _Box:
    """Return the part of a picture that is used: left, top, right, bottom."""
    width, height = (min(side, LONGEST * min(size)) for side in size)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height


def _bands(picture: Image.Image, box: _Box, step: int = 1) -> Iterator[tuple[int, Image.Image]]:
    """Yield rows of a box that make a multiple of `step`, and the number of the first."""
    left, top, right, bottom = box
    rows = max(1, _BAND_PIXELS // (right - left) // step) * step
    for first in range(top, bottom, rows):
        yield first - top, picture.crop((left, first, right, min(first + rows, bottom)))


def _converter(picture: Image.Image, box: _Box, say: Note) -> Callable[[Image.Image], Image.Image]:
    """Return what makes RGB of a band of this picture."""
    deep = picture.mode in _DEEP
    black, white = _value_range(picture, box, say) if deep else (0.0, 255.0)
    profile = _to_srgb(picture)
    # Pillow gives some pictures inside icons no palette of its own, and then asserts that there is one.
    transparent = (picture.mode != "P" or picture.palette is not None) and picture.has_transparency_data
    if transparent and _some_transparent(picture, box):
        say("what is transparent in it is black")

    def convert(band: Image.Image) -> Image.Image:
        opacity = _opacity(band) if transparent else None
        if deep:
            band = Image.fromarray(_eight_bits(_values(band, picture), black, white))
        elif opacity is not None:
            band = _straight(band).convert("RGB")
        if profile is not None:
            mode, transform = profile
            flat = band if band.mode == mode else band.convert(mode)
            band = ImageCms.applyTransform(flat, transform) or flat
        rgb = band.convert("RGB")
        if opacity is None:
            return rgb
        ground = Image.new("RGB", rgb.size)
        ground.paste(rgb, mask=opacity)
        return ground

    return convert


def _opacity(band: Image.Image) -> Image.Image:
    """Opacity of each pixel, mode L."""
    if band.mode in _DEEP:  # one value is transparent
        opaque = np.asarray(band) != band.info["transparency"]
        return Image.fromarray(opaque.astype(np.uint8) * 255)
    return _straight(band).getchannel("A")


def _straight(band: Image.Image) -> Image.Image:
    """Colours that do not hold their opacity, mode RGBA."""
    return (band.convert("LA") if band.mode == "La" else band).convert("RGBA")


def _some_transparent(picture: Image.Image, box: _Box) -> bool:
    return any(np.asarray(_opacity(band)).min() < 255 for _, band in _bands(picture, box))


def _values(band: Image.Image, picture: Image.Image) -> NDArray[Any]:
    """Values of a band of 16 or 32 bits."""
    values = np.asarray(band)
    tags = getattr(picture, "tag_v2", {})
    unsigned = _one(tags.get(Base.SampleFormat, 1)) == 1 and _one(tags.get(Base.BitsPerSample, 1)) == 32
    # Pillow has no mode for them, and gives the larger half as negative numbers.
    return values.view(np.uint32) if picture.mode == "I" and unsigned else values


def _value_range(picture: Image.Image, box: _Box, say: Note) -> tuple[float, float]:
    """Values that become black and white."""
    tags = getattr(picture, "tag_v2", {})
    if Base.SMaxSampleValue in tags:
        black, white = float(_one(tags.get(Base.SMinSampleValue, 0))), float(_one(tags[Base.SMaxSampleValue]))
    elif picture.mode not in ("I", "F"):
        black, white = 0.0, 2.0 ** _one(tags.get(Base.BitsPerSample, 16)) - 1
    elif picture.format == "PPM" and picture.mode == "I":
        black, white = 0.0, 2.0**16 - 1  # Pillow has scaled them to that
    else:
        black, white = _guessed_range(picture, box)
        if (black, white) != (0.0, 1.0):
            say(f"it is shown from {black:g} as black to {white:g} as white")
    return (white, black) if tags.get(Base.PhotometricInterpretation) == 0 else (black, white)


def _guessed_range(picture: Image.Image, box: _Box) -> tuple[float, float]:
    low, high, large, count = math.inf, -math.inf, 0, 0
    for _, band in _bands(picture, box):
        values = _values(band, picture)
        finite = values[np.isfinite(values)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
            large, count = large + int((finite > 1).sum()), count + finite.size
    if picture.mode == "F" and low > -1 and large <= _MANY * count:
        return 0.0, 1.0
    if low >= 0:
        return 0.0, float(next((white for white in _WHITES if white >= high), high))
    return low, high


def _one(value: Any) -> float:
    """A tag that may come as a tuple."""
    return float(value[0] if isinstance(value, tuple) else value)


def _eight_bits(values: NDArray[Any], black: float, white: float) -> NDArray[np.uint8]:
    # A picture of one value has no range: it is black.
    with np.errstate(all="ignore"):  # of floats that are no numbers
        share = (values.astype(np.float64) - black) / ((white - black) or math.inf)
    return (np.clip(np.nan_to_num(share, nan=0.0, posinf=1.0, neginf=0.0), 0, 1) * 255 + 0.5).astype(np.uint8)


def _to_srgb(picture: Image.Image) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """Return the mode to convert a picture's bands to, and what then makes sRGB of them; None if they are."""
    data = picture.info.get("icc_profile")
    srgb = ImageCms.createProfile("sRGB")
    try:
        if picture.mode == "LAB":
            return "LAB", ImageCms.buildTransform(ImageCms.createProfile("LAB"), srgb, "LAB", "RGB")
        if not data:
            return None
        profile = ImageCms.getOpenProfile(io.BytesIO(data))
        mode = _PROFILED.get(profile.profile.xcolor_space.strip())
        if mode is None or (mode == "CMYK") != (picture.mode == "CMYK"):
            return None
        if mode == "L" and picture.mode not in _GREY:
            return None
        transform = ImageCms.buildTransform(profile, srgb, mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return None if _changes_nothing(transform, mode) else (mode, transform)


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a transform is one from sRGB to sRGB, up to rounding."""
    if mode == "CMYK":
        return False
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(len(levels), -1, 3)
    probe = Image.fromarray(grid if mode == "RGB" else grid[..., 0].copy())
    after = ImageCms.applyTransform(probe, transform)
    before = np.asarray(probe.convert("RGB"), np.int16)
    return after is not None and int(np.abs(np.asarray(after, np.int16) - before).max()) <= 1


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation, 1 to 8, that Pillow does not apply by itself."""
    if picture.format == "TIFF":  # its size is turned when it is opened, its pixels when they are loaded
        return 1
    try:
        with without_warnings():
            return int(picture.getexif().get(Base.Orientation, 1))
    except Exception:  # a damaged block of EXIF is no reason to refuse the pixels
        return 1


def _turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) as displayed."""
    rows, columns, transposed = _TURNS.get(orientation, (False, False, False))
    pixels = pixels[:: -1 if rows else 1, :: -1 if columns else 1]
    return np.ascontiguousarray(pixels.transpose(1, 0, 2) if transposed else pixels)

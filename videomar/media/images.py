"""Single pictures as arrays, which image-to-video generation starts from: the one way to open a picture.

What a file is, its first bytes say and never its name, except for the few formats that begin with nothing of
their own. The command, the page and the served model read pictures here, with the same limits and messages.

Axes: H W rows and columns in pixels.
"""

import importlib
import io
import logging
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base

from videomar.errors import DataError
from videomar.media.pixels import KEPT_PIXELS, Note, rgb_pixels, without_warnings

MAX_PIXELS = 64_000_000
"""Of a picture while it is decoded."""
MAX_FILE_BYTES = 256 * 2**20
"""Of the file of a picture: one of MAX_PIXELS, four bytes each, fits."""
FORMATS = "JPEG, PNG, WebP, TIFF or AVIF"
"""Those to name to a user; all of Pillow that hold pixels are read."""
_MAX_SIDE = 10_000_000  # a decoder holds whole rows several times
# They hold no pixels that Pillow reads by itself, start other programs, open further files, or are videos.
_NO_PICTURES = ("BUFR", "EPS", "FLI", "GRIB", "HDF5", "IPTC", "MPEG", "PDF", "WMF")
# Without a signature: a file of any other kind might pass for one.
_BY_NAME = {
    "IM": (".im",),
    "IMT": (".imt",),
    "PCD": (".pcd",),
    "SPIDER": (".spi", ".spider"),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
}
# A file of these that cannot be read is a damaged picture, and no video to be tried by other means.
_SURE = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "JXL", "PNG", "PSD", "QOI", "TIFF", "WEBP")
_MOVING = ("AVIF", "GIF", "JXL", "PNG", "WEBP")
_HEIC, _AVIF = {b"heic", b"heix", b"heim", b"heis"}, {b"avif", b"avis"}  # brands of an ISO file
_START_BYTES = 64  # a signature, and the brands
_JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
# Packages that teach Pillow a further format; none of them is among our dependencies.
_READERS = {
    "HEIF": ("HEIC", "pillow_heif", "pillow-heif"),
    "JXL": ("JPEG XL", "pillow_jxl", "pillow-jxl-plugin"),
}
_SEQUENCE_NAMES = (".mjpg", ".mjpeg")  # JPEG files one after another, and nothing that says so
_MOST = {"WEBP": MAX_PIXELS // 2}  # four copies of its pixels are made
_UNBOUNDED = {"fits_gzip"}  # decompressed whole, whatever comes out
_ICONS = ("CUR", "ICNS", "ICO")
_SIZES_INSIDE = rb"(?s)(?:\0\0\0\x0dIHDR|\0\0\0\x16ihdr)(.{8})"  # of PNG and of JPEG 2000
_REDUCED_COPY = 1  # bit of TIFF's tag NewSubfileType
# Without a handler of the program's, its messages about damaged files would stand beside ours.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def is_picture(path: Path) -> bool:
    """Whether the file is one still picture, be it damaged or too large.

    One with several pages, sizes, layers or a gain map is. An animation is not: it is read as a video.
    """
    if path.suffix.lower() in _SEQUENCE_NAMES or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            kinds = _kinds(file.read(_START_BYTES), path.suffix)
    except OSError:
        return False
    if not kinds:
        return False
    try:
        with open_picture(path) as picture:
            return not is_animated(picture)
    except DataError:
        return any(kind in _SURE for kind in kinds)


def is_animated(picture: Image.Image) -> bool:
    """Whether an open picture moves; counts no frames, of which there may be millions."""
    return picture.format in _MOVING and bool(getattr(picture, "is_animated", False))


@contextmanager
def open_picture(source: Path | bytes) -> Iterator[Image.Image]:
    """Open a picture file with Pillow, and turn all that goes wrong with it inside the block into one line.

    A large JPEG file is opened at a half, a quarter or an eighth of its size.

    Args:
        source: A path, or the bytes of a file.

    Raises:
        DataError: there is no such file, or no picture in it, or it is damaged, or too large for the memory.
    """
    where = source if isinstance(source, Path) else "image"
    with _one_line(where):
        num_bytes = source.stat().st_size if isinstance(source, Path) else len(source)
        if isinstance(source, Path) and not source.is_file():  # opening a pipe would wait for its writer
            raise ValueError("a folder, a pipe or a device")
        if num_bytes > MAX_FILE_BYTES:
            rule = f"at most {MAX_FILE_BYTES}; save it as JPEG"
            raise DataError(f"{where}: got a file of {num_bytes} bytes, expected {rule}")
        with _stream(source) as file:
            kinds = _kinds(file.read(_START_BYTES), source.suffix if isinstance(source, Path) else "")
            _check_readers(kinds, where)
            if not kinds:
                raise ValueError("its first bytes are those of no picture")
            if any(kind in _ICONS for kind in kinds):
                file.seek(0)
                _check_icons(file.read(), where)
            with without_warnings():
                picture = Image.open(file, formats=kinds)
            with picture:
                _check_size(picture, where)
                yield picture


def read_picture(source: Path | bytes, note: Note | None = None) -> NDArray[np.uint8]:
    """Read a picture file as it is displayed: (H, W, 3) uint8, sRGB on black.

    Of several pages, sizes or a picture with a gain map the first counts. `videomar.media.pixels` says what
    becomes of other modes, and of large and long pictures.

    Args:
        source: A path, or the bytes of a file.
        note: Called with what a user should know about the result, one clause each.

    Raises:
        DataError: there is no such file, or it is no single picture, or too large for the memory.
    """
    where = source if isinstance(source, Path) else "image"
    with open_picture(source) as picture:
        if is_animated(picture):
            instead = "save one of its frames as PNG, or continue it by `videomar generate`"
            raise DataError(f"{where}: got an animation, expected one picture; {instead}")
        if note is not None and picture.format in ("TIFF", "DCX") and getattr(picture, "is_animated", False):
            note("it has several pages; the first is used")
        return rgb_pixels(picture, note)


def convert_picture(picture: Image.Image, note: Note | None = None) -> NDArray[np.uint8]:
    """Return what `read_picture` would for a file, of a picture that a caller has opened with Pillow.

    Raises:
        DataError: it is damaged, or too large for the memory.
    """
    with _one_line("picture"):
        _check_size(picture, "picture")
        return rgb_pixels(picture, note)


def parse_size(text: str, where: str) -> tuple[int, int]:
    """Return width and height of a size like `64x32`, pixels.

    Raises:
        DataError: it is no such text.
    """
    width, _, height = text.partition("x")
    # Five digits: no size that anybody means is longer, and longer numbers take time to read.
    if not all(side.isdecimal() and len(side) <= 5 and int(side) for side in (width, height)):
        raise DataError(f"{where}: got {text[:20]}, expected WIDTHxHEIGHT in pixels, like 64x32")
    return int(width), int(height)


@contextmanager
def _one_line(where: Path | str) -> Iterator[None]:
    """Turn whatever Pillow raises inside the block into a DataError."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{where}: no such file, expected a picture; check the path") from None
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        raise _too_large(where, f"{pixels[0] if pixels else 'too many'} pixels") from None
    except MemoryError:
        raise _too_large(where, "more pixels than memory is free for") from None
    except Exception as error:  # on damaged bytes Pillow raises what its readers happen to run into
        raise _unreadable(where, error) from None


@contextmanager
def _stream(source: Path | bytes) -> Iterator[IO[bytes]]:
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
        yield file


def _kinds(start: bytes, suffix: str) -> list[str]:
    """Pillow's names of the formats that the first bytes of a file may be of."""
    start = start.ljust(_START_BYTES, b"\0")  # a shorter file is none, and Pillow reads sixteen
    if start.startswith(_JPEG_XL):
        return ["JXL"]
    if _is_heic(start):
        return ["HEIF"]
    Image.preinit()  # the commonest; all of them take a tenth of a second
    kinds = _accepting(start)
    if not {"GIF", "JPEG", "PNG"}.intersection(kinds):
        Image.init()
        kinds = _accepting(start)
    return kinds + [kind for kind, names in _BY_NAME.items() if suffix.lower() in names]


def _is_heic(start: bytes) -> bool:
    if start[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(start[:4]), len(start))
    brands = {start[place : place + 4] for place in (8, *range(16, end, 4))}
    return bool(brands & _HEIC) and not brands & _AVIF


def _accepting(start: bytes) -> list[str]:
    """Formats with a signature, of those whose readers are loaded, that these bytes may begin."""
    return [
        kind
        for kind, (_, accepts) in Image.OPEN.items()
        if kind not in (*_NO_PICTURES, *_BY_NAME) and accepts is not None and accepts(start[:16]) is True
    ]


def _check_readers(kinds: list[str], where: Path | str) -> None:
    """Let an optional package add its format to Pillow.

    Raises:
        DataError: it is not installed.
    """
    for kind in kinds:
        if kind not in _READERS or kind in Image.OPEN:
            continue
        name, module, package = _READERS[kind]
        try:
            reader = importlib.import_module(module)
        except ImportError:
            rule = f"{FORMATS}; `pip install {package}`, or save it as JPEG"
            raise DataError(f"{where}: got a {name} picture, expected {rule}") from None
        if kind == "HEIF":
            reader.register_heif_opener()


def _check_size(picture: Image.Image, where: Path | str) -> None:
    """Let a decoder make a large picture smaller, if it can.

    Raises:
        DataError: too large still, or only a small copy of the picture that is meant.
    """
    full, size = picture.size, _size_while_decoded(picture)
    tags = getattr(picture, "tag_v2", {})
    codecs = {part.codec_name for part in getattr(picture, "tile", ())}
    # A decoder written in Python takes two microseconds a pixel.
    most = KEPT_PIXELS if codecs & Image.DECODERS.keys() else _MOST.get(str(picture.format), MAX_PIXELS)
    if math.prod(size) > most or max(size) > _MAX_SIDE:
        raise _too_large(where, f"{full[0]}x{full[1]} pixels", most)
    if "libtiff" in codecs and (part := _part_bytes(tags, size)) > MAX_FILE_BYTES:
        rule = f"at most {MAX_FILE_BYTES}; save it as JPEG"
        raise DataError(f"{where}: got a strip or tile of {part} bytes, expected {rule}")
    if codecs & _UNBOUNDED:
        raise DataError(f"{where}: got a compressed FITS file, expected {FORMATS}; save it as one of these")
    if int(tags.get(Base.NewSubfileType) or 0) & _REDUCED_COPY:
        got = "a small copy of another picture first, as camera raw files have"
        raise DataError(f"{where}: got {got}, expected {FORMATS}; develop it and save it as JPEG")


def _part_bytes(tags: Mapping[int, Any], size: tuple[int, int]) -> int:
    """Bytes of a strip or tile of a compressed TIFF, which are unpacked at once."""
    width, rows = tags.get(Base.TileWidth, size[0]), min(tags.get(Base.RowsPerStrip, size[1]), size[1])
    bits = tags.get(Base.BitsPerSample, 1)
    deepest = max(bits) if isinstance(bits, tuple) else bits
    return int(width * tags.get(Base.TileLength, rows) * tags.get(Base.SamplesPerPixel, 1) * deepest) // 8


def _size_while_decoded(picture: Image.Image) -> tuple[int, int]:
    """Set the decoders that can skip detail to skip it, and return the size that is left."""
    width, height = picture.size
    step = math.ceil(math.sqrt(width * height / KEPT_PIXELS))
    if picture.format in ("JPEG", "MPO") and step > 1:
        picture.draft(None, (max(1, width // step), max(1, height // step)))
        # All of a progressive file is in memory whatever is asked of it.
        return (width, height) if picture.info.get("progressive") else picture.size
    if picture.format == "JPEG2000" and step > 1:
        halvings = math.ceil(math.log2(step))
        vars(type(picture))["reduce"].__set__(picture, halvings)
        return math.ceil(width / 2**halvings), math.ceil(height / 2**halvings)
    return width, height


def _check_icons(inside: bytes, where: Path | str) -> None:
    """Refuse icons with larger pictures inside than icons have: Pillow would load them to learn their size.

    Raises:
        DataError: there is one.
    """
    for sides in re.findall(_SIZES_INSIDE, inside):
        size = int.from_bytes(sides[:4]), int.from_bytes(sides[4:])
        if math.prod(size) > KEPT_PIXELS:
            raise _too_large(where, f"{size[0]}x{size[1]} pixels", KEPT_PIXELS)


def _too_large(where: Path | str, got: str, most: int = MAX_PIXELS) -> DataError:
    rule = f"at most {most}, and {_MAX_SIDE} along a side"
    return DataError(f"{where}: got {got}, expected {rule}; scale it down")


def _unreadable(where: Path | str, error: Exception) -> DataError:
    reason = " ".join(str(error).split()) or type(error).__name__
    # Pillow names the file or its address in memory.
    reason = re.sub(
        r"^cannot identify image file .*", "damaged, or of a kind that Pillow does not read", reason
    )
    reason = re.sub(
        r"^(Decompressed data too large|Too much memory used) .*",
        "over 1 MB of text or profile in it",
        reason,
    )
    rule = f"{FORMATS}; save it as one of these"
    return DataError(f"{where}: got no readable picture ({reason[:200]}), expected {rule}")

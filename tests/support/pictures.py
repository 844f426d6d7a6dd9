"""Picture files that no camera writes: bombs, deep values, profiles. And the memory that reading them takes.

`python -m tests.support.pictures FILE ...` reads each file and prints for each what
came out and the memory it took at most, in MB.
"""

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videomar.errors import DataError
from videomar.media.images import is_picture, read_picture

GREY, RGB, PALETTE, RGBA = 0, 2, 3, 6
"""Colour types of PNG."""
_CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, RGBA: 4}


def chunk(kind: bytes, content: bytes) -> bytes:
    """Part of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def black_png(width: int, height: int, colour: int = RGB, depth: int = 8, more: bytes = b"") -> bytes:
    """A PNG file of zeros, a thousandth of the size of its pixels; `more` stands before them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    left = height * (1 + (width * _CHANNELS[colour] * depth + 7) // 8)
    packer, packed, block = zlib.compressobj(6), [], bytes(10_000_000)
    while left:
        packed.append(packer.compress(block[: min(left, len(block))]))
        left -= min(left, len(block))
    colours = chunk(b"PLTE", bytes(768)) if colour == PALETTE else b""
    pixels = chunk(b"IDAT", b"".join([*packed, packer.flush()]))
    return b"\x89PNG\r\n\x1a\n" + header + more + colours + pixels + chunk(b"IEND", b"")


def tiff(
    values: NDArray[Any], order: str = "<", photometric: int = 1, tags: dict[int, float] | None = None
) -> bytes:
    """A TIFF file with one row of grey values, as they are: integers or floats of any depth."""
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    data += bytes(len(data) % 2)
    known = {256: len(values), 257: 1, 258: 8 * values.itemsize, 259: 1, 262: photometric, 273: 8, 277: 1}
    numbers = known | {278: 1, 279: len(data), 339: kind} | (tags or {})
    entries = b""
    for tag, value in sorted(numbers.items()):
        code, letter = (11, "f") if isinstance(value, float) else (4, "I")
        entries += struct.pack(f"{order}HHI{letter}", tag, code, 1, value)
    start = b"II*\0" if order == "<" else b"MM\0*"
    offset = struct.pack(f"{order}I", 8 + len(data))
    return start + offset + data + struct.pack(f"{order}H", len(numbers)) + entries + bytes(4)


def profile(space: bytes, gamma: float, primaries: NDArray[np.float64] | None = None) -> bytes:
    """An ICC profile: `RGB ` with the XYZ (D50) of its three primaries as rows, or `GRAY`."""

    def xyz(value: Any) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(part * 65536) for part in value))

    curve = b"curv\0\0\0\0" + struct.pack(">IHH", 1, round(gamma * 256), 0)
    white = (0.9642, 1.0, 0.8249)
    parts = {b"wtpt": xyz(white)}
    if primaries is None:
        parts[b"kTRC"] = curve
    else:
        for name, primary in zip((b"r", b"g", b"b"), primaries, strict=True):
            parts |= {name + b"XYZ": xyz(primary), name + b"TRC": curve}
    table, body, start = b"", b"", 128 + 4 + 12 * len(parts)
    for name, part in parts.items():
        table += name + struct.pack(">II", start + len(body), len(part))
        body += part
    header = struct.pack(">I4sI4s4s4s", start + len(body), b"", 0x02100000, b"mntr", space, b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + xyz(white)[8:]
    return header.ljust(128, b"\0") + struct.pack(">I", len(parts)) + table + body


def read_apart(*files: Path) -> list[tuple[Any, float]]:
    """Read picture files in one child process: of each its shape or the error, and the peak of memory, MB."""
    from tests.conftest import ENVIRONMENT_AT_START  # here: the child needs none of what it imports

    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.support.pictures", *map(str, files)]
    environment = {**ENVIRONMENT_AT_START, "PYTHONPATH": str(root)}
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True)
    assert not done.stderr  # no warning of Pillow's either
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def _memory_mb(name: str) -> float:
    status = Path("/proc/self/status").read_text("utf-8")
    return float(status.partition(f"{name}:")[2].split()[0]) / 1024


def _read(path: Path) -> tuple[Any, float]:
    Path("/proc/self/clear_refs").write_text("5", "utf-8")  # the peak starts again from here
    before = _memory_mb("VmRSS")
    try:
        is_picture(path)
        result: Any = read_picture(path).shape
    except DataError as error:
        result = str(error)
    return result, _memory_mb("VmHWM") - before


if __name__ == "__main__":
    read_picture(black_png(8, 8))
    sys.stdout.writelines(json.dumps(_read(Path(file))) + "\n" for file in sys.argv[1:])

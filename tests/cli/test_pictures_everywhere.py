"""The command, the page and the served model: the same pictures, the same limits, the same messages."""

import base64
import io
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.support.pictures import black_png, chunk, tiff
from tests.support.tiny_model import write_tiny_model
from videomar.cli import demo
from videomar.config import Params
from videomar.errors import DataError
from videomar.sampling.generate import ClipGenerator
from videomar.serving import requests_of


@pytest.fixture(scope="module")
def generator(params: Params, tmp_path_factory: pytest.TempPathFactory) -> ClipGenerator:
    return ClipGenerator(write_tiny_model(params, tmp_path_factory.mktemp("model")))


def several(kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    first, *rest = [Image.new("RGB", (20, 30), (grey, grey, 90)) for grey in (60, 130, 200)]
    tag = first.getexif()
    tag[0x0112] = 6
    first.save(file, kind, save_all=True, append_images=rest, exif=tag, **options)
    return file.getvalue()


def clear(mode: str) -> bytes:
    file = io.BytesIO()
    Image.radial_gradient("L").convert(mode).save(file, "PNG", transparency=9 if mode == "P" else None)
    return file.getvalue()


GOOD = {
    "phone.jpg": several("MPO"),
    "pages.tiff": several("TIFF"),
    "depth.tiff": tiff(np.linspace(-1000, 3000, 24).astype(np.int16)),
    "strip.png": black_png(3, 4000),
    "transparent.png": clear("P"),
}
TEXT = b"a\0\0" + zlib.compress(bytes(2_000_000))
BAD = {
    "animation.gif": (several("GIF", duration=100), "got an animation, expected one picture"),
    "animation.webp": (several("WEBP", duration=100), "got an animation, expected one picture"),
    "huge.png": (black_png(9000, 9000, 0, 1), "got 9000x9000 pixels, expected at most 64000000"),
    "wide.png": (black_png(64_000_000, 1, 0, 1), "got 64000000x1 pixels, expected at most 64000000"),
    "text.png": (
        black_png(8, 8, more=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2_000_000)))),
        "over 1 MB of text",
    ),
    "cut.png": (black_png(900, 900)[:-900], "got no readable picture (image file is truncated"),
    "photo.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "got a HEIC picture, expected JPEG, PNG"),
}


def served(generator: ClipGenerator, content: bytes) -> np.ndarray:
    table = pd.DataFrame({"image": [base64.b64encode(content).decode()], "prompt": [""]})
    return requests_of(table, {}, generator)[0][0]


@pytest.mark.parametrize("name", GOOD)
def test_picture_gives_the_same_clip_from_the_command_the_page_and_the_server(
    generator: ClipGenerator, tmp_path: Path, name: str
) -> None:
    path, notes = tmp_path / name, list[str]()
    path.write_bytes(GOOD[name])
    picture = generator.pictures(path, notes.append)
    assert np.array_equal(served(generator, GOOD[name]), picture[0])
    clip = generator(path)
    for answer in demo._answer(generator, tmp_path, str(path), "", 0, ""):
        frames, _, progress = answer
        shown = [np.asarray(Image.open(frame)) for frame in frames or ()]
    # The page shows frames as `ClipGenerator.stream` does, which promises them to a grey level.
    assert np.abs(np.array(shown, int) - clip).max() <= 1
    assert all(note in progress for note in notes)
    assert bool(notes) == (name != "phone.jpg")


@pytest.mark.parametrize("name", BAD)
def test_picture_is_refused_in_the_same_words_by_the_command_the_page_and_the_server(
    generator: ClipGenerator, tmp_path: Path, name: str
) -> None:
    content, message = BAD[name]
    path = tmp_path / name
    path.write_bytes(content)
    words = []
    readers = {
        "page": lambda: list(demo._answer(generator, tmp_path, str(path), "", 0, "")),
        "server": lambda: served(generator, content),
    }
    if not name.startswith("animation"):  # the command continues it
        readers["command"] = lambda: generator.pictures(path)
    for read in readers.values():
        with pytest.raises(DataError) as refused:
            read()
        words.append(str(refused.value).removeprefix(f"{path}: ").removeprefix("row 0, image: "))
    assert message in words[0]
    assert "\n" not in words[0]
    assert words == [words[0]] * len(words)

"""`videomar generate`: refused early, whole or not at all, and never silent."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.tiny_model import write_tiny_model
from videomar.cli import make_clip as command
from videomar.cli.make_clip import check_files, make_clip
from videomar.config import Params
from videomar.errors import DataError
from videomar.sampling.generate import GenerationRequest


@pytest.fixture(scope="module")
def model(params: Params, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of clips of 16 pixels and 9 frames."""
    return str(write_tiny_model(params, tmp_path_factory.mktemp("model")))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    Image.linear_gradient("L").save(path)
    return path


def made(picture: Path, model: str, **request: object) -> list[str]:
    """Lines that are reported while a clip is made."""
    lines: list[str] = []
    make_clip(picture, picture.with_name("b.mp4"), model, "cpu", GenerationRequest(**request), lines.append)  # type: ignore[arg-type]
    assert picture.with_name("b.mp4").stat().st_size > 500
    return lines


def test_clip_within_what_was_trained_tells_its_frames_alone(picture: Path, model: str) -> None:
    [line] = made(picture, model)
    assert line.startswith("9 of 9 frames, ")


def test_clip_beyond_what_was_trained_is_made_with_warnings(picture: Path, model: str) -> None:
    size, length, *_ = made(picture, model, size=(32, 32), num_frames=13)
    assert size == "note: 32x32 pixels are beyond the trained size, about 16x16; expect repetition"
    assert length.startswith("note: 13 frames are beyond the trained length, 9;")


def test_prompt_that_the_text_encoder_cannot_read_has_one_line(picture: Path) -> None:
    note, *frames = made(picture, "shipped", prompt="一只红猫向左跑")
    assert note.startswith("note: the model's text encoder knows 14% of the prompt's words")
    assert all(" of 17 frames, " in line for line in frames)


def test_prompt_that_is_no_text_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"prompt: got '\\udcff cat', which is no text, expected words in UTF-8"
    ):
        GenerationRequest(prompt=b"\xff cat".decode("utf-8", "surrogateescape"))


def test_long_clip_tells_its_time_before_and_its_frames_meanwhile(
    picture: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(command.time, "monotonic", lambda: float(next(seconds)))  # each frame takes a second
    monkeypatch.setattr(command, "_LONG_S", 0.0)
    lines = made(picture, model, num_frames=65)
    estimate = next(line for line in lines if line.startswith("about "))
    assert estimate.endswith(" on cpu, measured on one step")
    frames = [line for line in lines if " of 65 frames" in line]
    assert frames[-1].startswith("65 of 65 frames")
    assert 3 <= len(frames) < 16  # more and more seldom
    assert lines.index(estimate) < lines.index(frames[0])


@pytest.mark.parametrize("request_", [{"num_frames": 4_000_001}, {"size": (65536, 65536)}])
def test_clip_that_cannot_fit_is_refused_with_both_numbers(
    picture: Path, model: str, request_: dict[str, object]
) -> None:
    with pytest.raises(
        DataError, match=r"which need about \d+\.\d GB, expected at most the \d+\.\d GB that are free"
    ):
        made(picture, model, **request_)
    assert not picture.with_name("b.mp4").exists()


@pytest.mark.parametrize("name", ["b.avi", "b.gif", "b", "b.mp4.txt"])
def test_suffix_that_is_not_written_is_refused(picture: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"got {name}, expected a name that ends in .mp4"):
        check_files(picture, picture.with_name(name))


def test_place_that_cannot_be_written_is_refused(picture: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(DataError, match="expected a file that can be written"):
        check_files(picture, tmp_path / "folder.mp4")
    with pytest.raises(DataError, match="expected a file that can be written"):
        check_files(picture, picture / "b.mp4")
    if os.access("/proc", os.F_OK):
        with pytest.raises(DataError, match="expected a file that can be written"):
            check_files(picture, Path("/proc/self/status/b.mp4"))
    check_files(picture, tmp_path / "new/deep/B.MP4")


def test_full_memory_is_one_line(picture: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> np.ndarray:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr("videomar.sampling.generate.ClipGenerator.decode", fail)
    with pytest.raises(DataError, match="got no more memory .* ask for fewer frames or a smaller size"):
        made(picture, model)
    monkeypatch.setattr("videomar.sampling.generate.ClipGenerator.decode", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made(picture, model)

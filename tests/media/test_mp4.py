"""Which ffmpeg encodes: the packaged one wherever it is, another only where its version is asked for."""

from pathlib import Path

import numpy as np
import pytest

from videomar.errors import DataError
from videomar.media import mp4
from videomar.media.mp4 import PACKAGED, encode, ffmpeg_version, find_ffmpeg

FRAMES = np.arange(4 * 16 * 24 * 3, dtype=np.uint8).reshape(4, 16, 24, 3)


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called ffmpeg, of version 5.1.6, before all others on PATH."""
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho ffmpeg version 5.1.6-0+deb12u1 Copyright\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return program


@pytest.mark.parametrize("version", [None, PACKAGED])
def test_packaged_program_goes_before_one_on_path(on_path: Path, version: str | None) -> None:
    assert find_ffmpeg(version) != on_path
    assert ffmpeg_version(find_ffmpeg(version)).startswith("7.")


@pytest.mark.parametrize("version", ["5", "5.1", "5.1.6", "5.1.6-0+deb12u1"])
def test_program_on_path_is_taken_where_its_version_is_asked_for(on_path: Path, version: str) -> None:
    assert find_ffmpeg(version) == on_path


@pytest.mark.parametrize("version", ["5.10", "7.0.2"])
def test_program_of_another_version_is_refused(on_path: Path, version: str) -> None:
    with pytest.raises(DataError, match=r"got 5.1.6-0\+deb12u1 .*expected " + version):
        find_ffmpeg(version)


def test_without_a_packaged_program_data_is_refused_and_a_film_to_look_at_is_not(
    on_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mp4, "_packaged_program", lambda: None)
    assert find_ffmpeg() == on_path
    with pytest.raises(DataError, match=r"set samples.ffmpeg to its version; .* has 5.1.6"):
        find_ffmpeg(PACKAGED)


def test_no_program_at_all_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mp4, "_packaged_program", lambda: None)
    monkeypatch.setenv("PATH", "")
    for version in (None, PACKAGED, "5.1"):
        with pytest.raises(DataError, match="ffmpeg"):
            find_ffmpeg(version)


def test_program_that_does_not_run_is_one_line(on_path: Path) -> None:
    on_path.write_text("#!/bin/sh\necho no library >&2\nexit 127\n")
    with pytest.raises(DataError, match="expected a program that runs"):
        find_ffmpeg("5.1")


def test_bytes_do_not_depend_on_what_is_on_path(on_path: Path, tmp_path: Path) -> None:
    for name in ("one.mp4", "two.mp4"):
        encode(tmp_path / name, FRAMES, 8.0, find_ffmpeg(PACKAGED), crf=10, preset="veryfast")
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()

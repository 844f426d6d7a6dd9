"""One film of a minute in the containers of the package iscc-samples: each holds the same frames.

Axes: F frames, H W rows and columns in pixels.
"""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import ROOT
from tests.support.videos import read_video
from videomar.errors import DataError
from videomar.media.probe import UnreadableError, probe
from videomar.sources.films import Film, fetch_film

pytestmark = pytest.mark.slow
_ARCHIVE = "iscc_samples-0.6.0.tar.gz"
_FOLDER = "iscc_samples-0.6.0/iscc_samples/files/video"
KINDS = ("3g2", "3gp", "asf", "avi", "f4v", "flv", "m1v", "m4v", "mkv", "mov", "mpeg", "mpg")
KINDS += ("rm", "swf", "vob", "webm", "wmv")
_SIZE = (88, 72)
_FRAMES, _FRAME_S = 1441, 1 / 24
# Codecs of twenty years at low rates lose up to 4.6 of 255; frames half a second apart differ by 11.
_PIXELS = 6.0
# Two empty packets stand behind the first frame of the AVI: ffmpeg shows the rest two frames late, too.
_LATE = {"avi": 2}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the package's videos."""
    film = Film(
        folder="iscc",
        package="iscc-samples",
        version="0.6.0",
        archive=_ARCHIVE,
        members=[f"{_FOLDER}/demo.mp4"],
        sha256="08a2851bd5e01ae0bdce47e1a5b9c58538888dd9c593e1c3807eb20702bde5c7",
        licence="CC BY 4.0",
        attribution="Titusz Pan, iscc-samples",
        caption="",
    )
    folder = tmp_path_factory.mktemp("iscc")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        try:
            archive = fetch_film(film).parent / _ARCHIVE
        except DataError as error:
            pytest.skip(f"iscc-samples cannot be had: {error}")
        with tarfile.open(archive) as package:
            for member in package.getmembers():
                if member.name.startswith(f"{_FOLDER}/"):
                    member.name = Path(member.name).name
                    package.extract(member, folder, filter="data")
    return folder


def frames_of(path: Path) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """Small frames (F, H, W, 3) and their times (F,)."""
    info = probe(path)
    block = read_video(path, info, _SIZE[1])
    return block[0].astype(np.int16), block[1]


@pytest.fixture(scope="module")
def whole(films: Path) -> NDArray[np.int16]:
    """The frames that all the others must show."""
    frames, times = frames_of(films / "demo.mp4")
    assert frames.shape == (_FRAMES, _SIZE[1], _SIZE[0], 3)
    np.testing.assert_allclose(times, np.arange(_FRAMES) * _FRAME_S, atol=1e-3)
    return frames


@pytest.mark.parametrize("kind", KINDS)
def test_every_container_holds_the_same_film(films: Path, whole: NDArray[np.int16], kind: str) -> None:
    frames, times = frames_of(films / f"demo.{kind}")
    assert frames.shape == whole.shape
    # A frame is shown when it is in mp4, to half its length.
    late = np.minimum(np.arange(_FRAMES), 1) * _LATE.get(kind, 0)
    assert np.abs(times - (np.arange(_FRAMES) + late) * _FRAME_S).max() < _FRAME_S / 2
    assert np.abs(frames - whole).mean(axis=(1, 2, 3)).max() < _PIXELS
    earlier = np.abs(frames[12:] - whole[:-12]).mean(axis=(1, 2, 3))
    assert np.median(earlier) > _PIXELS + 4


def test_excerpt_as_a_gif_is_the_beginning_of_the_film(films: Path, whole: NDArray[np.int16]) -> None:
    frames, times = frames_of(films / "demo.gif")
    assert len(frames) == 120
    np.testing.assert_allclose(times, np.arange(120) * _FRAME_S, atol=0.01)  # GIF has hundredths
    apart = [np.abs(frames - whole[start : start + 120]).mean() for start in range(240)]
    assert np.argmin(apart) == 0
    assert apart[0] < _PIXELS


@pytest.mark.parametrize("kind", ["ogg", "ogv"])
def test_theora_that_ffmpeg_cannot_decode_is_refused(films: Path, kind: str) -> None:
    """Of these two, three versions of FFmpeg decode 366 of 1,441 frames, half of them garbled."""
    with pytest.raises(UnreadableError, match="damaged"):
        frames_of(films / f"demo.{kind}")

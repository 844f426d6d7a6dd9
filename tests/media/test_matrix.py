"""Every codec in every container with every oddity: the frames that we read are those that ffmpeg shows.

The table of what is different says why. A few files are in every test run, all of them in `make faults`:

    python -m pytest tests/media/test_matrix.py -m slow
"""

from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.ffmpeg_reference import Distance, distance_from_ffmpeg
from tests.support.matrix_files import matrix_files

_TIME_S, _PIXELS, _ASPECT = 0.0011, 5.0, 0.01
"""Largest distances. Containers round times to the millisecond; two builds of FFmpeg enlarge colour, and
pixels that are not square, a little differently: a picture that is another differs by 20 and more."""


class Known(NamedTuple):
    """How far a film may be from ffmpeg's, and why that is right."""

    why: str
    lost: int = 0
    time_s: float = 0.0
    pixels: float = 0.0
    uneven_s: float | None = None
    """Our times, where ffmpeg's are wrong: this near to even steps; None where they are like ffmpeg's."""


_ORDER = "the container gives frames that are shown later wrong times: ffmpeg's fall, ours are put in order"
_UNTIMED = "Matroska has no times below 0: ffmpeg starts again at 0, we put those frames before"
_PUSHED = "the clock fell and the muxer pushed it on by ticks: ffmpeg shows a second of film at once"
_MADE_UP = "a bare stream of pictures without times: ours are those of its frame rate"
_TONES = "HDR is mapped to BT.709, ffmpeg shows it as it is"
KNOWN: dict[str, Known] = {
    "libxvid.mp4": Known(_ORDER, time_s=0.09),
    "libxvid.mkv": Known(_ORDER, time_s=0.09),
    "libx264.mxf": Known(_ORDER, time_s=0.09, uneven_s=_TIME_S),
    "b_frames.mxf": Known(_ORDER, time_s=0.09, uneven_s=_TIME_S),
    "vc2.drc": Known(_MADE_UP, time_s=0.002, uneven_s=0.002),
    "negative_times.mkv": Known(_UNTIMED, time_s=0.5, uneven_s=0.01),
    "jump_back_copied.ts": Known(_PUSHED, time_s=1.1, uneven_s=_TIME_S),
    "jump_back_copied.mpg": Known(_PUSHED, time_s=1.1, uneven_s=_TIME_S),
    "restart_copied.ts": Known(_PUSHED, time_s=1.1, uneven_s=0.05),
    "restart_copied.mpg": Known(_PUSHED, time_s=1.1, uneven_s=_TIME_S),
    "hdr_pq.mp4": Known(_TONES, pixels=25),
    "hdr_hlg.mkv": Known(_TONES, pixels=12),
    "hdr_pq_vp9.webm": Known(_TONES, pixels=25),
    "hdr_pq_turned.mp4": Known(_TONES, pixels=25),
}
_FAST = """
b_frames.mkv edit_list_cut.mp4 vfr.mp4 offset_hour.ts size_changes.ts
b_frames.avi libx264.wmv jump_hour.ts restart.mpg negative_times.mkv b_frames_packed.avi restart_copied.ts
libx265.mkv libvpx-vp9.webm mpeg2video.mpg prores_ks.mov flv.flv libtheora.ogv wmv2.wmv rv20.rm mjpeg.mjpeg
display_90_hflip_sar.mp4 mirrored_exif.mov sar_wide.ts odd_size_ffv1.mkv interlaced_h264.ts
small_before.mp4 still_before.mkv alpha_qtrle.mov ten_bit_422.mov grey_ffv1.mkv palette_msrle.avi
"""
FAST = set(_FAST.split())
FILES = matrix_files()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in FILES]
)
def test_film_is_read_as_ffmpeg_shows_it(tmp_path: Path, name: str) -> None:
    file = FILES[name]
    found = distance_from_ffmpeg(file.make(tmp_path), file.video, file.filters)
    known = KNOWN.get(name, Known(""))
    assert found.lost == known.lost
    assert found.misplaced == 0
    assert found.aspect == pytest.approx(1, abs=_ASPECT)
    assert found.time_s <= max(_TIME_S, known.time_s)
    assert found.pixels <= max(_PIXELS, known.pixels)
    assert known.uneven_s is None or found.uneven_s <= known.uneven_s
    assert name not in KNOWN or not _is_equal(found), f"no longer different: {known.why}"


def _is_equal(found: Distance) -> bool:
    return found.lost == 0 and found.time_s <= _TIME_S and found.pixels <= _PIXELS


def test_matrix_is_large_and_every_difference_has_a_film() -> None:
    assert len(FILES) >= 300
    assert set(KNOWN) | FAST <= set(FILES)

"""Pixels against ffmpeg's own, times that rise, and refusal of what is damaged."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pandas
import pytest
from numpy.typing import NDArray

from tests.support.videos import ODD_NAME, read_video, run_ffmpeg
from videomar.config import IngestParams
from videomar.media import decode
from videomar.media.clip_reader import (
    clip_frames,
    cover_height,
    crop_to_size,
    read_clips,
    read_ledger_clips,
)
from videomar.media.mp4 import find_ffmpeg, write_mp4
from videomar.media.probe import UnreadableError, probe
from videomar.media.shapes import ClipShape


def ffmpeg_frames(path: Path, width: int, height: int) -> NDArray[np.uint8]:
    """What a player would show: ffmpeg turns by itself."""
    command = f"-v error -nostdin -i file:{path} -vf scale={width}:{height} -fps_mode passthrough"
    raw = subprocess.run(
        [str(find_ffmpeg()), *command.split(), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
        capture_output=True,
        check=True,
    ).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


@pytest.mark.parametrize(
    ("name", "num_frames", "size"),
    [
        ("plain.mp4", 72, (96, 64)),
        ("rotated.mp4", 72, (64, 96)),
        ("wide_pixels.mp4", 72, (192, 64)),
        ("uneven.mp4", 40, (96, 64)),
        ("transport.ts", 72, (96, 64)),
    ],
)
def test_frames_are_those_that_ffmpeg_shows(
    videos: Path, name: str, num_frames: int, size: tuple[int, int]
) -> None:
    frames, times = read_video(videos / name, probe(videos / name), 1000)
    assert frames.shape == (num_frames, size[1], size[0], 3)
    difference = np.abs(frames.astype(int) - ffmpeg_frames(videos / name, *size)).mean(axis=(1, 2, 3))
    assert difference.max() < 1
    assert times[0] == 0
    assert (np.diff(times) > 0).all()


def test_frames_are_shrunk_while_decoding(videos: Path) -> None:
    frames, _ = read_video(videos / "rotated.mp4", probe(videos / "rotated.mp4"), 48)
    assert frames.shape == (72, 48, 32, 3)


def test_times_of_an_uneven_video_are_its_own(videos: Path) -> None:
    _, times = read_video(videos / "uneven.mp4", probe(videos / "uneven.mp4"), 32)
    np.testing.assert_allclose(np.diff(times[:24]), 1 / 24, atol=1e-3)
    np.testing.assert_allclose(np.diff(times[25:]), 3 / 24, atol=1e-3)


def test_cut_off_a_key_frame_brings_no_frame_twice(videos: Path) -> None:
    path = videos / "edit_list.mp4"
    frames, times = read_video(path, probe(path), 32)
    assert (np.abs(np.diff(frames.astype(int), axis=0)).mean(axis=(1, 2, 3)) > 0).all()
    assert (np.diff(times) > 0).all()


def test_truncated_file_is_refused_as_damaged(videos: Path) -> None:
    with pytest.raises(UnreadableError, match="damaged"):
        read_video(videos / "truncated.mp4", probe(videos / "truncated.mp4"), 32)


@pytest.mark.parametrize("handed_out", [0, 64, 150])
def test_where_the_first_decoder_fails_the_second_goes_on(
    videos: Path, monkeypatch: pytest.MonkeyPatch, handed_out: int
) -> None:
    """No frame is lost and none comes twice, though the decoders round times differently."""
    path = videos / "long_gop.mp4"
    monkeypatch.setattr(decode, "_DECORD_CONTAINERS", ())
    frames, times = read_video(path, probe(path), 64)

    def fails(*_: object) -> Iterator[decode.FrameBlock]:
        for first in range(0, handed_out, 64):
            part = slice(first, min(first + 64, handed_out))
            yield decode.FrameBlock(255 - frames[part], times[part].astype(np.float32).astype(float))
        raise decode._DecoderError

    monkeypatch.setattr(decode, "_decord_blocks", fails)
    again, times_again = read_video(path, probe(path), 64)
    np.testing.assert_array_equal(again[:handed_out], 255 - frames[:handed_out])
    np.testing.assert_array_equal(again[handed_out:], frames[handed_out:])
    np.testing.assert_allclose(times_again, times, atol=1e-6)


@pytest.mark.parametrize("name", ["plain.mp4", "rotated.mp4", "uneven.mp4", ODD_NAME])
def test_clips_equal_the_frames_of_the_whole_video(videos: Path, name: str, clip_shape: ClipShape) -> None:
    path = videos / name
    info = probe(path)
    frames, times = read_video(path, info, cover_height(info, (32, 32)))
    clips = read_clips(path, [1.5, 0.0, 1.5], clip_shape)
    assert clips.shape == (3, 9, 32, 32, 3)
    for clip, start_s in zip(clips, [1.5, 0.0, 1.5], strict=True):
        chosen = frames[clip_frames(times, start_s, clip_shape)]
        np.testing.assert_array_equal(clip, crop_to_size(chosen, (32, 32)))


def pyav_frames(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Every frame from first to last at 64 x 64, without any seeking."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    small = [frame.reformat(64, 64, "rgb24", interpolation="BICUBIC").to_ndarray() for frame in frames]
    return np.stack(small), np.array([frame.time for frame in frames])


@pytest.mark.parametrize("name", ["long_gop.mp4", "long_gop_rotated.mp4"])
def test_clips_far_apart_equal_a_read_in_order(videos: Path, name: str, clip_shape: ClipShape) -> None:
    starts = [14.2, 0.0, 3.1, 9.5, 5.04]
    frames, times = pyav_frames(videos / "long_gop.mp4")
    clips = read_clips(videos / name, starts, clip_shape)
    for clip, start_s in zip(clips, starts, strict=True):
        chosen = frames[clip_frames(times - times[0], start_s, clip_shape)]
        upright = np.rot90(chosen, k=-1, axes=(1, 2)) if "rotated" in name else chosen
        difference = np.abs(clip.astype(int) - crop_to_size(upright, (32, 32))).mean(axis=(1, 2, 3))
        assert difference.max() < 4  # the decoders scale a little differently; another frame differs by 10


@pytest.mark.parametrize("name", ["long_gop.mp4", "long_gop_rotated.mp4", "120_fps.mp4"])
def test_clips_far_apart_take_no_more_memory_than_one(
    videos: Path, tmp_path: Path, name: str, clip_shape: ClipShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the frame rate; the limit is less than twice a clip."""
    path = videos / name
    if name == "120_fps.mp4":
        path = tmp_path / name
        source = "testsrc2=size=96x96:rate=120:duration=15"
        run_ffmpeg(tmp_path, "-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p", name)
    monkeypatch.setattr("videomar.media.clip_reader._MAX_BYTES", 4.6 * 64 * 64 * 3)
    assert len(read_video(path, probe(path), 64)[1]) > 300
    assert read_clips(path, [3.0, 12.0], clip_shape).shape == (2, 9, 32, 32, 3)


def test_clip_frames_are_those_that_a_player_shows(clip_shape: ClipShape) -> None:
    times = np.sort(np.random.default_rng(0).uniform(0, 3, 50))
    wanted = 0.3 + 0.001 + np.arange(9) / 8
    expected = [max(index for index in range(50) if times[index] <= time) for time in wanted]
    assert clip_frames(times, 0.3, clip_shape).tolist() == expected


def test_frame_held_before_a_cut_stays_on_show(clip_shape: ClipShape) -> None:
    assert clip_frames(np.array([0.0, 0.2, 1.2, 1.3]), 0.0, clip_shape).tolist() == [0, 0] + [1] * 7


def test_time_rounded_to_the_millisecond_is_that_of_its_frame(clip_shape: ClipShape) -> None:
    times = np.arange(90) / 30
    assert clip_frames(times, round(times[11], 3), clip_shape)[0] == 11


def test_ledger_clips_come_in_the_order_of_the_rows(
    videos: Path, ingest_params: IngestParams, clip_shape: ClipShape
) -> None:
    rows = pandas.DataFrame(
        {"video": ["uneven.mp4", "plain.mp4", "uneven.mp4"], "start_s": [1.0, 0.5, 0.0]}, index=[7, 3, 3]
    ).assign(clip_width_px=32, clip_height_px=32, num_frames=9)
    clips = read_ledger_clips(videos, rows, ingest_params)
    np.testing.assert_array_equal(clips[0], read_clips(videos / "uneven.mp4", [1.0], clip_shape)[0])
    np.testing.assert_array_equal(clips[1], read_clips(videos / "plain.mp4", [0.5], clip_shape)[0])
    np.testing.assert_array_equal(clips[2], read_clips(videos / "uneven.mp4", [0.0], clip_shape)[0])


@pytest.mark.parametrize("shape", [(2, 40, 64, 3), (2, 64, 40, 3), (2, 20, 31, 3)])
def test_crop_keeps_the_centre(shape: tuple[int, ...]) -> None:
    frames = np.zeros(shape, np.uint8)
    frames[:, shape[1] // 2 - 4 : shape[1] // 2 + 4, shape[2] // 2 - 4 : shape[2] // 2 + 4] = 255
    square = crop_to_size(frames, (32, 32))
    assert square.shape == (2, 32, 32, 3)
    rows, columns = np.nonzero(square[0, :, :, 0] > 127)
    assert abs(rows.mean() - 15.5) <= 1
    assert abs(columns.mean() - 15.5) <= 1


@pytest.mark.parametrize("source", [(320, 180), (180, 320), (200, 200), (400, 120)])
@pytest.mark.parametrize("size", [(88, 48), (48, 88), (64, 64), (56, 80)])
def test_circle_stays_a_circle(tmp_path: Path, source: tuple[int, int], size: tuple[int, int]) -> None:
    """Whatever the proportions of video and clip, across and down are right to a pixel."""
    rows, columns = np.mgrid[: source[1], : source[0]]
    radius = 0.3 * min(source)
    disc = np.hypot(rows - (source[1] - 1) / 2, columns - (source[0] - 1) / 2) < radius
    picture = np.where(disc[..., None], 230, 20).astype(np.uint8).repeat(3, 2)
    write_mp4(tmp_path / "a.mp4", np.stack([picture] * 8), 8.0)
    [clip] = read_clips(tmp_path / "a.mp4", [0.0], ClipShape(size[1], size[0], 8.0, 5))
    assert clip.shape == (5, size[1], size[0], 3)
    light = clip[2, ..., 0] / 210.0 - 20 / 210
    scale = max(size[0] / source[0], size[1] / source[1])
    across, down = light[size[1] // 2].sum(), light[:, size[0] // 2].sum()
    visible = [min(2 * radius * scale, side) for side in size]
    assert across == pytest.approx(visible[0], abs=1)
    assert down == pytest.approx(visible[1], abs=1)


def test_ledger_clips_may_differ_in_shape(videos: Path, ingest_params: IngestParams) -> None:
    rows = pandas.DataFrame(
        [("plain.mp4", 0.0, 48, 32, 9), ("rotated.mp4", 0.5, 32, 48, 5), ("plain.mp4", 1.0, 48, 32, 5)],
        columns=["video", "start_s", "clip_width_px", "clip_height_px", "num_frames"],
    )
    clips = read_ledger_clips(videos, rows, ingest_params)
    assert [clip.shape for clip in clips] == [(9, 32, 48, 3), (5, 48, 32, 3), (5, 32, 48, 3)]
    np.testing.assert_array_equal(
        clips[2], read_clips(videos / "plain.mp4", [1.0], ClipShape(32, 48, 8.0, 5))[0]
    )


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_decoder_loads_no_library_of_cuda(tmp_path: Path) -> None:
    """One of those beside torch would take the place of numpy's BLAS, and crash."""
    any_library = next(Path(sysconfig.get_config_var("DESTSHARED")).glob("_heapq*.so"))
    (tmp_path / "nvidia/cublas/lib").mkdir(parents=True)
    shutil.copy(any_library, tmp_path / "nvidia/cublas/lib/libnvblas.so")
    code = "import videomar.media.decode, pathlib; print(pathlib.Path('/proc/self/maps').read_text())"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "libdecord" in done.stdout
    assert "libnvblas" not in done.stdout


def test_frames_behind_the_end_of_an_edit_list_are_not_shown(videos: Path, tmp_path: Path) -> None:
    """A film whose end was trimmed on a phone still holds what was trimmed."""
    data = bytearray((videos / "plain.mp4").read_bytes())
    length = data.index(b"elst") + 12
    assert int.from_bytes(data[length : length + 4], "big") == 3000
    data[length : length + 4] = (1500).to_bytes(4, "big")
    path = tmp_path / "trimmed.mp4"
    path.write_bytes(data)
    frames, times = read_video(path, probe(path), 1000)
    shown = ffmpeg_frames(path, 96, 64)
    assert len(shown) == len(frames) == 36
    assert np.abs(frames.astype(int) - shown).mean(axis=(1, 2, 3)).max() < 1
    assert times[-1] == pytest.approx(35 / 24)

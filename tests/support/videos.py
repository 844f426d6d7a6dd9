"""Tiny real video files, good and bad, made once a session."""

import shutil
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from videomar.config import CurateParams, IngestParams
from videomar.curation.shots import Shot, video_end
from videomar.media.cuts import find_cuts
from videomar.media.decode import open_video
from videomar.media.mp4 import find_ffmpeg
from videomar.media.probe import VideoInfo
from videomar.media.shapes import ClipShape

ODD_NAME = "-a \"b'é\n.mp4"


def read_video(path: Path, info: VideoInfo, height_px: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """All frames (F, H, W, 3) of a video and their times (F,)."""
    blocks = list(open_video(path, info, height_px))
    times = np.concatenate([block.times for block in blocks])
    return np.concatenate([block.frames for block in blocks]), times


def find_shots(
    frames: NDArray[np.uint8], times: NDArray[np.float64], caption: str, params: IngestParams
) -> list[Shot]:
    """Shots of a video that is held as a whole: what finding them in one pass must come to."""
    cuts = find_cuts(frames, params.shot_threshold)
    edges = [float(times[cut]) for cut in sorted({0, *cuts})] + [video_end(times)]
    return [Shot(start, end, caption) for start, end in pairwise(edges)]


@pytest.fixture(scope="session")
def ingest_params() -> IngestParams:
    return IngestParams(
        size_px=32,
        aspect_ratios=("1:1",),
        side_multiple_px=4,
        fps=8.0,
        num_frames=9,
        shorter_clips=(),
        stride_frames=4,
        still_pictures=False,
        shot_threshold=27.0,
        timeout_s=60.0,
        memory_gb=2.0,
        num_workers=1,
        device="cpu",
        captioner=None,
        scorers={},
    )


@pytest.fixture(scope="session")
def clip_shape(ingest_params: IngestParams) -> ClipShape:
    """Of square clips of these parameters."""
    size_px = ingest_params.size_px
    return ClipShape(size_px, size_px, ingest_params.fps, ingest_params.num_frames)


@pytest.fixture
def curate_params() -> CurateParams:
    return CurateParams(
        min_size_px=32,
        min_motion=0.3,
        max_motion=40.0,
        min_brightness=8.0,
        max_brightness=247.0,
        min_contrast=6.0,
        min_sharpness=1.0,
        max_frozen_share=0.5,
        max_flicker=4.0,
        max_letterbox_share=0.1,
        min_scores={},
        max_duplicate_bits=12,
        max_duplicate_colour=6,
        expected_drop_share=0.0,
        max_drop_change=0.2,
        val_share=0.1,
        test_share=0.2,
        test_videos=(),
        seed=0,
    )


def run_ffmpeg(folder: Path, *arguments: str) -> None:
    subprocess.run(
        [str(find_ffmpeg()), "-v", "error", "-nostdin", "-y", *arguments], check=True, cwd=folder, timeout=60
    )


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of videos: see the names."""
    folder = tmp_path_factory.mktemp("videos")

    def make(*arguments: str) -> None:
        run_ffmpeg(folder, *arguments)

    source = ["-f", "lavfi", "-i", "testsrc2=size=96x64:rate=24:duration=3,gblur=2"]
    make(*source, "-pix_fmt", "yuv420p", "-threads", "1", "plain.mp4")
    make("-display_rotation", "-90", "-i", "plain.mp4", "-c", "copy", "rotated.mp4")
    make("-i", "plain.mp4", "-vf", "setsar=2", "-pix_fmt", "yuv420p", "wide_pixels.mp4")
    moving = "testsrc2=size=96x96:rate=24:duration=16,rotate=t/3,gblur=1"
    # Frames that come before a key frame and need it: where decord seeks in this file, it errs.
    x264 = ["-g", "250", "-bf", "3", "-sc_threshold", "0", "-x264-params", "open-gop=1", "-threads", "1"]
    make("-f", "lavfi", "-i", moving, *x264, "-pix_fmt", "yuv420p", "long_gop.mp4")
    make("-display_rotation", "-90", "-i", "long_gop.mp4", "-c", "copy", "long_gop_rotated.mp4")
    uneven = "select='lt(n,24)+not(mod(n,3))'"
    make("-i", "plain.mp4", "-vf", uneven, "-fps_mode", "vfr", "-pix_fmt", "yuv420p", "uneven.mp4")
    make("-i", "plain.mp4", "-c", "copy", "transport.ts")
    make("-i", "plain.mp4", "-c", "copy", "-movflags", "faststart", "whole.mp4")
    make("-f", "lavfi", "-i", "sine=duration=1", "sound.mp4")
    make("-i", "plain.mp4", "-frames:v", "1", "picture.png")
    make("-ss", "0.7", "-i", "plain.mp4", "-c", "copy", "edit_list.mp4")
    whole = (folder / "whole.mp4").read_bytes()
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no video at all\n" * 50)
    (folder / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:3,\ntransport.ts\n#EXT-X-ENDLIST\n")
    shutil.copy(folder / "plain.mp4", folder / ODD_NAME)
    return folder


@pytest.fixture
def copied(videos: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies the named videos into a fresh folder."""

    def copy(*names: str) -> Path:
        raw = tmp_path / "raw"
        raw.mkdir()
        for name in names:
            shutil.copy(videos / name, raw / name)
        return raw

    return copy

"""Files whose times are missing, wrong or jump: every frame that ffmpeg shows is there, in its place."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from tests.media.test_decode import ffmpeg_frames
from tests.support.videos import run_ffmpeg
from videomar.cli.ledger_commands import app
from videomar.config import CurateParams, IngestParams
from videomar.curation.curate import curate_clips
from videomar.curation.ingest import ingest_videos
from videomar.curation.ledger import read_candidates
from videomar.media import decode
from videomar.media.decode import FrameBlock, open_video
from videomar.media.probe import probe
from videomar.media.timeline import FrameCounts

RATE, SIZE = 24, (160, 120)
FILM = ["-f", "lavfi", "-i", "testsrc2=size=160x120:rate=24:duration=5,gblur=1"]
X264 = ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "3", "-pix_fmt", "yuv420p", "-threads", "1"]
HOUR = 3600


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("times")


@pytest.fixture(scope="module")
def make(folder: Path) -> Callable[..., Path]:
    """Makes a file of five seconds, or parts of these one behind the other."""

    def encoded(name: str, *options: str) -> Path:
        if not (folder / name).exists():
            run_ffmpeg(folder, *FILM, *(options or X264), name)
        return folder / name

    def joined(name: str, *offsets_s: int) -> Path:
        suffix = Path(name).suffix
        parts = [encoded(f"{abs(at_s)}{suffix}", *X264, "-output_ts_offset", str(at_s)) for at_s in offsets_s]
        (folder / name).write_bytes(b"".join(part.read_bytes() for part in parts))
        return folder / name

    return lambda name, *how: (joined if how and isinstance(how[0], int) else encoded)(name, *how)


def read(path: Path) -> FrameBlock:
    """The whole video as one block."""
    blocks = list(open_video(path, probe(path), SIZE[1]))
    before = np.cumsum([0, *(len(block.times) for block in blocks)])
    cuts = [int(first) + cut for first, block in zip(before, blocks, strict=False) for cut in block.cuts]
    return FrameBlock(
        np.concatenate([block.frames for block in blocks]),
        np.concatenate([block.times for block in blocks]),
        tuple(cuts),
        blocks[-1].counts,
    )


def assert_as_ffmpeg(frames: NDArray[np.uint8], path: Path) -> None:
    expected = ffmpeg_frames(path, *SIZE)
    assert frames.shape == expected.shape
    assert np.abs(frames.astype(int) - expected).mean(axis=(1, 2, 3)).max() < 1.5  # the next one: over 3


AVI = {
    "xvid": (["-c:v", "libxvid", "-bf", "2", "-q:v", "3"], 118),
    "mpeg4": (["-c:v", "mpeg4", "-bf", "2", "-q:v", "3"], 120),
    "h264": (X264, 120),
    "plain": (["-c:v", "mpeg4", "-bf", "0", "-q:v", "3"], 120),
}


@pytest.mark.parametrize("codec", AVI)
def test_avi_keeps_every_frame_in_its_place(make: Callable[..., Path], codec: str) -> None:
    """AVI has no times of presentation: with B-frames those that decoders return do not rise."""
    options, count = AVI[codec]
    path = make(f"{codec}.avi", *options)
    video = read(path)
    assert_as_ffmpeg(video.frames, path)
    np.testing.assert_allclose(video.times, np.arange(count) / RATE, atol=1e-3)
    assert video.cuts == ()
    assert video.counts.lost == video.counts.invented == 0


@pytest.mark.parametrize(
    ("name", "offsets_s"),
    [
        ("hour.ts", (0, HOUR)),
        ("day.ts", (0, 22 * HOUR)),
        ("restart.ts", (0, 0)),
        ("back.ts", (HOUR, 0)),
        ("restart.mkv", (0, 0)),
    ],
)
def test_joined_parts_are_as_long_as_their_film(
    make: Callable[..., Path], name: str, offsets_s: tuple[int, ...]
) -> None:
    path = make(name, *offsets_s)
    video = read(path)
    assert_as_ffmpeg(video.frames, path)
    np.testing.assert_allclose(video.times, np.arange(240) / RATE, atol=2e-3)
    assert video.cuts == (120,)
    assert video.counts == FrameCounts(retimed=120)


@pytest.mark.parametrize("container", ["mkv", "mp4"])
def test_jump_is_known_in_a_copy_to_another_container(make: Callable[..., Path], container: str) -> None:
    make("hour.ts", 0, HOUR)
    path = make(f"hour.{container}", "-copyts", "-i", "hour.ts", "-map", "1:v", "-c", "copy")
    video = read(path)
    np.testing.assert_allclose(video.times, np.arange(240) / RATE, atol=2e-3)
    assert video.cuts == (120,)


def test_clock_of_33_bits_that_wraps_is_no_jump(make: Callable[..., Path]) -> None:
    video = read(make("wrap.ts", *X264, "-output_ts_offset", "95441"))
    np.testing.assert_allclose(video.times, np.arange(120) / RATE, atol=1e-3)
    assert (video.cuts, video.counts) == ((), FrameCounts())


@pytest.mark.parametrize("name", ["bare.h264", "bare.m1v", "bare.m2v"])
def test_stream_without_times_has_one_frame_after_another(make: Callable[..., Path], name: str) -> None:
    codec = {".h264": X264, ".m1v": ["-c:v", "mpeg1video", "-bf", "2", "-q:v", "2"]}
    path = make(name, *codec.get(Path(name).suffix, ["-c:v", "mpeg2video", "-bf", "2", "-q:v", "2"]))
    video = read(path)
    assert_as_ffmpeg(video.frames, path)
    np.testing.assert_allclose(video.times, np.arange(120) / RATE, atol=1e-3)
    assert video.counts == FrameCounts(retimed=120)


ODD_TIMES = {
    "repeated.ts": "floor(TS/2048)*2048",  # four frames, or a tick between them
    "at_once.nut": "0",
    "short.mp4": "if(mod(N\\,2)\\,TS-511\\,TS)",  # every second packet lasts a tick
}


@pytest.mark.parametrize("name", ODD_TIMES)
def test_repeated_times_are_spread(make: Callable[..., Path], name: str) -> None:
    make("no_b.mp4", *X264, "-bf", "0")
    path = make(name, "-i", "no_b.mp4", "-map", "1:v", "-c", "copy", "-bsf:v", f"setts=ts={ODD_TIMES[name]}")
    video = read(path)
    assert_as_ffmpeg(video.frames, path)
    np.testing.assert_allclose(video.times, np.arange(120) / RATE, atol=0.03)
    assert all(after - before > 0.01 for before, after in pairwise(video.times))
    assert video.counts.retimed > 50


def test_permuted_times_are_sorted(make: Callable[..., Path]) -> None:
    """An mp4 whose writer knew of no B-frames: the time of each is that of its place in the file."""
    make("b.mp4", *X264)
    shifted = "setts=pts=DTS+1024:dts=DTS+1024"
    path = make("no_composition.mp4", "-i", "b.mp4", "-map", "1:v", "-c", "copy", "-bsf:v", shifted)
    video = read(path)
    assert_as_ffmpeg(video.frames, path)
    np.testing.assert_allclose(video.times, np.arange(120) / RATE, atol=1e-3)


@pytest.mark.parametrize("name", ["hold.mp4", "hold.mkv", "slow.mp4", "slow.ts"])
def test_long_hold_is_no_jump(make: Callable[..., Path], name: str) -> None:
    """A screen recording in which nothing changes for two minutes; one frame a second."""
    pts = "N*1/TB" if name.startswith("slow") else "N/24/TB+gte(N\\,60)*120/TB"
    path = make(name, "-vf", f"setpts='{pts}'", "-fps_mode", "vfr", *X264)
    video = read(path)
    frames = np.arange(len(ffmpeg_frames(path, *SIZE)))  # the edit list of one hides its last frame
    expected = frames if name.startswith("slow") else frames / RATE + 120 * (frames >= 60)
    np.testing.assert_allclose(video.times, expected, atol=2e-3)
    assert (video.cuts, video.counts) == ((), FrameCounts())


def test_frames_before_the_first_key_frame_are_lost(
    make: Callable[..., Path], folder: Path, ingest_params: IngestParams, caplog: pytest.LogCaptureFixture
) -> None:
    """As of a broadcast that was recorded from its middle on."""
    whole = make("gop.ts", *X264, "-g", "48", "-x264-params", "open-gop=0")
    data = whole.read_bytes()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    path = folder / "raw/middle.ts"
    path.parent.mkdir()
    path.write_bytes(b"".join(packets[:3] + packets[len(packets) // 4 :]))
    video = read(path)
    assert video.cuts == ()
    assert len(video.times) == 72
    assert video.counts.lost == len(demuxed(path)) - 72 > 10
    figures = ingest_videos(folder / "raw", folder / "candidates.parquet", ingest_params)
    assert figures["lost_frames"] == video.counts.lost
    assert f"{video.counts.lost} frames could not be decoded" in caplog.text


def demuxed(path: Path) -> list[decode.Stamp]:
    with decode.open_container(path) as container:
        return [
            decode._stamp(packet) for packet in container.demux(container.streams.video[0]) if packet.size
        ]


@pytest.mark.parametrize("name", ["b.mp4", "plain.avi", "b.mkv"])
def test_first_decoder_reads_what_is_in_order(make: Callable[..., Path], name: str) -> None:
    path = make(name, *(AVI["plain"][0] if name.endswith("avi") else X264))
    assert next(decode._decord_blocks(path, probe(path), SIZE)).counts == FrameCounts()


def test_first_decoder_is_not_trusted_with_other_times(
    make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make("b.mp4", *X264)
    times = np.arange(120) / RATE
    decode._check_times(path, probe(path), times)
    for wrong in (times[:-1], times * 1.001, times + (np.arange(120) > 60) * 0.005):
        with pytest.raises(decode._DecoderError):
            decode._check_times(path, probe(path), wrong)


def test_clips_of_joined_parts(
    make: Callable[..., Path], tmp_path: Path, ingest_params: IngestParams, curate_params: CurateParams
) -> None:
    """Ten seconds of film are ten seconds of clips, none across the jump; the ledger says what changed."""
    raw = tmp_path / "raw"
    raw.mkdir()
    names = ["hour.ts", "day.ts", "xvid.avi", "b.mkv"]
    make("b.mkv", *X264)
    for name in names:
        path = make("hour.ts", 0, HOUR) if name == "hour.ts" else make("day.ts", 0, 22 * HOUR)
        path = path if name.endswith(".ts") else make(name, *AVI["xvid"][0])
        (raw / name).write_bytes(path.read_bytes())
    figures = ingest_videos(raw, tmp_path / "candidates.parquet", ingest_params)
    rows = read_candidates(tmp_path / "candidates.parquet")
    for name in names[:2]:
        found = rows[rows["video"] == name]
        assert len(found) == 16  # eight windows of 9 frames, 4 apart, in each five seconds
        assert found["end_s"].max() <= 10.001
        assert not ((found["start_s"] < 4.99) & (found["end_s"] > 5.01)).any()
        assert set(found["retimed_frames"]) == {120}
        assert set(found["lost_frames"]) == set(found["invented_frames"]) == {0}
    assert set(rows[rows["video"] == "b.mkv"]["retimed_frames"]) == {0}
    xvid = rows[rows["video"] == "xvid.avi"]["retimed_frames"].iloc[0]
    assert figures["retimed_frames"] == 240 + xvid
    assert "lost_frames" not in figures
    candidates, ledger = tmp_path / "candidates.parquet", tmp_path / "ledger.parquet"
    (tmp_path / "takedowns.csv").write_text("video_sha256,video,reason,removed_at\n")
    curate_clips(candidates, tmp_path / "takedowns.csv", ledger, curate_params)
    shown = CliRunner().invoke(app, ["show", "--ledger", str(ledger)]).output
    shown = " ".join(shown.split())
    _, title, listed = shown.partition("3 videos have frames that were not in their place")
    assert title
    assert "b.mkv" not in listed

"""Every odd file: the clips that are found, or the reason that stands in their place."""

import dataclasses
import shutil
import socket
import threading
from pathlib import Path

import av
import numpy as np
import pandas
import pytest
from numpy.typing import NDArray

from tests.media.test_decode import ffmpeg_frames
from tests.support.videos import read_video, run_ffmpeg
from videomar.config import IngestParams
from videomar.curation.ingest import ingest_videos
from videomar.curation.ledger import read_candidates
from videomar.media.probe import probe

PLAIN = 4  # clips in three seconds of plain.mp4


@pytest.fixture(scope="module")
def odd(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More odd files, beside copies of the session's."""
    folder = tmp_path_factory.mktemp("odd")
    for name in ("plain.mp4", "rotated.mp4", "truncated.mp4", "empty.mp4", "sound.mp4", "transport.ts"):
        shutil.copy(videos / name, folder / name)

    def make(*arguments: str) -> None:
        run_ffmpeg(folder, *arguments)

    source = "testsrc2=size=96x64:rate=24:duration=3,gblur=2"
    wide = ["-color_primaries", "bt2020", "-colorspace", "bt2020nc"]
    # BT.709 red of 100 nits: the code values of its BT.2020 light under each transfer, set as 10-bit greys.
    for name, transfer, code in (("pq", "smpte2084", "0x764930"), ("hlg", "arib-std-b67", "0xAF3A1C")):
        red = f"color={code}:size=96x64:rate=24:duration=2,format=gbrp,scale=out_color_matrix=bt2020"
        make(
            "-f", "lavfi", "-i", red, "-pix_fmt", "yuv420p10le", *wide, "-color_trc", transfer, f"{name}.mp4"
        )
    make("-i", "plain.mp4", "-pix_fmt", "yuv420p10le", "-crf", "4", "ten_bit.mp4")
    fields = "testsrc2=size=96x64:rate=48:duration=3,scroll=horizontal=0.03,gblur=1,interlace=lowpass=off"
    make("-f", "lavfi", "-i", fields, "-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-q:v", "2", "fields.ts")
    half_red = "color=red:size=96x64:rate=24:duration=2,format=rgba,colorchannelmixer=aa=0.5"
    make("-f", "lavfi", "-i", half_red, "-c:v", "qtrle", "alpha.mov")
    make("-f", "lavfi", "-i", source.replace("96x64", "95x63"), "-pix_fmt", "yuv444p", "odd_size.mp4")
    # Headers that say 300 seconds, of which a hundredth is there.
    data = bytearray((folder / "plain.mp4").read_bytes())
    for box, place in ((b"mvhd", 20), (b"tkhd", 24)):
        start = data.index(box) + place
        data[start : start + 4] = (300_000).to_bytes(4, "big")
    (folder / "wrong_duration.mp4").write_bytes(data)
    (folder / "ffconcat.mp4").write_text("ffconcat version 1.0\nfile plain.mp4\n")
    (folder / "hls.mp4").write_text("#EXTM3U\n#EXTINF:3,\ntransport.ts\n#EXT-X-ENDLIST\n")
    (folder / "picture.mp4").write_bytes((videos / "picture.png").read_bytes())
    return folder


NAMES = ["no_extension", "UPPER.MP4", "wrong.mkv", "-dash.mp4", "a b.mp4", "a'b\"c.mp4", "line\nbreak.mp4"]
NAMES += ["日本é.mp4", "100%d.mp4", "http:colon.mp4", "[x]*?.mp4", "$(x);&.mp4"]


ROWS: list[tuple[str, str, int | str]] = [("plain.mp4", name, PLAIN) for name in NAMES] + [
    ("ten_bit.mp4", "ten_bit.mp4", PLAIN),
    ("odd_size.mp4", "odd_size.mp4", PLAIN),
    ("rotated.mp4", "rotated.mp4", PLAIN),
    ("wrong_duration.mp4", "wrong_duration.mp4", PLAIN),
    ("alpha.mov", "alpha.mov", 2),
    ("pq.mp4", "pq.mp4", 2),
    ("truncated.mp4", "truncated.mp4", "damaged: "),
    ("empty.mp4", "empty.mp4", "empty_file"),
    ("sound.mp4", "sound.mp4", "no_video_stream"),
    ("picture.mp4", "picture.mp4", "still_picture: "),
    ("ffconcat.mp4", "ffconcat.mp4", "not_a_video"),
    ("hls.mp4", "hls.mp4", "not_a_video"),
]


@pytest.fixture(scope="module")
def rows(
    odd: Path, tmp_path_factory: pytest.TempPathFactory, ingest_params: IngestParams
) -> pandas.DataFrame:
    """Candidates of all odd files in one folder, none the duplicate of another."""
    folder = tmp_path_factory.mktemp("ingested")
    (folder / "raw").mkdir()
    for number, (source, name, _) in enumerate(ROWS):
        data = (odd / source).read_bytes()
        # An empty box at the end, which players skip.
        box = (12).to_bytes(4, "big") + b"free" + number.to_bytes(4, "big")
        (folder / "raw" / name).write_bytes(data + box if source == "plain.mp4" else data)
    ingest_videos(folder / "raw", folder / "out.parquet", ingest_params)
    return read_candidates(folder / "out.parquet")


@pytest.mark.parametrize(("name", "expected"), [row[1:] for row in ROWS])
def test_odd_file_has_its_clips_or_its_reason(rows: pandas.DataFrame, name: str, expected: int | str) -> None:
    reasons = rows[rows["video"] == name]["reason"].tolist()
    if isinstance(expected, int):
        assert reasons == [None] * expected or (len(reasons) == expected and pandas.isna(reasons).all())
    else:
        assert len(reasons) == 1
        assert reasons[0].startswith(expected)


def frames_of(path: Path) -> NDArray[np.int64]:
    return read_video(path, probe(path), 1000)[0].astype(np.int64)


def test_ten_bits_become_the_eight_that_ffmpeg_makes(odd: Path) -> None:
    difference = np.abs(frames_of(odd / "ten_bit.mp4") - ffmpeg_frames(odd / "ten_bit.mp4", 96, 64))
    # Two builds of FFmpeg enlarge colour a little differently; a wrong depth or range differs by tens.
    assert difference.mean(axis=(1, 2, 3)).max() < 3


@pytest.mark.parametrize("name", ["pq.mp4", "hlg.mp4"])
def test_hdr_red_is_red_in_bt709(odd: Path, name: str) -> None:
    assert probe(odd / name).wide_colour
    info = probe(odd / name)
    raw, _ = read_video(odd / name, dataclasses.replace(info, wide_colour=False), 64)
    mapped, _ = read_video(odd / name, info, 64)
    red, green, blue = mapped.mean(axis=(0, 1, 2))
    assert red > 110
    # Read as if it were BT.709 the colour is paler.
    assert max(green, blue) / red < 0.95 * raw[..., 1].mean() / raw[..., 0].mean()


def combing(frames: NDArray[np.int64]) -> float:
    """How much each row differs from the mean of its neighbours."""
    return float(np.abs(2 * frames[:, 1:-1] - frames[:, :-2] - frames[:, 2:]).mean())


def test_size_that_changes_midway_is_rescaled_and_no_frame_repeated(
    tmp_path: Path, ingest_params: IngestParams
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    # Two grey levels that rise, first at 96 x 64, then at 160 x 96, in one stream of packets.
    for name, size, start in (("a", "96x64", 40), ("b", "160x96", 130)):
        rising = f"color=black:size={size}:rate=24:duration=1,geq=lum='{start}+3*N':cb=128:cr=128"
        run_ffmpeg(tmp_path, "-f", "lavfi", "-i", rising, "-c:v", "mpeg2video", "-q:v", "2", f"{name}.ts")
    # Joined by their bytes: ffmpeg's own `concat` would make a new stream of one size.
    listed = "concat:a.ts|b.ts"
    run_ffmpeg(tmp_path, "-i", listed, "-c", "copy", "raw/joined.ts")
    path = raw / "joined.ts"
    with av.open(path) as video:
        assert {(frame.width, frame.height) for frame in video.decode(video=0)} == {(96, 64), (160, 96)}
    frames, _ = read_video(path, probe(path), 1000)
    assert frames.shape[0] == pytest.approx(48, abs=1)
    assert frames.shape[1:] == (64, 96, 3)
    light = frames.astype(np.int64).mean(axis=(1, 2, 3))
    assert (np.diff(light) > 1).all()
    assert light[-1] - light[0] > 150
    ingest_videos(raw, tmp_path / "out.parquet", ingest_params)
    assert read_candidates(tmp_path / "out.parquet")["start_s"].tolist() == [0.0, 0.5]


def test_fields_are_joined(odd: Path) -> None:
    info = probe(odd / "fields.ts")
    assert info.interlaced
    combed, _ = read_video(odd / "fields.ts", dataclasses.replace(info, interlaced=False), 1000)
    joined, times = read_video(odd / "fields.ts", info, 1000)
    assert combing(joined.astype(np.int64)) < 0.6 * combing(combed.astype(np.int64))
    np.testing.assert_allclose(np.diff(times), 1 / 24, atol=1e-3)


def test_transparent_pixels_stand_on_black(odd: Path) -> None:
    assert np.abs(frames_of(odd / "alpha.mov") - [128, 0, 0]).max() <= 1


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXTINF:3,\nhttp://127.0.0.1:{port}/a.ts\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile http://127.0.0.1:{port}/a.mp4\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n",
    ],
    ids=["hls", "ffconcat", "sdp"],
)
def test_list_that_points_to_the_network_is_refused_unasked(
    tmp_path: Path, ingest_params: IngestParams, text: str
) -> None:
    callers = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        stop = threading.Event()

        def listen() -> None:
            while not stop.is_set():
                try:
                    callers.append(server.accept())
                except TimeoutError:
                    continue

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            raw = tmp_path / "raw"
            raw.mkdir()
            (raw / "a.mp4").write_text(text.format(port=server.getsockname()[1]))
            ingest_videos(raw, tmp_path / "out.parquet", ingest_params)
        finally:
            stop.set()
            thread.join()
    assert callers == []
    assert read_candidates(tmp_path / "out.parquet")["reason"].tolist() == ["not_a_video"]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "rate", "size_px"), [("1920x1080", 120, 512), ("3840x2160", 30, 512)])
def test_memory_follows_the_clips_and_not_the_source(
    size: str, rate: int, size_px: int, tmp_path: Path, ingest_params: IngestParams
) -> None:
    """Of 2 GB by default; the frames of one clip would take 0.8 GB at twice the clip's size."""
    raw = tmp_path / "raw"
    raw.mkdir()
    large = f"color=gray:size={size}:rate={rate}:duration=1.2"
    run_ffmpeg(raw, "-f", "lavfi", "-i", large, "-preset", "ultrafast", "a_large.mp4")
    params = dataclasses.replace(ingest_params, size_px=size_px, memory_gb=0.7)
    ingest_videos(raw, tmp_path / "out.parquet", params)
    rows = read_candidates(tmp_path / "out.parquet")
    assert rows["reason"].isna().all()
    assert rows["num_frames"].tolist() == [9]


def test_ledger_says_which_of_several_streams_was_read(
    videos: Path, tmp_path: Path, ingest_params: IngestParams
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    shutil.copy(videos / "plain.mp4", raw)
    still = ["-f", "lavfi", "-i", "color=red:size=320x240:rate=25:duration=0.04"]
    both = ["-i", str(videos / "plain.mp4"), "-map", "0", "-map", "1", "-c:v:0", "mjpeg", "-strict", "-1"]
    run_ffmpeg(raw, *still, *both, "-c:v:1", "copy", "still_first.mkv")
    ingest_videos(raw, tmp_path / "out.parquet", ingest_params)
    rows = read_candidates(tmp_path / "out.parquet")
    both_rows, plain = (rows[rows["video"] == name] for name in ("still_first.mkv", "plain.mp4"))
    assert len(both_rows) == PLAIN
    assert set(both_rows["stream"]) == {"2 of 2: h264 96x64, 3.0 s; 1: mjpeg 320x240, 1 frame"}
    assert plain["stream"].isna().all()

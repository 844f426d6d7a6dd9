"""A film cut into short files that share no shot: one may be put into train, the next into test."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import ffmpeg
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from videomar.errors import DataError
from videomar.media.cuts import find_cuts
from videomar.media.probe import probe
from videomar.sources.films import Film

_SHORTEST_S = 8.0
_CUT_THRESHOLD = 27.0  # PySceneDetect's own
_SIZE = (114, 64)  # of the frames that are compared: a cut is as plain there
_H264: dict[str, Any] = {
    "vcodec": "libx264",  # puts key frames at cuts by itself
    "crf": 18,
    "preset": "veryfast",
    "pix_fmt": "yuv420p",
    "vf": "crop=trunc(iw/2)*2:trunc(ih/2)*2",  # colour at half resolution wants even sizes
    "threads": 1,
}


def cut_film(film: Film, path: Path, out: Path, seconds: float, program: Path) -> None:
    """Write the first `seconds` of a film as `FOLDER/FOLDER_000.mp4`, ... with captions beside them.

    Every part begins at a cut of the film, 8 s or more after the one before. H.264 is copied as it is,
    anything else is encoded to it. `program` is the ffmpeg that does so.

    Raises:
        DataError: ffmpeg cannot read the film.
    """
    folder = out / film.folder
    folder.mkdir(parents=True, exist_ok=True)
    encoded = folder / ".encoded.mp4"
    if probe(path).codec != "h264":
        _run_ffmpeg(program, path, encoded, {"t": seconds}, _H264)
        path = encoded
    starts = find_part_starts(path, seconds)
    options = {
        "c": "copy",
        "format": "segment",
        "segment_times": ",".join(f"{start:.6f}" for start in [*starts[1:], seconds + 1]),
        "segment_time_delta": 0.01,
        "segment_format": "mp4",
        "reset_timestamps": 1,
    }
    _run_ffmpeg(program, path, folder / f"{film.folder}_%03d.mp4", {"t": seconds}, options)
    encoded.unlink(missing_ok=True)
    for start, part in zip(starts, sorted(folder.glob(f"{film.folder}_*.mp4")), strict=True):
        part.with_suffix(".txt").write_text(film.caption_at(start) + "\n", "utf-8")


def find_part_starts(path: Path, seconds: float) -> list[float]:
    """Times of the key frames that begin a part of a film, rising from 0: those at cuts, 8 s or more apart.

    Only what lies between a key frame that may begin a part and the one before it is decoded.
    """
    with av.open(f"file:{path.absolute()}") as container:
        stream = container.streams.video[0]
        # What no other frame needs is left out: it takes half the time, and a cut stays a cut.
        stream.codec_context.skip_frame = "NONREF"
        stream.codec_context.thread_count = 2
        packets = [packet for packet in container.demux(stream) if packet.is_keyframe]
        keys = sorted(float(packet.pts * packet.time_base) for packet in packets if packet.pts is not None)
        starts = keys[:1]
        for before, key in pairwise(keys):
            late_enough = key - starts[-1] >= _SHORTEST_S and key - keys[0] < seconds
            if late_enough and find_cuts(_frames_around(container, stream, before, key), _CUT_THRESHOLD):
                starts.append(key)
        origin = (container.start_time or 0) / av.time_base
    return [0.0, *(start - origin for start in starts[1:])]


def _frames_around(
    container: InputContainer, stream: VideoStream, before: float, key: float
) -> NDArray[np.uint8]:
    """The frame at the time `key` and the one before it, small: (2, H, W, 3); decoded from `before` on."""
    container.seek(round(before / float(stream.time_base or 1)), stream=stream)
    around: list[av.VideoFrame] = []
    for frame in container.decode(stream):
        around = [*around[-1:], frame]
        if frame.time is not None and frame.time >= key:
            break
    return np.stack([frame.reformat(*_SIZE, format="rgb24").to_ndarray() for frame in around])


def _run_ffmpeg(
    program: Path, source: Path, target: Path, given: dict[str, Any], options: dict[str, Any]
) -> None:
    command = ffmpeg.input(f"file:{source}", **given)["v:0"].output(f"file:{target}", **options)
    command = command.global_args("-loglevel", "error", "-nostdin").overwrite_output()
    try:
        command.run(cmd=str(program), capture_stderr=True)
    except ffmpeg.Error as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise DataError(f"{source}: got {said} from ffmpeg, expected a film; try another ffmpeg") from None

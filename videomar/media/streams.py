"""Which video stream of a file is the film: covers, stills and small copies stand beside it in some files.

pictures marked as cover or preview      never
streams without a decoder                only where there is no other
streams of stills                        only where there is no other
of the rest                              the longest; of about equal length the largest; of those the first
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from videomar.errors import DataError

_COVERS = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_EQUAL = 0.95  # of the longest: copies of one film differ by a few frames
_MAX_HOLD_S = 10.0  # that one picture counts: a jump in the times of a stream does not make it long
_ROWS_OF_JPEG = (".mjpeg", ".mjpg")
_JPEG = b"\xff\xd8\xff"
_MAX_PACKETS = 200_000  # that are read of one stream, over two hours: all longer streams count as equal
_NAMED = 4  # streams in the description


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamChoice:
    """The stream to decode."""

    index: int
    """Its place among all streams of the file."""
    description: str | None
    """What it was chosen from, as `2 of 2: h264 160x120, 5.0 s; 1: mjpeg 64x48, 1 frame`; None if alone."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """One video stream, by its packets."""

    number: int
    """Counted from 1 over the candidates."""
    index: int
    codec: str | None
    """None: no decoder."""
    width: int
    height: int
    num_frames: int
    duration_s: float

    @property
    def moves(self) -> bool:
        """Whether it is more than a row of stills."""
        return self.num_frames > 1 and self.num_frames >= self.duration_s

    def __str__(self) -> str:
        length = f"{self.duration_s:.1f} s" if self.num_frames > 1 else f"{self.num_frames} frame"
        length = f"over {length}" if self.num_frames == _MAX_PACKETS else length
        return f"{self.codec or 'no decoder'} {self.width}x{self.height}, {length}"


def open_container(path: Path) -> InputContainer:
    """Open a local file; nothing else is opened, even if the file names addresses in the network.

    Raises:
        av.FFmpegError, ValueError: it is no file that FFmpeg knows.
    """
    kind = None
    if path.suffix.lower() in _ROWS_OF_JPEG:
        with path.open("rb") as file:
            kind = "mjpeg" if file.read(3) == _JPEG else None  # FFmpeg itself would take it for a picture
    # The prefix keeps a name with a leading dash or a colon from being read as anything else.
    return av.open(f"file:{path.absolute()}", format=kind, options={"protocol_whitelist": "file"})


def choose_stream(path: Path, container: InputContainer) -> StreamChoice | None:
    """Choose the film among the video streams of a file; None if there is none.

    Of several, packets are read, not decoded: headers of many formats give one length for all streams.

    Args:
        path: The file.
        container: The same, open; its place does not change.
    """
    films = [stream for stream in container.streams.video if _is_film(stream)]
    if len(films) <= 1:
        return StreamChoice(index=films[0].index, description=None) if films else None
    candidates = _measure(path, [stream.index for stream in films])
    chosen = _best(candidates)
    others = [f"{each.number}: {each}" for each in candidates if each is not chosen]
    more = [f"{len(others) - _NAMED} more"] if len(others) > _NAMED else []
    text = "; ".join([f"{chosen.number} of {len(candidates)}: {chosen}", *others[:_NAMED], *more])
    return StreamChoice(index=chosen.index, description=text)


def video_stream(container: InputContainer, index: int) -> VideoStream:
    """Return the video stream with that index.

    Raises:
        DataError: there is none; the file changed after it was probed.
    """
    stream = container.streams[index] if index < len(container.streams) else None
    if not isinstance(stream, VideoStream):
        raise DataError(
            f"{container.name}: got no video stream {index}, expected the one found before; "
            "did the file change? Run it again"
        )
    return stream


def _is_film(stream: VideoStream) -> bool:
    """Whether it may have moving pictures: an attached picture is the cover of a song."""
    codec = stream.codec_context
    return not stream.disposition & _COVERS and (codec is None or bool(codec.width))


def _best(candidates: list[_Candidate]) -> _Candidate:
    for wanted in (lambda each: each.codec is not None, lambda each: each.moves):
        candidates = [each for each in candidates if wanted(each)] or candidates
    longest_s = max(each.duration_s for each in candidates)
    long = [each for each in candidates if each.duration_s >= _EQUAL * longest_s]
    return max(long, key=lambda each: each.width * each.height)  # the first of equal ones


def _measure(path: Path, indices: list[int]) -> list[_Candidate]:
    """Number of frames and length of these streams, by the times of their packets."""
    counts, times = dict.fromkeys(indices, 0), {index: list[float]() for index in indices}
    with open_container(path) as container:
        streams = [video_stream(container, index) for index in indices]
        with contextlib.suppress(av.FFmpegError):  # of a damaged file, the part before
            for packet in container.demux(*streams):
                ticks = packet.pts if packet.pts is not None else packet.dts
                if packet.size:
                    counts[packet.stream_index] += 1
                if packet.size and ticks is not None and packet.time_base is not None:
                    times[packet.stream_index].append(float(ticks * packet.time_base))
                if counts[packet.stream_index] == _MAX_PACKETS:
                    break
        return [
            _candidate(number, stream, counts[stream.index], times[stream.index])
            for number, stream in enumerate(streams, 1)
        ]


def _candidate(number: int, stream: VideoStream, num_frames: int, times: list[float]) -> _Candidate:
    steps = np.minimum(np.diff(np.sort(times)), _MAX_HOLD_S)
    last_s = float(np.median(steps)) if len(steps) else 0.0
    codec = stream.codec_context
    return _Candidate(
        number=number,
        index=stream.index,
        codec=codec.name if codec is not None else None,
        width=codec.width if codec is not None else 0,
        height=codec.height if codec is not None else 0,
        num_frames=num_frames,
        duration_s=float(steps.sum()) + last_s,
    )

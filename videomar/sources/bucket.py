"""A folder of an object store as a folder here: what is new is fetched, what is gone disappears.

Data version control wants a folder to look at, so a URL that the pipeline starts from is told by a file in a
small one: the URL, and a sum of what was there when it was told.
"""

import hashlib
import os
import re
import time
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from videomar.errors import DataError
from videomar.files import atomic_write
from videomar.storage import FileEntry, ObjectPath, download, for_each, list_files, parse_location

RECIPE = "STORE.url"
_RECIPES = Path("sources")
_MIRRORS = Path(".local/mirrors")
# Stores tell times in seconds: a file as young as this may change and keep its time.
_YOUNG_NS = 2 * 10**9


def write_recipe(url: str) -> Path:
    """A folder of `sources` that stands for a URL as its files are now; written anew, it tells of changes.

    Raises:
        DataError: no URL of an object store, none that answers, or no files there.
    """
    source = _object_path(url)
    files = _usable(source)
    told = "\n".join(f"{file.name} {file.size} {file.mtime_ns}" for file in files)
    digest, size = hashlib.sha256(told.encode()).hexdigest(), sum(file.size for file in files)
    folder = _RECIPES / re.sub(r"[^A-Za-z0-9._]+", "-", source.key)
    with atomic_write(folder / RECIPE) as draft:
        draft.write_text(
            f"{source}\n# {len(files)} files, {size} bytes; names, sizes and times: {digest}\n",
            encoding="utf-8",
        )
    return folder


def read_recipe(path: Path) -> ObjectPath:
    """The place that a recipe stands for.

    Raises:
        DataError: it holds no URL of an object store.
    """
    lines = path.read_text("utf-8").splitlines()
    return _object_path(lines[0].strip() if lines else "")


def fetch_folder(source: ObjectPath) -> Path:
    """Bring the mirror of a folder in line with it; its path.

    Files of equal size and time are left alone; one that was fetched within two seconds of its last change is
    fetched once more.

    Raises:
        DataError: the store does not answer, holds no files, or a name that no file here can have.
    """
    files = _usable(source)
    mirror = _MIRRORS / hashlib.sha256(str(source).encode()).hexdigest()[:16]
    mirror.mkdir(parents=True, exist_ok=True)
    here = {_version(file) for file in list_files(mirror, recursive=True)}
    _drop(mirror, sorted({name for name, _, _ in here} - {file.name for file in files}))
    missing = [file for file in files if _version(file) not in here]
    with tqdm(total=len(missing), desc="fetching videos", unit="file", disable=None) as bar:

        def fetch_one(file: FileEntry) -> None:
            with atomic_write(mirror / file.name) as draft:
                mtime_ns = file.mtime_ns if time.time_ns() - file.mtime_ns > _YOUNG_NS else 0
                download(source / file.name, draft)
                os.utime(draft, ns=(mtime_ns, mtime_ns))
            bar.update()

        for_each(source, fetch_one, missing)
    return mirror


def _version(file: FileEntry) -> tuple[str, int, int]:
    """What changes with a file, its time in milliseconds: stores and disks keep no more of it alike."""
    return file.name, file.size, file.mtime_ns // 1_000_000


def _object_path(url: str) -> ObjectPath:
    place = parse_location(url)
    if isinstance(place, Path):
        raise DataError(f"{url or 'an empty line'}: got no URL, expected s3://BUCKET/FOLDER; mend it")
    return place


def _usable(source: ObjectPath) -> list[FileEntry]:
    """All files but dotfiles.

    Raises:
        DataError: there is none, or a name leads out of the folder or is both a file's and a folder's.
    """
    files = []
    for file in list_files(source, recursive=True):
        parts = file.name.split("/")
        if {"", ".", ".."} & set(parts) or "\0" in file.name:
            rule = "names without empty parts and dots alone; rename the object"
            raise DataError(f"{source}: got the name {file.name!r}, expected {rule}")
        if not any(part.startswith(".") for part in parts):
            files.append(file)
    if not files:
        raise DataError(f"{source}: got no files, expected videos; check the URL")
    names = {file.name for file in files}
    for name in sorted(names):
        if both := names & {str(parent) for parent in PurePosixPath(name).parents}:
            rule = "a file or a folder; rename one of the objects"
            raise DataError(f"{source}: got {min(both)!r} as a file and as a folder, expected {rule}")
    return files


def _drop(mirror: Path, names: list[str]) -> None:
    """Delete files, and folders that are then empty."""
    for name in names:
        (mirror / name).unlink(missing_ok=True)
        folder = (mirror / name).parent
        while folder != mirror and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent

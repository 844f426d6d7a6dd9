"""Mirror a folder of an object store in a local folder: new files are downloaded, absent ones deleted.

DVC watches files, not URLs. So a URL that the pipeline starts from is written to a recipe, a small file in a
folder of its own: the URL, and a hash of names, sizes and times of the files there.
"""

import hashlib
import os
import re
import time
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from videomar.errors import DataError
from videomar.files import atomic_write
from videomar.sources.listing import remove_file
from videomar.storage import FileEntry, ObjectPath, download, for_each, list_files, parse_location

RECIPE = "STORE.url"
_RECIPES = Path("sources")
_MIRRORS = Path(".local/mirrors")
# Times in stores are whole seconds: a file that changed this recently may change again and keep its time.
_YOUNG_NS = 2 * 10**9


def write_recipe(url: str) -> Path:
    """Write the recipe of a URL to a folder below `sources` and return the folder; it changes with the files.

    Raises:
        DataError: the URL is none of an object store, the store does not answer, or it has no files there.
    """
    source = _object_path(url)
    files = _usable(source)
    listing = "\n".join(f"{file.name} {file.size} {file.mtime_ns}" for file in files)
    digest, size = hashlib.sha256(listing.encode()).hexdigest(), sum(file.size for file in files)
    folder = _RECIPES / re.sub(r"[^A-Za-z0-9._]+", "-", source.key)
    with atomic_write(folder / RECIPE) as draft:
        draft.write_text(
            f"{source}\n# {len(files)} files, {size} bytes; names, sizes and times: {digest}\n",
            encoding="utf-8",
        )
    return folder


def read_recipe(path: Path) -> ObjectPath:
    """Return the folder of the object store that a recipe names.

    Raises:
        DataError: it contains no URL of an object store.
    """
    lines = path.read_text("utf-8").splitlines()
    return _object_path(lines[0].strip() if lines else "")


def fetch_folder(source: ObjectPath) -> Path:
    """Update the local mirror of a folder and return its path.

    Files of equal size and time are kept, except that one downloaded within two seconds of its last change is
    downloaded again.

    Raises:
        DataError: the store does not answer, has no files there, or a name that no local file can have.
    """
    files = _usable(source)
    mirror = _MIRRORS / hashlib.sha256(str(source).encode()).hexdigest()[:16]
    mirror.mkdir(parents=True, exist_ok=True)
    local = {_version(file) for file in list_files(mirror, recursive=True)}
    for name in sorted({name for name, _, _ in local} - {file.name for file in files}):
        remove_file(mirror, name)
    missing = [file for file in files if _version(file) not in local]
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
    """Return name, size and time of a file; in milliseconds, the precision that stores and disks share."""
    return file.name, file.size, file.mtime_ns // 1_000_000


def _object_path(url: str) -> ObjectPath:
    path = parse_location(url)
    if isinstance(path, Path):
        raise DataError(f"{url or 'an empty line'}: got no URL, expected s3://BUCKET/FOLDER; correct it")
    return path


def _usable(source: ObjectPath) -> list[FileEntry]:
    """List all files except dotfiles.

    Raises:
        DataError: no file exists, or a name leads out of the folder, or names both a file and a folder.
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

"""Fill data/raw: with simulated and packaged clips, or from a user's folder or object store."""

import contextlib
import errno
import filecmp
import json
import lzma
import os
import re
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from videomar.config import SamplesParams
from videomar.errors import DataError
from videomar.files import write_json
from videomar.media.mp4 import ffmpeg_version, find_ffmpeg
from videomar.sources.bucket import RECIPE, fetch_folder, read_recipe
from videomar.sources.films import cut_film, fetch_film, read_sources
from videomar.sources.listing import (
    SAMPLES,
    UNREADABLE,
    is_recipe,
    is_sidecar,
    list_files,
    list_videos,
    printable,
    remove_file,
    walk,
)
from videomar.sources.simulate import draw_simulated
from videomar.storage import Location, parse_location

_LIST = ".collected.json"
_ENCODER = ".ffmpeg"
_TAR = re.compile(r"\.(tar|tar\.gz|tgz)$", re.IGNORECASE)
# Errors of a file that cannot be read. Any other error is a fault of this machine's disk.
_NOT_READABLE = (
    errno.EACCES,
    errno.EPERM,
    errno.ENOENT,
    errno.ENAMETOOLONG,
    errno.EIO,
    errno.ESTALE,
    errno.ELOOP,
)


def collect_samples(location: Location, out: Path, params: SamplesParams) -> dict[str, float]:
    """Make `out` hold the clips that a folder or a URL stands for; return their numbers.

    A folder with a SOURCES.yaml is a recipe: simulated clips are drawn, packaged films fetched and cut. One
    with a STORE.url stands for the folder of an object store that it names. Any other is mirrored, with its
    sub-folders and caption files; tar archives, such as the shards of WebDataset, are unpacked into folders.
    `out/.collected.json` lists the files that were put there, so that the next collection can remove those it
    no longer holds; files put there by hand are never touched.
    `out/.ffmpeg` is the version of the program that encoded a recipe's clips.

    Raises:
        DataError: the folder is missing or empty, a film cannot be downloaded, a store does not answer, or a
            file put there by hand is in the way.
    """
    source = parse_location(location)
    if isinstance(source, Path) and (source / RECIPE).is_file():
        source = read_recipe(source / RECIPE)
    if not isinstance(source, Path):
        source = fetch_folder(source)
    if not source.is_dir():
        raise DataError(f"{source}: no such folder, expected one with videos; check the path")
    origin, target = source.resolve(), out.resolve()
    if origin == target or origin in target.parents or target in origin.parents:
        raise DataError(
            f"{source}: got a folder that contains {out}, where clips are collected, or is inside it; "
            "expected a folder beside it; move the videos into a folder of their own"
        )
    out.mkdir(parents=True, exist_ok=True)
    draft = out / ".collecting"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    for name in (_ENCODER, UNREADABLE):
        (out / name).unlink(missing_ok=True)
    simulated = 0
    try:
        if is_recipe(source):
            program = find_ffmpeg(params.ffmpeg)
            (out / _ENCODER).write_text(ffmpeg_version(program) + "\n", encoding="utf-8")
            simulated = _follow_recipe(source / SAMPLES, draft, params, program)
        else:
            _mirror(source, draft, out)
        _publish(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    videos = list_videos(out)
    size = sum((out / video).stat().st_size for video in videos)
    return {"videos": len(videos), "simulated_clips": simulated, "megabytes": size / 1e6}


def recipe_inputs(params: SamplesParams) -> dict[str, Path | str] | None:
    """Return what clips are made from: the recipe and ffmpeg; None where the source is a folder of clips.

    Raises:
        DataError: there is no such ffmpeg.
    """
    if not is_recipe(Path(params.source)):
        return None
    recipe = Path(params.source) / SAMPLES
    return {"recipe": recipe, "ffmpeg": ffmpeg_version(find_ffmpeg(params.ffmpeg))}


def _follow_recipe(recipe: Path, draft: Path, params: SamplesParams, program: Path) -> int:
    """Make the clips of a recipe; return the number of simulated ones."""
    films = read_sources(recipe)
    for film in tqdm(films, desc="fetching and cutting films", unit="film", disable=None):
        if params.film_seconds > 0:
            cut_film(film, fetch_film(film), draft, params.film_seconds, program)
    return draw_simulated(draft, params, program)


def _mirror(source: Path, draft: Path, out: Path) -> None:
    """Copy all files except dotfiles, and write down those that cannot be read."""
    entries = list(walk(source))
    if not any(not is_sidecar(entry.name) for entry in entries):
        raise DataError(f"{source}: got no videos, expected at least one; put videos there")
    unreadable: dict[str, str] = {}
    # Archives last: a file that is also there beside them is the one to take.
    entries.sort(key=lambda entry: _TAR.search(entry.name) is not None)
    for entry in tqdm(entries, desc="collecting videos", unit="file", disable=None):
        name = printable(entry.name)  # DVC stores names as UTF-8
        if entry.reason is None and _TAR.search(name):
            unreadable |= _unpack(source / entry.name, name, draft)
            continue
        reason = entry.reason or _collect(source / entry.name, out / name, draft / name)
        if reason is not None:
            unreadable[name] = reason
    if unreadable:
        write_json(out / UNREADABLE, unreadable)


def _collect(origin: Path, old: Path, new: Path) -> str | None:
    """Make `new` a copy of `origin`, or a link to an equal `old`; return why `origin` cannot be read.

    Never a link to the user's own file: DVC makes files read-only if its cache is of links (`cache.type`).
    """
    try:
        new.parent.mkdir(parents=True, exist_ok=True)
        with origin.open("rb"):  # a file that cannot be read may still be as old as its copy
            same = old.is_file() and filecmp.cmp(origin, old, shallow=True)
        if same:
            _link_or_copy(old, new)
        else:
            shutil.copy2(origin, new)
    except OSError as error:
        if error.errno not in _NOT_READABLE:
            raise
        with contextlib.suppress(OSError):
            new.unlink()
        return str(error.strerror)
    return None


def _unpack(archive: Path, name: str, draft: Path) -> dict[str, str]:
    """Write the files of a tar archive into a folder of its name, no dotfiles; return what is not read."""
    folder = _TAR.sub("", name)
    failed: dict[str, str] = {}
    try:
        with tarfile.open(archive) as shard:
            for member in shard:
                parts = PurePosixPath(printable(member.name).lstrip("/")).parts
                hidden = any(part.startswith(".") for part in parts)  # also a way out of the folder
                content = shard.extractfile(member) if member.isfile() and parts and not hidden else None
                if content is None:
                    continue
                inside = "/".join((folder, *parts))
                if (reason := _write_member(content, draft / inside)) is not None:
                    failed[inside] = reason
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        failed[name] = f"a damaged archive ({error})"
    except OSError as error:
        if error.errno is not None and error.errno not in _NOT_READABLE:
            raise
        failed[name] = f"a damaged archive ({error.strerror or error})"
    return failed


def _write_member(content: IO[bytes], new: Path) -> str | None:
    """Write a file of an archive where none is; return why it cannot be written, else None."""
    try:
        if new.exists():
            return "another file has this name"
        new.parent.mkdir(parents=True, exist_ok=True)
        with new.open("wb") as file:
            shutil.copyfileobj(content, file)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError):
        new.unlink()
        raise
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink()
        if error.errno not in (*_NOT_READABLE, errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
            raise
        return str(error.strerror)
    return None


def _link_or_copy(origin: Path, new: Path) -> None:
    try:
        os.link(origin.resolve(), new)
    except OSError:  # a file system without links
        shutil.copy2(origin, new)


def _publish(draft: Path, out: Path) -> None:
    """Move the new collection into place and remove what remains of the old one."""
    files, old = list_files(draft), _listed(out)
    for name in files:
        in_the_way = (out / name).exists() and name not in old
        if in_the_way and not filecmp.cmp(draft / name, out / name, shallow=False):
            raise DataError(f"{out / name}: got a file put there by hand, expected none; rename it")
    # Listed before they are moved: a run that is killed in between leaves no file without an owner.
    write_json(out / _LIST, sorted({*files, *old}))
    for name in files:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(draft / name, out / name)
    for name in sorted(old - set(files)):
        remove_file(out, name)
    write_json(out / _LIST, files)


def _listed(out: Path) -> set[str]:
    try:
        return set(json.loads((out / _LIST).read_text("utf-8")))
    except FileNotFoundError:
        return set()
    except ValueError as error:
        raise DataError(f"{out / _LIST}: got {error}, expected a list of files; delete the file") from None

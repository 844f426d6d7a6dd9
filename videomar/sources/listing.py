"""The files of a folder of clips, and the entries that cannot be read.

A user's folder may hold what DVC cannot hash: named pipes (it would wait without end), files of other users,
broken links. DVC hashes a listing of the folder in its place, which is written again in every run.
"""

import contextlib
import importlib.util
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from videomar.config import Params
from videomar.errors import DataError
from videomar.files import sha256_of, write_json

_CAPTIONS = (".txt", ".json", ".caption", ".csv", ".parquet", ".tsv", ".jsonl", ".ndjson")
_NOTES = (
    *(".cls", ".toml", ".yaml", ".yml", ".md", ".log", ".description"),
    *(".srt", ".vtt", ".ass", ".xml", ".xmp", ".nfo"),
)
SIDECARS = (*_CAPTIONS, *_NOTES)
"""Suffixes of captions, and of what else is usual among videos: never taken for videos."""
ARCHIVES = (".tar", ".zip", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
"""Suffixes of archives: videos inside are not read."""
SAMPLES = "SOURCES.yaml"
"""File that makes a folder a recipe for sample clips, with simulated ones and films."""
UNREADABLE = ".unreadable.json"
"""File in the raw folder that names the entries that could not be collected, with the reasons."""
_SMALL_BYTES = 65_536
"""Files up to this size (captions, recipes) are compared by content, larger ones by size and time."""
Named = Mapping[str, Mapping[str, Mapping[str, str]]]
"""Contents by name in the parameters, by stage."""
_FOR_STARTS = ("train", "sample")
"""Stages that depend on the weights which training starts from; the tokenizer's does, too."""
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder that leads into itself",
}


class Entry(NamedTuple):
    """One entry of a folder."""

    name: str
    """Path relative to the folder, with slashes."""
    reason: str | None
    """Why it cannot be read; None for a file that can."""
    size: int
    mtime_ns: int


def walk(folder: Path) -> Iterator[Entry]:
    """Yield every entry of a folder and its sub-folders except dotfiles, sorted; no file is opened.

    Links to folders are followed; a folder that several links lead to is walked once.

    Raises:
        OSError: the folder itself cannot be read.
    """
    os.listdir(folder)
    yield from sorted(_walk(str(folder), "", {os.path.realpath(folder)}))


def _walk(folder: str, prefix: str, seen: set[str]) -> Iterator[Entry]:
    try:
        names = os.listdir(folder)
    except OSError as error:
        yield Entry(prefix.rstrip("/"), str(error.strerror), 0, 0)
        return
    for name in sorted(names):
        if name.startswith("."):
            continue
        path = os.path.join(folder, name)
        try:
            status = os.stat(path)
        except OSError as error:
            yield Entry(prefix + name, str(error.strerror), 0, 0)
            continue
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            real = os.path.realpath(path)
            if real not in seen:
                seen.add(real)
                yield from _walk(path, f"{prefix}{name}/", seen)
        elif kind == stat.S_IFREG:
            reason = None if os.access(path, os.R_OK) else "Permission denied"
            yield Entry(prefix + name, reason, status.st_size, status.st_mtime_ns)
        else:
            yield Entry(prefix + name, _KINDS.get(kind, "no file"), 0, 0)


def list_files(folder: Path) -> list[str]:
    """Paths, relative to the folder, of all readable files in it except dotfiles; sorted."""
    return [entry.name for entry in walk(folder) if entry.reason is None]


def list_videos(folder: Path) -> list[str]:
    """Those of `list_files` that may be videos."""
    return [name for name in list_files(folder) if not is_sidecar(name)]


def is_recipe(folder: Path) -> bool:
    """Whether a folder is a recipe for sample clips instead of holding videos."""
    return (folder / SAMPLES).is_file()


def is_sidecar(name: str) -> bool:
    """Whether a file is one of captions or notes, by its suffix in any letter case."""
    return Path(name).suffix.lower() in SIDECARS


def printable(name: str) -> str:
    """Return a file name as text; bytes that are not UTF-8 become escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def remove_file(top: Path, name: str) -> None:
    """Delete a file of the folder `top`, and the folders above it that are then empty."""
    path = top / name
    path.unlink(missing_ok=True)
    for folder in path.parents:
        if folder == top or not folder.is_dir() or any(folder.iterdir()):
            return
        folder.rmdir()


def write_listing(source: Path, raw: Path, out: Path) -> None:
    """Write a listing of a folder of clips.

    Args:
        source: The folder.
        raw: The folder of collected clips, where a user may have put some by hand.
        out: The JSON file.

    Raises:
        DataError: there is no such folder, or it is empty; or `raw` holds an entry that cannot be read.
    """
    if not source.is_dir():
        raise DataError(
            f"{source}: no such folder, expected one with videos; `videomar use-clips` sets another"
        )
    content = _listing(source)
    if not content:
        raise DataError(f"{source}: got no files, expected videos; put some there")
    for entry in walk(raw) if raw.is_dir() else ():
        if entry.reason is not None:
            rule = "readable files only, because DVC hashes all of them; remove it"
            raise DataError(f"{raw / entry.name}: got {entry.reason}, expected {rule}")
    write_json(out, content)


def write_named(params: Params, out: Path, starts: Named) -> None:
    """Write a listing of the functions, files, folders and weights that parameters name, as `out/STAGE.json`.

    Args:
        params: all sections.
        out: a folder.
        starts: what stages depend on because of `train.start_from`, which other code resolves.
    """
    for stage, content in _named(params, starts).items():
        write_json(out / f"{stage}.json", content)


def changed_named(params: Params, out: Path, starts: Named) -> dict[str, list[str]]:
    """Compare with the listings that `write_named` wrote; return the changed names by stage."""
    changed: dict[str, list[str]] = {}
    for stage, content in _named(params, starts).items():
        try:
            before = json.loads((out / f"{stage}.json").read_text("utf-8"))
        except (OSError, ValueError):
            continue  # DVC reports that
        names = sorted(name for name in {*content, *before} if content.get(name) != before.get(name))
        changed |= {stage: names} if names else {}
    return changed


def _named(params: Params, starts: Named) -> dict[str, dict[str, Mapping[str, str]]]:
    """Content of each existing file or folder, by its name in the parameters, by the stage that uses it."""
    captioner = params.ingest.captioner
    named = {
        "ingest": {name: Path(name) for name in params.ingest.scorers.values()},
        "train_tokenizer": {str(name): Path(name) for name in [params.tokenizer.pretrained] if name},
        "encode": {params.text.encoder: Path(params.text.encoder)},
        "evaluate": {params.suite.extractor: Path(params.suite.extractor)},
    }
    if captioner is not None and (source := find_source(captioner)) is not None:
        named["ingest"][captioner] = source
    contents: dict[str, dict[str, Mapping[str, str]]] = {
        stage: {name: _content(path) for name, path in paths.items() if path.exists()}
        for stage, paths in named.items()
    }
    return {
        stage: {**contents.get(stage, {}), **starts.get(stage, {})} for stage in (*contents, *_FOR_STARTS)
    }


def find_source(name: str) -> Path | None:
    """Return the file that defines the function `package.module:function`; None if it cannot be found."""
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(name.partition(":")[0])
        return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None
    return None


def _content(path: Path) -> dict[str, str]:
    if path.is_dir():
        return _listing(path)
    status = path.stat()
    return {path.name: _state(path.parent, Entry(path.name, None, status.st_size, status.st_mtime_ns))}


def is_current(listing: Path, source: Path) -> bool:
    """Whether a folder of clips still equals its listing."""
    try:
        return bool(json.loads(listing.read_text("utf-8")) == _listing(source))
    except (OSError, ValueError):
        return False


def _listing(source: Path) -> dict[str, str]:
    """State of each entry by its name."""
    return {printable(entry.name): _state(source, entry) for entry in walk(source)}


def _state(source: Path, entry: Entry) -> str:
    """Text that changes when the content of the entry does."""
    if entry.reason is None and entry.size <= _SMALL_BYTES:
        try:
            return f"sha256 {sha256_of(source / entry.name)}"
        except OSError as error:
            return f"unreadable: {error.strerror}"
    return (
        f"{entry.size} bytes of {entry.mtime_ns}" if entry.reason is None else f"unreadable: {entry.reason}"
    )

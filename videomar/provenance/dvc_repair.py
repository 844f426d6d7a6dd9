"""What a killed process, a full disk or a reboot left of DVC's files, repaired before every run.

    .dvc/tmp/rwlock  who reads and writes which file now: entries of processes that have ended are removed
    dvc.lock         what the stages read and wrote: a damaged one is replaced by the last that was readable
    outputs          DVC deletes some before their stage runs: they are put back if the stage makes none

DVC empties a file before it writes it, so a DVC that is killed in between leaves a file that every later
command of DVC refuses.
"""

import json
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from videomar.config.layout import Layout
from videomar.errors import VideomarError
from videomar.files import atomic_write, write_json

_TMP, _RWLOCK = Path(".dvc/tmp"), "rwlock"
_DAMAGED = ".damaged"
_BEFORE = "outputs_before"  # in .local: outputs of the stage that runs, as they were
_CONFLICT = "<<<<<<< "


def repair(folder: Path) -> list[str]:
    """Repair DVC's files in a folder with a dvc.yaml; nothing is changed where nothing is wrong.

    Returns:
        A line for each repair.

    Raises:
        VideomarError: dvc.lock holds marks of a merge conflict, or a DVC is writing the files now.
    """
    if not Layout(folder).pipeline.is_file():
        return []
    if (Layout(folder).local / _BEFORE).is_dir():
        _put_back(folder, list(_deleted_first(folder, None)))
    return [*_repair_rwlock(folder / _TMP), *_repair_lock(folder)]


def keep_lock(folder: Path) -> None:
    """Keep a copy of dvc.lock, if it is readable, for `repair`."""
    lock, kept = Layout(folder).lock, _kept(folder)
    if lock.is_file() and not _are_equal(lock, kept) and read_lock(lock) is not None:
        _copy(lock, kept)


def read_lock(lock: Path) -> dict[str, Any] | None:
    """Entries of a dvc.lock by stage; empty without the file, None if DVC would refuse to read it."""
    from dvc.rwlock import Invalid
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.serialize import YAMLFileCorruptedError, parse_yaml

    try:
        content = COMPILED_LOCKFILE_SCHEMA(parse_yaml(lock.read_text("utf-8"), lock))
    except FileNotFoundError:
        return {}
    except (YAMLFileCorruptedError, Invalid, UnicodeDecodeError):
        return None
    return content.get("stages", {})


def read_pipeline(pipeline: Path) -> dict[str, Any]:
    """Entries of a dvc.yaml by stage, in its order; empty without the file.

    Raises:
        VideomarError: it is no such file.
    """
    try:
        return dict(yaml.safe_load(pipeline.read_text(encoding="utf-8"))["stages"])
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, ValueError, TypeError, KeyError) as error:
        got = " ".join(str(error).split())
        raise VideomarError(f"{pipeline}: got {got}, expected stages of DVC; fix the file") from None


@contextmanager
def outputs_kept(folder: Path, stages: Collection[str] | None = None) -> Iterator[None]:
    """Context of a run in which outputs stay as they were if their stage fails before it makes new ones.

    Args:
        folder: Where dvc.yaml is.
        stages: Those that may run; None = all.
    """
    store = Layout(folder).local / _BEFORE
    shutil.rmtree(store, ignore_errors=True)
    outs = list(_deleted_first(folder, stages))
    for path in outs:
        if (folder / path).exists():
            _link(folder / path, store / path)
    try:
        yield
    finally:
        _put_back(folder, outs)


def _put_back(folder: Path, outs: Sequence[str]) -> None:
    """Put back what is missing of the outputs as they were; a run that was killed left them, too."""
    store = Layout(folder).local / _BEFORE
    for path in outs:
        if (store / path).exists() and not (folder / path).exists():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (store / path).replace(folder / path)
    shutil.rmtree(store, ignore_errors=True)


def _deleted_first(folder: Path, stages: Collection[str] | None) -> Iterator[str]:
    """Outputs that DVC deletes before their stage runs: all but persistent ones."""
    for name, entry in read_pipeline(Layout(folder).pipeline).items():
        if stages is None or name in stages:
            for out in [out for kind in ("outs", "metrics", "plots") for out in entry.get(kind) or []]:
                path, options = (out, {}) if isinstance(out, str) else next(iter(out.items()))
                if not options.get("persist"):
                    yield path


def _link(source: Path, target: Path) -> None:
    """Give a file or a folder of files a second name: DVC deletes the first, which costs no bytes."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=lambda one, other: _link(Path(one), Path(other)))
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # this file system has no hard links
        shutil.copy2(source, target)


def _repair_rwlock(tmp: Path) -> list[str]:
    record = tmp / _RWLOCK
    if not _without_ended(record)[1]:
        return []
    with _held(tmp, f"{_RWLOCK}.lock"):
        left, lines = _without_ended(record)
        if lines and left:
            write_json(record, left)
        elif lines:
            record.unlink()
        return lines


def _without_ended(record: Path) -> tuple[dict[str, Any], list[str]]:
    """Content of DVC's record without what no process holds any more, and a line for each such thing."""
    try:
        text = record.read_text("utf-8")
    except FileNotFoundError:
        return {}, []
    if text == "{}":  # as DVC leaves it, and importing DVC takes a moment
        return {}, []
    from dvc.rwlock import SCHEMA, Invalid

    try:
        content = SCHEMA(json.loads(text))
    except (ValueError, Invalid):
        return {}, [f"{record}: DVC was killed while it wrote this file; it is deleted, DVC starts a new one"]
    holders = [*content["write"].values(), *(info for infos in content["read"].values() for info in infos)]
    ended = {(info["pid"], info["cmd"]) for info in holders if not _is_alive(**info)}
    write = {file: info for file, info in content["write"].items() if (info["pid"], info["cmd"]) not in ended}
    read = {
        file: alive
        for file, infos in content["read"].items()
        if (alive := [info for info in infos if (info["pid"], info["cmd"]) not in ended])
    }
    lines = [f"{record}: process {pid} ({cmd}) has ended; its entries are removed" for pid, cmd in ended]
    return ({"write": write, "read": read} if write or read else {}), lines


def _is_alive(pid: int, cmd: str) -> bool:
    """Whether the process that DVC recorded still lives.

    DVC asks only for its number, which the system gives to another process later. So the command counts, too:
    DVC records its arguments, joined, behind a program's path that may hold blanks. The last word is enough.
    """
    try:
        words = " ".join(psutil.Process(pid).cmdline()).split()
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # a process of another user
        return True
    return words[-1:] == cmd.split()[-1:]


def _repair_lock(folder: Path) -> list[str]:
    lock, kept = Layout(folder).lock, _kept(folder)
    if not lock.is_file() or _are_equal(lock, kept):
        return []
    if read_lock(lock) is None:
        with _held(folder / _TMP, "lock"):
            if read_lock(lock) is None:  # no DVC was writing it just now
                return [_replace(lock, kept)]
    keep_lock(folder)
    return []


def _replace(lock: Path, kept: Path) -> str:
    """Replace a dvc.lock that cannot be read, which stays beside the copy; return a line about it.

    Raises:
        VideomarError: a merge waits for a person's decision.
    """
    if any(line.startswith(_CONFLICT) for line in lock.read_text("utf-8", errors="replace").splitlines()):
        todo = f"`git checkout --ours {lock.name}` or `--theirs`"
        raise VideomarError(f"{lock}: got marks of a merge conflict, expected DVC's record; {todo}")
    damaged = kept.with_name(kept.name + _DAMAGED)
    _copy(lock, damaged)
    line = f"{lock}: got a file that DVC cannot read (now {damaged}), expected its record"
    if kept.is_file() and read_lock(kept) is not None:
        _copy(kept, lock)
        return f"{line}; the last readable one takes its place"
    lock.unlink()
    return f"{line}; DVC starts a new one, and stages keep outputs that are up to date"


@contextmanager
def _held(tmp: Path, name: str) -> Iterator[None]:
    """Hold a lock of DVC's own, so that no DVC is writing now.

    Raises:
        VideomarError: a DVC holds it for longer than writing takes.
    """
    from dvc.lock import LockError, make_lock

    tmp.mkdir(parents=True, exist_ok=True)
    lock = make_lock(str(tmp / name), tmp_dir=str(tmp))
    try:
        lock.lock()
    except LockError:
        rule = "no other DVC at work here"
        raise VideomarError(f"{tmp / name}: got a lock that is held, expected {rule}; wait for it") from None
    try:
        yield
    finally:
        lock.unlock()


def _kept(folder: Path) -> Path:
    """The copy of dvc.lock as it was last readable."""
    return Layout(folder).local / Layout().lock.name


def _are_equal(one: Path, other: Path) -> bool:
    return other.is_file() and one.read_bytes() == other.read_bytes()


def _copy(source: Path, target: Path) -> None:
    with atomic_write(target) as draft:
        shutil.copyfile(source, draft)

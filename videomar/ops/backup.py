"""Backup of the registry and all recorded runs in one file: MLflow's SQLite store and its artifacts.

mlflow.db        first, by SQLite's online backup: MLflow writes artifacts before it records them, so every
run and version in this copy has its artifacts, even if runs go on meanwhile
mlartifacts/...  what is written after the copy of the store may be missing, and nothing names it
backup.json      last: checksums of all the files; a file that was cut off lacks it and is refused
"""

import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from videomar.environment import read_services
from videomar.errors import DataError, VideomarError
from videomar.files import atomic_write
from videomar.ops.gc import REPLACED
from videomar.processes import Identity
from videomar.tracking.artifact_roots import ARTIFACTS, artifacts_of, foreign_folders, move_paths
from videomar.tracking.mlflow_store import tracking_uri

STORE, CHECKSUMS = "mlflow.db", "backup.json"


def back_up(file: Path) -> list[str]:
    """Write the registry and all runs to a tar file, whole or not at all.

    Artifacts in an object store are not part of it, and a line says so.

    Returns:
        Lines for the user.

    Raises:
        VideomarError: there is nothing to back up, or the store is on a server.
    """
    store = local_store()
    if not store.is_file():
        raise DataError(f"{store}: got no file, expected MLflow's store; `make run` makes one")
    artifacts = artifacts_of(store)
    if file.resolve().is_relative_to(artifacts.resolve()):
        raise DataError(f"{file}: got a path among the artifacts, expected one outside; choose another")
    checksums: dict[str, str] = {}
    with (
        atomic_write(file) as draft,
        tarfile.open(draft, "w") as tar,
        tempfile.TemporaryDirectory() as folder,
    ):
        copy = Path(folder) / STORE
        with closing(sqlite3.connect(store)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
            locations = [location for (location,) in target.execute("SELECT DISTINCT artifact_uri FROM runs")]
        _add(tar, copy, STORE, checksums)
        for path in sorted(artifacts.rglob("*")):
            if path.is_file():
                _add(tar, path, f"{ARTIFACTS}/{path.relative_to(artifacts).as_posix()}", checksums)
        made = {"made_at": datetime.now(UTC).isoformat(timespec="seconds"), "artifacts": artifacts.as_uri()}
        listing = json.dumps({**made, "sha256": checksums}, indent=1).encode()
        member = tarfile.TarInfo(CHECKSUMS)
        member.size = len(listing)
        tar.addfile(member, io.BytesIO(listing))
    lines = [f"{file}: {file.stat().st_size / 1e6:.1f} MB"]
    if elsewhere := sorted(each for each in locations if not each.startswith(artifacts.as_uri())):
        lines.append(
            f"note: not in it: artifacts of {len(elsewhere)} runs at other locations, as {elsewhere[0]}; "
            "back these up with their own tools"
        )
    return lines


def restore(file: Path, force: bool) -> list[str]:
    """Restore the registry and all runs of a backup.

    A registry that is replaced is kept in a folder `.local/replaced-...` until `videomar gc` finds it old.
    After a kill, repeat it with `force`: the store itself comes last.

    Args:
        file: A file that `back_up` wrote, here or in another checkout.
        force: Whether an existing registry may be replaced.

    Returns:
        Lines for the user.

    Raises:
        VideomarError: the file is damaged, a registry exists, or it is in use.
    """
    store = local_store()
    artifacts = artifacts_of(store)
    existing = [path for path in (store, artifacts) if path.exists()]
    if existing and not force:
        raise DataError(
            f"{existing[0]}: got a registry, expected none; --force replaces it and keeps the old one"
        )
    require_idle("restore")
    store.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=store.parent) as folder:
        draft = Path(folder)
        facts = _unpack(file, draft)
        try:
            with closing(sqlite3.connect(draft / STORE)) as database, database:
                database.execute("SELECT 1 FROM runs")  # none in a file without the store, or of another kind
                move_paths(database, facts["artifacts"], artifacts.as_uri())
        except sqlite3.Error as error:
            raise DataError(f"{file}: damaged ({error}), expected a backup; use another") from None
        lines = []
        # SQLite would apply the journals to the restored store and damage it.
        journals = [path for path in store.parent.glob(f"{STORE}-*") if path.is_file()]
        if existing:
            kept = kept_folder(store)
            for path in (*existing, *journals):
                os.replace(path, kept / path.name)
            lines.append(f"the old registry is in {kept}")
        if (draft / ARTIFACTS).is_dir():
            os.replace(draft / ARTIFACTS, artifacts)
        os.replace(draft / STORE, store)
    lines.append(f"{store}: the registry and the runs of {facts['made_at']}, {len(facts['sha256'])} files")
    if outside := foreign_folders(store):
        some = next(iter(outside.values()))
        lines.append(
            f"note: {len(outside)} runs or models name folders outside of this checkout, as {some}; nothing "
            "there is ever removed, and `videomar doctor` lists them"
        )
    return lines


def kept_folder(store: Path) -> Path:
    """Make and return a new folder for what is replaced; `videomar gc` removes it when it is old."""
    kept = store.parent / f"{REPLACED}{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    kept.mkdir()
    return kept


def local_store() -> Path:
    """The SQLite file of MLflow's store.

    Raises:
        VideomarError: the store is on a server.
    """
    uri = tracking_uri()
    if not uri.startswith("sqlite:///"):
        raise VideomarError(
            f"MLFLOW_TRACKING_URI: got a {uri.partition(':')[0]} address, expected none or a SQLite file; a "
            "server's database is backed up by its own tools, like pg_dump"
        )
    return Path(uri.removeprefix("sqlite:///"))


def require_idle(who: str) -> None:
    """Refuse to go on while this checkout's MLflow has the store open.

    Raises:
        VideomarError: it has.
    """
    noted = read_services()
    known = [noted["supervisor"]] if "supervisor" in noted else []
    known += noted.get("services", {}).get("mlflow", {}).get("processes", [])
    if any(Identity(*process).process() is not None for process in known):
        raise VideomarError(f"{who}: got services that are up, expected none; `make down` first")


def _add(tar: tarfile.TarFile, path: Path, name: str, checksums: dict[str, str]) -> None:
    with path.open("rb") as file:
        member = tar.gettarinfo(arcname=name, fileobj=file)
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        reader = _HashingReader(file)
        tar.addfile(member, reader)
    checksums[name] = reader.digest.hexdigest()


class _HashingReader:
    """A file that is read once. Remembers the SHA-256 of the bytes read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        block = self._file.read(size)
        self.digest.update(block)
        return block


def _unpack(file: Path, folder: Path) -> dict[str, Any]:
    """Unpack a backup, compare every file with its checksum, and return the content of backup.json."""
    got: dict[str, str] = {}
    facts: dict[str, Any] = {}
    try:
        with tarfile.open(file) as tar:
            for member, content in _contents(tar):
                if member.name == CHECKSUMS:
                    facts = json.loads(content.read())
                    continue
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                reader = _HashingReader(content)
                with target.open("wb") as written:
                    shutil.copyfileobj(reader, written, 1 << 20)
                got[member.name] = reader.digest.hexdigest()
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(f"{file}: damaged ({error}), expected a backup; use another") from None
    if not {"sha256", "artifacts", "made_at"} <= {*facts}:
        raise DataError(f"{file}: cut off, or no backup: got no {CHECKSUMS} at its end; use another")
    wrong = sorted(name for name in {*got, *facts["sha256"]} if got.get(name) != facts["sha256"].get(name))
    if wrong:
        raise DataError(f"{file}: damaged, {wrong[0]} is not as it was backed up; use another")
    return facts


def _contents(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, Any]]:
    """Yield the members: only plain files, with names that stay inside the folder."""
    for member in tar:
        parts = Path(member.name).parts
        if not member.isfile() or ".." in parts or parts[:1] not in ((STORE,), (ARTIFACTS,), (CHECKSUMS,)):
            raise tarfile.TarError(f"got the member {member.name!r}")
        yield member, tar.extractfile(member)

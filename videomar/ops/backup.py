"""The registry and all recorded runs in one file, and back: MLflow's SQLite store and its artifacts.

The store is copied first, by SQLite's online backup, so that all runs and versions in the copy have their
artifacts, which are written before; what comes later is left out. The list of the files' sums is the last
member: a file that was cut has none, and is refused.
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
from videomar.tracking.mlflow_store import tracking_uri

STORE, ARTIFACTS, SUMS = "mlflow.db", "mlartifacts", "backup.json"
# Where the store keeps the absolute place of artifacts, table by table.
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)


def back_up(file: Path) -> list[str]:
    """Write the registry and all runs to a tar file, whole or not at all; lines that tell of it.

    Artifacts in a bucket stay there, and a line says so.

    Raises:
        VideomarError: there is nothing to back up, or the store is elsewhere.
    """
    store = _local_store()
    if not store.is_file():
        raise DataError(f"{store}: got no file, expected MLflow's store; `make run` makes one")
    artifacts = store.with_name(ARTIFACTS)
    if file.resolve().is_relative_to(artifacts.resolve()):
        raise DataError(f"{file}: got a place among the artifacts, expected one outside; choose another")
    sums: dict[str, str] = {}
    with (
        atomic_write(file) as draft,
        tarfile.open(draft, "w") as tar,
        tempfile.TemporaryDirectory() as folder,
    ):
        copy = Path(folder) / STORE
        with closing(sqlite3.connect(store)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
            places = [place for (place,) in target.execute("SELECT DISTINCT artifact_uri FROM runs")]
        _add(tar, copy, STORE, sums)
        for path in sorted(artifacts.rglob("*")):
            if path.is_file():
                _add(tar, path, f"{ARTIFACTS}/{path.relative_to(artifacts).as_posix()}", sums)
        made = {"made_at": datetime.now(UTC).isoformat(timespec="seconds"), "artifacts": artifacts.as_uri()}
        listing = json.dumps({**made, "sha256": sums}, indent=1).encode()
        member = tarfile.TarInfo(SUMS)
        member.size = len(listing)
        tar.addfile(member, io.BytesIO(listing))
    lines = [f"{file}: {file.stat().st_size / 1e6:.1f} MB"]
    if elsewhere := sorted(place for place in places if not place.startswith(artifacts.as_uri())):
        lines.append(
            f"note: not in it: artifacts of {len(elsewhere)} runs that lie elsewhere, as {elsewhere[0]}; "
            "back up that place by its own means"
        )
    return lines


def restore(file: Path, force: bool) -> list[str]:
    """Put the registry and all runs of a backup in place; gives lines that tell of it.

    What was there is kept in a folder `.local/replaced-...` until `videomar gc` finds it old. After a kill
    this may be repeated with `force`; the store itself comes last.

    Args:
        file: What `back_up` wrote, here or in another checkout.
        force: Whether a registry that is there may be replaced.

    Raises:
        VideomarError: the file is damaged, a registry is there, or it is in use.
    """
    store = _local_store()
    artifacts = store.with_name(ARTIFACTS)
    there = [path for path in (store, artifacts) if path.exists()]
    if there and not force:
        raise DataError(
            f"{there[0]}: got a registry, expected none; --force replaces it and keeps the old one"
        )
    _require_idle()
    store.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=store.parent) as folder:
        draft = Path(folder)
        facts = _unpack(file, draft)
        _move_places(draft / STORE, facts["artifacts"], artifacts.as_uri())
        lines = []
        # The journals belong to the store: beside another one they would damage it.
        journals = [path for path in store.parent.glob(f"{STORE}-*") if path.is_file()]
        if there:
            kept = store.parent / f"{REPLACED}{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
            kept.mkdir()
            for path in (*there, *journals):
                os.replace(path, kept / path.name)
            lines.append(f"what was there is in {kept}")
        if (draft / ARTIFACTS).is_dir():
            os.replace(draft / ARTIFACTS, artifacts)
        os.replace(draft / STORE, store)
    return [*lines, f"{store}: the registry and the runs of {facts['made_at']}, {len(facts['sha256'])} files"]


def _local_store() -> Path:
    uri = tracking_uri()
    if not uri.startswith("sqlite:///"):
        raise VideomarError(
            f"MLFLOW_TRACKING_URI: got a {uri.partition(':')[0]} address, expected none or a SQLite file; a "
            "server's database is backed up by its own tools, like pg_dump"
        )
    return Path(uri.removeprefix("sqlite:///"))


def _require_idle() -> None:
    noted = read_services()
    known = [noted["supervisor"]] if "supervisor" in noted else []
    known += noted.get("services", {}).get("mlflow", {}).get("processes", [])
    if any(Identity(*process).process() is not None for process in known):
        raise VideomarError("restore: got services that are up, expected none; `make down` first")


def _add(tar: tarfile.TarFile, path: Path, name: str, sums: dict[str, str]) -> None:
    with path.open("rb") as file:
        member = tar.gettarinfo(arcname=name, fileobj=file)
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        reader = _Summing(file)
        tar.addfile(member, reader)
    sums[name] = reader.digest.hexdigest()


class _Summing:
    """A file that is read once. Remembers the sum of what was read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        block = self._file.read(size)
        self.digest.update(block)
        return block


def _unpack(file: Path, folder: Path) -> dict[str, Any]:
    """The members of a backup as files of `folder`, each with the sum that the list says; the list."""
    got: dict[str, str] = {}
    facts: dict[str, Any] = {}
    try:
        with tarfile.open(file) as tar:
            for member, content in _contents(tar):
                if member.name == SUMS:
                    facts = json.loads(content.read())
                    continue
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                reader = _Summing(content)
                with target.open("wb") as written:
                    shutil.copyfileobj(reader, written, 1 << 20)
                got[member.name] = reader.digest.hexdigest()
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(f"{file}: damaged ({error}), expected a backup; use another") from None
    if not facts:
        raise DataError(f"{file}: cut off, or no backup: got no {SUMS} at its end; use another")
    wrong = sorted(name for name in {*got, *facts["sha256"]} if got.get(name) != facts["sha256"].get(name))
    if wrong:
        raise DataError(f"{file}: damaged, {wrong[0]} is not as it was backed up; use another")
    return facts


def _contents(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, Any]]:
    """Plain files only, and no names that lead out of the folder."""
    for member in tar:
        parts = Path(member.name).parts
        if not member.isfile() or ".." in parts or parts[0] not in (STORE, ARTIFACTS, SUMS):
            raise tarfile.TarError(f"got the member {member.name!r}")
        yield member, tar.extractfile(member)


def _move_places(store: Path, before: str, after: str) -> None:
    """Have the store name the artifacts where they are now."""
    with closing(sqlite3.connect(store)) as database, database:
        for table, column in _PLACES:
            database.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                [after, len(before) + 1, len(before) + 1, f"{before}/"],
            )

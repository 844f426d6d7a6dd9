"""Where MLflow's SQLite store says that artifacts are: absolute paths, which `mv` and `cp -a` make wrong.

The store of a checkout keeps artifacts beside itself:

    .local/mlflow.db       rows with  file:///home/a/checkout/.local/mlartifacts/RUN/artifacts
    .local/mlartifacts/    what these rows mean
    mlruns/                the same for MLflow's experiment `Default`

After `mv` such rows name a folder that is gone; after `cp -a` they name that of the other copy, which would
be read and written as if it were ours. Rows are changed to this checkout if what they name is here.
"""

import os
import re
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from videomar.errors import DataError

ARTIFACTS = "mlartifacts"
"""Folder beside the store with the artifacts of its runs."""
_OF_MLFLOW = "mlruns"  # MLflow's own choice, below the folder in which its tables were made
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)
"""Tables and columns with absolute paths of artifacts."""
_HOLDERS = _COLUMNS[1:3]
"""Those whose paths are folders with files."""
_ROOT = re.compile(rf"((?:file://)?/(?:.*/)?({ARTIFACTS}|{_OF_MLFLOW}))(?:/|$)")
_FILES, _ID = "artifacts", r"(m-)?[0-9a-f]{32}"
_WAIT_S = 20.0  # as long as MLflow itself waits for a database in use


@dataclass(frozen=True, slots=True)
class FormerRoot:
    """A folder of artifacts of another place of this checkout, or of the checkout that it is a copy of."""

    prefix: str
    """As the rows write it."""
    folder: Path
    here: Path
    """The folder of this checkout in its stead."""
    elsewhere: tuple[str, ...]
    """Folders of runs and models below it that are there and not here."""
    rows: int

    @property
    def is_moved(self) -> bool:
        """Whether all that the rows name is here, so that only the rows have to change."""
        return not self.elsewhere


def artifacts_of(store: Path) -> Path:
    """Folder of the artifacts that belong to a store."""
    return store.resolve().with_name(ARTIFACTS)


def local_path(location: str) -> Path | None:
    """The folder on this machine that a location of MLflow's names; None for an object store or a server."""
    parts = urlsplit(location)
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
        return None
    return Path(unquote(parts.path if parts.scheme else location))  # as MLflow does


def is_own(location: str, owner: str, store: Path) -> bool:
    """Whether a location is the folder that MLflow keeps for a run or a model, and nothing else's.

    The store is data: it may come from a backup of anybody's, and name any folder of this machine.

    Args:
        location: As in the store.
        owner: Id of the run or model: MLflow's are random, so a folder of that name is no other's.
        store: The SQLite file.
    """
    if not re.fullmatch(_ID, owner) or not location.endswith(f"/{owner}/{_FILES}"):
        return False
    path = local_path(location)
    return _is_inside(path, store) if path is not None else urlsplit(location).scheme not in ("", "file")


def foreign_folders(store: Path) -> dict[str, str]:
    """Folders on this machine, outside of the checkout's, that runs and models name, by their ids."""
    with read_store(store) as database:
        named = [
            pair
            for (table, column), key in zip(_HOLDERS, ("run_uuid", "model_id"), strict=True)
            if (table, column) in _columns(database)
            for pair in database.execute(f"SELECT {key}, {column} FROM {table}")
        ]
    outside = {}
    for owner, location in named:
        path = local_path(location) if location else None
        if path is not None and not _is_inside(path, store):
            outside[str(owner)] = str(location)
    return outside


def foreign_roots(store: Path) -> list[FormerRoot]:
    """Roots of those among `foreign_folders` that are laid out as MLflow does it, and are there or here."""
    here = artifacts_of(store)
    found: dict[str, list[str]] = {}
    for owner, location in foreign_folders(store).items():
        below = next(
            (n for n in (f"models/{owner}/{_FILES}", f"{owner}/{_FILES}") if location.endswith(f"/{n}")), ""
        )
        prefix = location.removesuffix(f"/{below}")
        folder = local_path(prefix)
        inside = folder is not None and here.resolve().is_relative_to(folder.resolve())  # such as file:///
        if below and prefix and not inside and re.fullmatch(_ID, owner):
            found.setdefault(prefix, []).append(below)
    roots = []
    for prefix, names in found.items():
        folder = local_path(prefix) or Path()
        elsewhere = tuple(name for name in sorted(names) if not os.path.isdir(here / name))
        if all(os.path.isdir(folder / name) for name in elsewhere):
            roots.append(FormerRoot(prefix, folder, here, elsewhere, len(names)))
    return roots


def former_roots(store: Path) -> list[FormerRoot]:
    """Folders of artifacts that rows name in place of those of this checkout; none if all is well.

    A folder of artifacts that belongs to no checkout was chosen by somebody, and is not among them.
    """
    here = _roots(store)
    rows: dict[tuple[str, str], list[str]] = {}
    with read_store(store) as database:
        for table, column in _columns(database):
            for (location,) in database.execute(f"SELECT {column} FROM {table}"):
                if (found := _former(location, here)) is not None:
                    below = location[found.end() :].strip("/") if (table, column) in _HOLDERS else ""
                    rows.setdefault((found[1], found[2]), []).append(below)
    roots = []
    for (prefix, kind), below in rows.items():
        folder = local_path(prefix) or Path()
        holders = sorted({name for name in below if name})
        there = [name for name in holders if os.path.isdir(folder / name)]
        known = [name for name in holders if os.path.isdir(here[kind] / name)]
        if holders and not there and not known and folder.parent.name != ".local":
            continue  # neither here nor there: perhaps a disk that is not mounted
        elsewhere = tuple(name for name in there if name not in known)
        roots.append(FormerRoot(prefix, folder, here[kind], elsewhere, len(below)))
    return roots


def settle(store: Path) -> list[FormerRoot]:
    """Make the rows of a store that was moved or copied name the artifacts of its own checkout.

    Returns:
        What was changed.

    Raises:
        DataError: artifacts are in the other checkout alone, or the store cannot be written.
    """
    here = _roots(store)
    with read_store(store) as database:  # the roots of all else: this is asked for with each use of the store
        named = [location for (location,) in database.execute("SELECT artifact_location FROM experiments")]
    roots = former_roots(store) if any(_former(location, here) for location in named) else []
    for root in roots:
        if not root.is_moved:
            raise DataError(
                f"{store}: got {len(root.elsewhere)} runs or models with artifacts in {root.folder} alone, "
                f"expected them in {root.here}; `videomar doctor --fix` copies them"
            )
    if roots:
        rename(store, roots)
    return roots


def rename(store: Path, roots: Sequence[FormerRoot]) -> None:
    """Make rows name the folders of this checkout: all of them, or none if the file cannot be written."""
    with closing(sqlite3.connect(store, timeout=_WAIT_S)) as database, database:
        for root in roots:
            move_paths(database, root.prefix, root.here.as_uri())


def copy_artifacts(root: FormerRoot) -> None:
    """Copy what is in the other checkout alone; each folder appears whole or not at all.

    Raises:
        DataError: a path leads out of the two folders, or the disk refuses.
    """
    for name in root.elsewhere:
        source, target = root.folder / name, root.here / name
        if ".." in Path(name).parts or not source.resolve().is_relative_to(root.folder.resolve()):
            raise DataError(f"{source}: got a path that leads elsewhere, expected one below {root.folder}")
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(source, draft, symlinks=True)
        os.replace(draft, target)


def move_paths(database: sqlite3.Connection, before: str, after: str) -> None:
    """Change the paths of artifacts in an open store from one root to another."""
    for table, column in _columns(database):
        database.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
            f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
            [after, len(before) + 1, before, len(before) + 1, f"{before}/"],
        )


@contextmanager
def read_store(store: Path, wait_s: float = _WAIT_S) -> Iterator[sqlite3.Connection]:
    """Yield a connection that cannot change anything; wait so long for a file in use.

    Raises:
        sqlite3.Error: the file is in use, damaged or cannot be read.
    """
    uri = f"{store.resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=wait_s)) as database:
        yield database


def _columns(database: sqlite3.Connection) -> list[tuple[str, str]]:
    """Those of _COLUMNS that a store has: an older MLflow has fewer tables."""
    query = "SELECT m.name, c.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c"
    there = set(database.execute(query))
    return [pair for pair in _COLUMNS if pair in there]


def _roots(store: Path) -> dict[str, Path]:
    """Folders of artifacts of the checkout that a store belongs to, by their names."""
    root = artifacts_of(store)
    of_default = {_OF_MLFLOW: root.parent.parent / _OF_MLFLOW} if root.parent.name == ".local" else {}
    return {ARTIFACTS: root, **of_default}


def _is_inside(path: Path, store: Path) -> bool:
    roots = [root.resolve() for root in _roots(store).values()]
    return any(path.resolve().is_relative_to(root) and path.resolve() != root for root in roots)


def _former(location: str | None, here: Mapping[str, Path]) -> re.Match[str] | None:
    """The root in a location (prefix, name) if it is that of another checkout, or of one that is gone."""
    found = _ROOT.match(location or "")
    if found is None or found[2] not in here:
        return None
    root = local_path(found[1])
    # Resolved on both sides: somebody may keep the artifacts on a larger disk, behind a link.
    if root is None or root.resolve() == here[found[2]].resolve():
        return None
    beside = root.parent / ("mlflow.db" if found[2] == ARTIFACTS else ".local/mlflow.db")
    return found if os.path.isfile(beside) or not os.path.exists(root.parent) else None

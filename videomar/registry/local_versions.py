"""Where a registered version's files are, read from a local store without MLflow, whose import takes seconds.

MLflow decides what a name means: its client, the history of the alias and the state of a version's run
(versions.py). For the usual case, a SQLite file of the schema below in which nothing is interrupted, deleted
or moved by hand, one query gives the same answer. In every other case it is None, and MLflow is asked.

The same for the newest candidate, which stands in for a champion where there never was one.
"""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlparse

from videomar.registry.champion_history import CHAMPION, MODEL
from videomar.tracking.mlflow_store import tracking_uri

T = TypeVar("T")
_CANDIDATE = "challenger"
"""The alias of the newest candidate, as in versions.py, whose import takes seconds."""
_SCHEMA = "dc11669786a5"
"""Revision of MLflow's tables that the queries below are written for: that of the pinned version."""
_LOCAL = "sqlite:///"
_PATIENCE_S = 2.0
_ALIAS = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ? AND workspace = 'default'"
_FOLDER = """
SELECT model.artifact_location
FROM model_versions AS version
JOIN runs AS run ON run.run_uuid = version.run_id AND run.lifecycle_stage = 'active'
JOIN logged_models AS model ON version.source = 'models:/' || model.model_id
WHERE version.name = ? AND version.version = ? AND version.workspace = 'default' AND version.status = 'READY'
AND model.lifecycle_stage = 'active' AND version.current_stage <> 'Deleted_Internal'
"""
_HISTORY = """
SELECT key, value FROM registered_model_tags
WHERE name = ? AND workspace = 'default' AND key LIKE 'history%' ORDER BY key
"""


def local_model_folder(name: str) -> Path | None:
    """Return the folder that `versions.download_model` would, for an alias or a number; None = ask MLflow.

    Args:
        name: `champion`, `challenger` or a version's number.
    """
    return _folder_at(_read(lambda store: _location(store, name)))


def local_candidate() -> tuple[str, Path] | None:
    """Return number and folder of the newest candidate, if there never was a champion; None = ask MLflow."""

    def look(store: sqlite3.Connection) -> tuple[str, str] | None:
        _require_schema(store)
        never = not store.execute(_ALIAS, (MODEL, CHAMPION)).fetchall()
        if not never or store.execute(_HISTORY, (MODEL,)).fetchall():
            return None
        [(number,)] = store.execute(_ALIAS, (MODEL, _CANDIDATE)).fetchall()
        return str(number), _location(store, str(number))

    found = _read(look)
    folder = _folder_at(found[1]) if found is not None else None
    return None if found is None or folder is None else (found[0], folder)


def local_champion_is_settled() -> bool:
    """Whether a local store says that its champion, if any, is that of the last move, and is judged."""

    def look(store: sqlite3.Connection) -> bool:
        _require_schema(store)
        numbers = store.execute(_ALIAS, (MODEL, CHAMPION)).fetchall()
        if not numbers:  # gone, or there never was one: nothing to judge
            return True
        move = _last_move(store)
        return move["after"] == str(numbers[0][0]) and move["action"] != "found"

    return _read(look) or False


def _read(look: Callable[[sqlite3.Connection], T]) -> T | None:
    """What a look into the store finds; None if there is no local one, or anything about it is unusual."""
    uri = tracking_uri()
    file = Path(uri.removeprefix(_LOCAL))
    if not uri.startswith(_LOCAL) or not file.is_file():
        return None
    address = f"file:{quote(str(file))}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=_PATIENCE_S)) as store:
            return look(store)
    except (sqlite3.Error, ValueError, KeyError, TypeError):
        return None


def _folder_at(location: str | None) -> Path | None:
    """The folder of a version's files by its address, if it is on this disk."""
    if location is None or urlparse(location).scheme != "file":
        return None
    folder = Path(unquote(urlparse(location).path)) / "artifacts"
    return folder if folder.is_dir() else None


def _require_schema(store: sqlite3.Connection) -> None:
    """Raise ValueError if the tables are those of another MLflow."""
    if store.execute("SELECT version_num FROM alembic_version").fetchall() != [(_SCHEMA,)]:
        raise ValueError("tables of another MLflow")


def _location(store: sqlite3.Connection, name: str) -> str:
    """The address of a version's files; ValueError if anything about it is unusual."""
    _require_schema(store)
    number = name
    if not name.isdecimal():
        [(number,)] = store.execute(_ALIAS, (MODEL, name)).fetchall()
    if name == CHAMPION and _last_move(store)["after"] != str(number):
        raise ValueError("the alias was moved by hand")
    [(location,)] = store.execute(_FOLDER, (MODEL, int(number))).fetchall()
    return str(location)


def _last_move(store: sqlite3.Connection) -> dict[str, Any]:
    """The last move of the alias (champion_history.py); ValueError if there is none or it is not complete."""
    tags = dict(store.execute(_HISTORY, (MODEL,)).fetchall())
    moves = [key for key in tags if key.startswith("history.")]
    if not moves or tags.get("history_settled") != moves[-1]:
        raise ValueError("the alias is being moved")
    move: dict[str, Any] = json.loads(tags[moves[-1]])
    return move

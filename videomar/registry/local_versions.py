"""Where a registered version's files are, read from a local store without MLflow, whose import takes seconds.

MLflow decides what a name means: its client, the history of the alias and the state of a version's run
(versions.py). For the usual case, a SQLite file of the schema below in which nothing is interrupted, deleted
or moved by hand, one query gives the same answer. In every other case it is None, and MLflow is asked.
"""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote, urlparse

from videomar.registry.champion_history import CHAMPION, MODEL
from videomar.tracking.mlflow_store import tracking_uri

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
    uri = tracking_uri()
    file = Path(uri.removeprefix(_LOCAL))
    if not uri.startswith(_LOCAL) or not file.is_file():
        return None
    try:
        with closing(
            sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=_PATIENCE_S)
        ) as store:
            location = _location(store, name)
    except (sqlite3.Error, ValueError, KeyError, TypeError):
        return None
    if location is None or urlparse(location).scheme != "file":
        return None
    folder = Path(unquote(urlparse(location).path)) / "artifacts"
    return folder if folder.is_dir() else None


def _location(store: sqlite3.Connection, name: str) -> str | None:
    """The address of a version's files, if nothing about it is unusual."""
    if store.execute("SELECT version_num FROM alembic_version").fetchall() != [(_SCHEMA,)]:
        return None
    number = name
    if not name.isdecimal():
        [(number,)] = store.execute(_ALIAS, (MODEL, name)).fetchall()
    if name == CHAMPION and not _is_settled(store, str(number)):
        return None
    [(location,)] = store.execute(_FOLDER, (MODEL, int(number))).fetchall()
    return str(location)


def _is_settled(store: sqlite3.Connection, number: str) -> bool:
    """Whether the last move of the alias is complete and went to this version; see champion_history.py."""
    tags = dict(store.execute(_HISTORY, (MODEL,)).fetchall())
    settled = tags.get("history_settled")
    moves = [key for key in tags if key.startswith("history.")]
    return bool(moves) and settled == moves[-1] and json.loads(tags[moves[-1]])["after"] == number

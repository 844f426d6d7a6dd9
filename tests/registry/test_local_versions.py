"""The quick look into a local store finds what MLflow finds, or leaves the question to MLflow."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.pipeline_outputs import working_in
from videomar.checkpoint import open_model_folder
from videomar.errors import VideomarError
from videomar.hub import find
from videomar.hub.find import find_model as find_by_name
from videomar.hub.shipped import FOLDER
from videomar.registry.champion import apply_decision
from videomar.registry.local_versions import local_candidate, local_model_folder
from videomar.registry.versions import download_model, find_model, record_decision, version_of
from videomar.tracking.mlflow_store import open_client

YES = {"promote": True, "reasons": ["better"], "figures": []}
NO = {"promote": False, "reasons": ["Too few to rank"], "figures": []}
LOOK = """
import sys
from videomar.registry.local_versions import local_model_folder
print(local_model_folder("champion"))
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"mlflow", "pandas", "torch", "sqlalchemy"}))
"""


def copy_store(checkout: Path, to: Path) -> None:
    """Copy a store and its artifacts."""
    shutil.copytree(checkout / ".local/mlartifacts", to / ".local/mlartifacts")
    shutil.copy(checkout / ".local/mlflow.db", to / ".local")


@pytest.fixture(scope="module")
def promoted(registered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of version 1, which is champion, and its artifacts."""
    root = tmp_path_factory.mktemp("promoted")
    copy_store(registered, root)
    with working_in(root):
        apply_decision(record_decision(version_of("1"), YES))
    return root


@pytest.fixture
def refused(registered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store of version 1, which the gate refused: the user's first clips are real ones, and few."""
    copy_store(registered, tmp_path / "first")
    monkeypatch.chdir(tmp_path / "first")
    record_decision(version_of("1"), NO)
    return tmp_path / "first/.local/mlflow.db"


@pytest.fixture
def store(promoted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that store, with a name that needs care in an address."""
    folder = tmp_path / "ä b#1?"
    shutil.copytree(promoted, folder)
    monkeypatch.chdir(folder)
    return folder / ".local/mlflow.db"


def test_names_lead_to_the_folder_that_mlflow_finds(promoted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(promoted)
    for name in ("champion", "challenger", "1"):
        assert local_model_folder(name) == download_model(find_model(name))
    assert local_model_folder("2") is None


def test_look_imports_nothing_heavy_and_changes_nothing(store: Path) -> None:
    before = store.read_bytes()
    command = [sys.executable, "-c", LOOK]
    done = subprocess.run(command, cwd=store.parents[1], capture_output=True, text=True, check=True)
    folder, heavy = done.stdout.splitlines()
    assert (Path(folder) / "checkpoint/params.yaml").is_file()
    assert heavy == ""
    assert store.read_bytes() == before
    assert sorted(path.name for path in store.parent.iterdir()) == ["mlartifacts", "mlflow.db"]


def sql(text: str) -> Callable[[Path], None]:
    """A change by SQL, as another program or another version of MLflow may make it."""

    def change(store: Path) -> None:
        with closing(sqlite3.connect(store)) as database, database:
            assert database.execute(text).rowcount

    return change


@pytest.mark.parametrize(
    "change",
    [
        sql("UPDATE alembic_version SET version_num = 'later'"),
        sql("UPDATE runs SET lifecycle_stage = 'deleted'"),
        sql("UPDATE logged_models SET lifecycle_stage = 'deleted'"),
        sql("UPDATE model_versions SET current_stage = 'Deleted_Internal'"),
        sql("UPDATE logged_models SET artifact_location = 's3://bucket/model'"),
        sql("UPDATE logged_models SET artifact_location = 'file:///nowhere'"),
        sql("UPDATE registered_model_tags SET value = 'history.other' WHERE key = 'history_settled'"),
        sql("UPDATE registered_model_tags SET value = '{\"after\": \"2\"}' WHERE key LIKE 'history.%'"),
        sql("UPDATE registered_model_tags SET value = '{\"after' WHERE key LIKE 'history.%'"),
        sql("DELETE FROM registered_model_tags"),
        sql("DELETE FROM registered_model_aliases"),
        lambda store: store.write_bytes(b"no database"),
        lambda store: store.unlink(),
    ],
)
def test_unusual_state_is_left_to_mlflow(store: Path, change: Callable[[Path], None]) -> None:
    assert local_model_folder("champion") is not None
    change(store)
    assert local_model_folder("champion") is None


def test_store_of_a_server_is_left_to_mlflow(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert local_model_folder("champion") is None


def test_schema_is_that_of_the_installed_mlflow(promoted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an upgrade of MLflow: check the queries against the new tables, then change `_SCHEMA`."""
    monkeypatch.chdir(promoted)
    open_client()
    assert local_model_folder("1") is not None


def test_newest_candidate_stands_in_for_a_champion_that_never_was_and_a_line_says_so(
    refused: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = open_model_folder(download_model(version_of("1")))
    assert local_candidate() == ("1", download_model(version_of("1")))
    assert find_by_name("champion") == expected
    monkeypatch.setattr(find, "local_candidate", lambda: None)  # as of a server
    assert find_by_name("champion") == expected
    line = find._NEWEST % ("1", "shipped")
    assert line.startswith("no champion here yet: using the newest candidate, version 1; ")
    assert [record.getMessage() for record in caplog.records] == [line] * 2
    with pytest.raises(VideomarError, match="got champion, but .* `challenger` names the newest"):
        find_model("champion")


def test_candidate_is_looked_for_only_where_there_never_was_a_champion(store: Path) -> None:
    assert local_candidate() is None
    sql("DELETE FROM registered_model_aliases WHERE alias = 'champion'")(store)
    assert local_candidate() is None  # deleted by hand, which MLflow's history tells
    sql("DELETE FROM registered_model_tags")(store)
    assert local_candidate() is not None
    sql("DELETE FROM registered_model_aliases")(store)
    assert local_candidate() is None
    with pytest.raises(VideomarError, match="got champion, but there is none yet; run `make run`"):
        find_model("champion")


def test_shipped_model_stands_in_only_without_a_candidate(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sql("DELETE FROM registered_model_aliases")(store)
    sql("DELETE FROM registered_model_tags")(store)
    assert find_by_name("champion").checkpoint == FOLDER
    assert "using the model that comes with the package" in caplog.text

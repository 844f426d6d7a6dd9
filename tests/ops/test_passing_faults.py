"""A fault that passes is named in a line, and nothing is changed, replaced or left because of it."""

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import alembic.command
import pytest
import sqlalchemy
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base
from typer.testing import CliRunner

from tests.support.pipeline_outputs import REPOSITORY
from videomar.cli import app as cli
from videomar.config.layout import Layout
from videomar.errors import Finding, VideomarError
from videomar.ops import check_machine, check_pipeline, check_registry
from videomar.ops.check_registry import store_findings
from videomar.ops.doctor import examine
from videomar.ops.store_repair import repair
from videomar.registry.champion_history import MODEL
from videomar.registry.versions import version_of
from videomar.tracking.mlflow_store import open_client, other_tables

STORE = Path(".local/mlflow.db")
DESTRUCTIVE = ("rollback", "restore", "--force", "rm ", "stash", "reset", "gc", "down")
# Of the tables of a real older MLflow, which lacks some of the newest.
OLDER = "ae8bbe7743c9"


def advice(findings: list[Finding]) -> set[str]:
    """The commands, none of which may take anything away."""
    assert findings
    for finding in findings:
        assert not any(word in finding.fix for word in DESTRUCTIVE), str(finding)
    return {finding.fix for finding in findings}


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """The store as another program holds it while it writes."""
    with closing(sqlite3.connect(store)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


def last_line_of(*words: str) -> str:
    """What a command of ours prints on stderr: one line."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "videomar.cli", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    (line,) = done.stderr.strip().splitlines()
    return line


def test_database_in_use_is_waited_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_registry, "_PATIENCE_S", 0.1)
    with locked(STORE):
        assert advice(store_findings()) == {".venv/bin/videomar doctor"}
    assert store_findings() == []


@pytest.mark.slow
def test_commands_say_in_one_line_that_the_database_is_in_use(root: Path) -> None:
    with locked(STORE):
        line = last_line_of("history")
    assert "got a database in use by another program, expected an answer; wait for it" in line


@pytest.mark.parametrize("code", [sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR])
def test_database_that_cannot_be_read_now_is_no_damage(
    root: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    error = sqlite3.OperationalError("unable to open database file")
    error.sqlite_errorname = {v: k for k, v in vars(sqlite3).items() if k.startswith("SQLITE_")}[code]

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(check_registry, "read_store", refuse)
    assert advice(store_findings()) == {".venv/bin/videomar doctor"}


def test_damage_is_still_called_damage(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = root / "damaged.db"
    content = bytearray(STORE.read_bytes())
    content[4096:8192] = b"\xff" * 4096
    damaged.write_bytes(content)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{damaged}")
    (finding,) = store_findings()
    assert finding.fix == ".venv/bin/videomar restore BACKUP.tar --force"
    assert "is damaged" in finding.what
    assert "keeps it in .local/replaced-*" in finding.what


@pytest.mark.parametrize(
    "error",
    [
        OSError(30, "Read-only file system"),
        PermissionError(13, "Permission denied"),
        OSError(5, "Input/output error"),
        ConnectionError("Could not connect to the endpoint URL"),
    ],
)
def test_artifacts_that_cannot_be_read_now_leave_the_champion_where_it_is(
    root: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(check_registry, "stored_folders", refuse)
    assert advice(list(examine(Layout()).findings)) == {".venv/bin/videomar doctor"}


def test_disk_of_the_artifacts_that_is_not_mounted_is_no_damage(root: Path) -> None:
    hidden = Path(".local/mlartifacts").rename(root / "hidden")
    try:
        (finding,) = store_findings()
    finally:
        hidden.rename(".local/mlartifacts")
    assert advice([finding]) == {".venv/bin/videomar doctor"}
    assert "is its disk mounted?" in finding.what


def test_store_that_does_not_answer_says_nothing_of_a_run(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken for gone, and its record to be sent again."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def refuse(*_: object) -> None:
        raise MlflowException("(sqlite3.OperationalError) database is locked", error_code=5)

    monkeypatch.setattr(MlflowClient, "get_run", refuse)
    found = [item for item in examine(Layout()).findings if item.where in ("versions", "release")]
    assert advice(found) == {"fix that, then run `videomar doctor`"}
    assert "in use by another program" in found[0].what


def test_disk_that_is_read_only_is_the_finding(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class ReadOnly:
        f_flag = check_machine.os.ST_RDONLY

    monkeypatch.setattr(check_machine.os, "statvfs", lambda path: ReadOnly)
    (finding,) = check_machine.disk_findings(root)
    assert advice([finding]) == {f"findmnt --target {root}"}


@pytest.mark.parametrize(
    ("message", "fix"),
    [
        ("Unable to acquire lock. Most likely another DVC process is running", ".venv/bin/videomar doctor"),
        ("[Errno 30] Read-only file system: '.dvc/tmp'", ".venv/bin/videomar doctor"),
        ("unable to read: 'dvc.lock', YAML file structure is corrupted", "make run"),
    ],
)
def test_dvc_that_does_not_compare_costs_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, message: str, fix: str
) -> None:
    def refuse() -> None:
        raise VideomarError(message)

    monkeypatch.setattr(check_pipeline, "pipeline_status", refuse)
    assert advice(check_pipeline.pipeline_findings(Layout().lock, Layout().cache)) == {fix}


def test_parameters_are_shown_and_not_put_away(root: Path) -> None:
    with Path("params.yaml").open("a") as params:
        params.write("nonsense: 1\n")
    assert advice(check_pipeline.params_findings(Path("params.yaml"))) == {"git diff params.yaml"}


def test_error_of_no_known_kind_is_a_finding(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("a library\nchanged its mind")

    monkeypatch.setattr("videomar.ops.doctor.alias_findings", fail)
    (finding,) = examine(Layout()).findings
    assert finding.what == "could not be examined (a library changed its mind)"
    assert CliRunner().invoke(cli.app, ["doctor"]).exit_code == 1


def test_values_of_the_store_are_quoted_in_commands(root: Path) -> None:
    planted = "'); import os; os.system('touch planted'); print('$(touch planted)`touch planted`"
    client = open_client()
    client.set_tag(version_of("1").run_id, "git_commit", planted)
    (finding,) = examine(Layout()).findings
    subprocess.run(["/bin/sh", "-c", finding.fix], check=True)
    assert not Path("planted").exists()
    assert client.get_model_version(MODEL, "1").tags["git_commit"] == planted


def write_older_store(path: Path) -> None:
    """A store as an older MLflow made it, with a run."""
    path.parent.mkdir(parents=True)
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        config = _get_alembic_config(str(engine.url))
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, OLDER)
        insert = (
            "INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (1, 'videomar', 'active')"
        )
        connection.execute(sqlalchemy.text(insert))
    engine.dispose()


def test_older_store_is_upgraded_only_when_asked_and_a_copy_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_older_store(STORE)
    before = STORE.read_bytes()
    assert advice(store_findings()) == {".venv/bin/videomar doctor --fix"}
    line = last_line_of("history")
    assert f"got tables of an older MLflow ({OLDER})" in line
    assert STORE.read_bytes() == before, "MLflow itself would have changed it"
    lines = repair()
    (kept,) = Path(".local").glob("replaced-*/mlflow.db")
    with closing(sqlite3.connect(kept)) as copy:
        assert copy.execute("SELECT version_num FROM alembic_version").fetchall() == [(OLDER,)]
    assert any(str(kept) in line for line in lines)
    assert other_tables(STORE) is None
    assert open_client().get_experiment("1").name == "videomar"
    assert store_findings() == []
    assert repair() == []


def test_upgrade_that_fails_leaves_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_older_store(STORE)
    with closing(sqlite3.connect(STORE)) as store, store:  # a table in the way of the next step
        for name in ("label_schemas", "review_queues"):
            store.execute(f"CREATE TABLE IF NOT EXISTS {name} (x INTEGER)")
    before = STORE.read_bytes()
    with pytest.raises(VideomarError, match="the store is as it was"):
        repair()
    assert STORE.read_bytes() == before
    assert stat.S_ISREG(STORE.stat().st_mode)


def test_newer_store_is_left_to_its_own_mlflow(root: Path) -> None:
    with closing(sqlite3.connect(STORE)) as store, store:
        store.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    assert advice(store_findings()) == {"make setup"}
    assert "got tables of a newer MLflow (ffffffffffff)" in last_line_of("history")

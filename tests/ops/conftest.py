"""One checkout for all tests here, put back as it was before each."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.pipeline_outputs import working_in
from tests.support.upkeep_checkout import make_checkout

_STORE = ".local/mlflow.db"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The checkout, and a copy of it: once, because a release takes seconds."""
    root = tmp_path_factory.mktemp("checkout")
    with working_in(root), pytest.MonkeyPatch.context() as patch:
        # A restore replaces the store; SQLite refuses to write with connections to the one before.
        patch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
        make_checkout(root)
    copy = tmp_path_factory.mktemp("copies") / "copy"
    shutil.copytree(root, copy, symlinks=True)
    return root, copy


@pytest.fixture
def root(made: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder: a checkout in which all is well."""
    root, copy = made
    monkeypatch.chdir(root)
    yield root
    for path in root.iterdir():
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.name != ".local":
            shutil.rmtree(path)
    for path in (root / ".local").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.name == "mlflow.db" or path.unlink()
    shutil.copytree(copy, root, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("mlflow.db"))
    # In place: a test's own client may hold the file open.
    with closing(sqlite3.connect(copy / _STORE)) as before, closing(sqlite3.connect(root / _STORE)) as now:
        before.backup(now)

"""After `mv` and after `cp -a` a checkout uses its own artifacts, and no other place is read or written."""

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.upkeep_checkout import run
from videomar.config.layout import Layout
from videomar.environment import SERVICES, folder_mark, read_services
from videomar.errors import Finding, VideomarError
from videomar.files import sha256_of, write_json
from videomar.ops.check_machine import environment_findings, worktree_findings
from videomar.ops.check_registry import store_findings
from videomar.ops.doctor import examine
from videomar.ops.store_repair import repair
from videomar.registry.versions import champion, download_evidence, download_model
from videomar.tracking.mlflow_store import EXPERIMENT, experiment_id, open_client

STORE = Path(".local/mlflow.db")
MLARTIFACTS = Path(".local/mlartifacts")


@pytest.fixture
def copied(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a copy of the checkout, which stays beside it."""
    copy = tmp_path / "a copy"
    subprocess.run(["cp", "-a", root, copy], check=True)
    enter(copy, monkeypatch)
    return copy


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow itself sets it for children


def paths_in(store: Path) -> set[str]:
    """All text in the store that names a folder."""
    with closing(sqlite3.connect(store)) as database:
        lines = list(database.iterdump())
    return {word for line in lines for word in line.split("'") if word.startswith(("file:", "/"))}


def read_all() -> str:
    """Hash of the champion's weights, after everything that a version consists of was read."""
    version = champion()
    assert version is not None
    assert (download_evidence(version, Path("evidence")) / "dvc.lock").is_file()
    shutil.rmtree("evidence")
    return sha256_of(download_model(version) / "checkpoint/ema.safetensors")


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def write_a_run() -> Path:
    """Where a new run of the experiment keeps its artifacts."""
    client = open_client()
    run_id = client.create_run(experiment_id(client)).info.run_id
    client.log_text(run_id, "text", "a.txt")
    return next(path for path in MLARTIFACTS.resolve().rglob("a.txt") if run_id in str(path))


def test_copy_reads_and_writes_nothing_of_the_other(
    root: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = sha256_of(next(root.glob(".local/mlartifacts/models/*/artifacts/artifacts/checkpoint/ema*")))
    before = state_of(root / ".local")
    assert read_all() == expected
    assert write_a_run().is_relative_to(copied)
    assert state_of(root / ".local") == before
    os.rename(root / ".local", root / ".hidden")
    try:
        assert read_all() == expected
        assert not [path for path in paths_in(STORE) if str(root) in path]
    finally:
        os.rename(root / ".hidden", root / ".local")
    assert examine(Layout()).findings == []


def test_moved_checkout_works_at_once_and_the_old_place_stays_empty(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_client()
    moved = tmp_path / "moved 日本語"
    os.rename(copied, moved)
    enter(moved, monkeypatch)
    read_all()
    assert write_a_run().is_relative_to(moved)
    assert not copied.exists()
    assert not [path for path in paths_in(STORE) if path.startswith((str(copied), copied.as_uri()))]


def test_artifacts_behind_a_link_are_those_of_the_checkout(
    copied: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_client()
    caplog.clear()
    shutil.move(MLARTIFACTS, tmp_path / "large disk")
    MLARTIFACTS.symlink_to(tmp_path / "large disk")
    before = paths_in(STORE)
    read_all()
    assert write_a_run().is_relative_to(tmp_path / "large disk")
    assert "came here" not in caplog.text
    assert before <= paths_in(STORE)
    assert store_findings() == []


def test_doctor_finds_a_copied_store_changes_nothing_and_fix_mends_it(root: Path, copied: Path) -> None:
    before = state_of(copied / ".local")
    (finding, *more) = examine(Layout()).findings
    assert (finding.where, finding.fix) == (str(STORE.resolve()), ".venv/bin/videomar doctor --fix")
    assert str(root / MLARTIFACTS) in finding.what
    assert {item.fix for item in more} <= {finding.fix}
    assert state_of(copied / ".local") == before
    lines = run(".venv/bin/videomar doctor --fix").splitlines()
    assert lines[-1] == "all is well: dvc.lock, files, MLflow, alias and services agree"
    (kept,) = copied.glob(".local/replaced-*/mlflow.db")
    assert str(kept) in lines[0]
    assert any(str(root) in path for path in paths_in(kept))
    assert not any(str(root) in path for path in paths_in(STORE))


def test_store_that_came_without_its_artifacts_is_refused_until_they_are_copied(
    root: Path, copied: Path
) -> None:
    shutil.rmtree(MLARTIFACTS)
    before = state_of(root / ".local")
    with pytest.raises(
        VideomarError, match=r"alone, expected them in .*; `videomar doctor --fix` copies them"
    ):
        champion()
    assert [item.fix for item in store_findings()] == [".venv/bin/videomar doctor --fix"]
    repair()
    assert store_findings() == []
    read_all()
    assert state_of(root / ".local") == before


def test_folder_that_somebody_chose_stays_in_use_until_it_is_taken_in(root: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "large disk/mlartifacts"
    client = open_client()
    experiment = client.create_experiment("other", artifact_location=chosen.as_uri())
    run_id = client.create_run(experiment).info.run_id
    client.log_text(run_id, "text", "a.txt")
    open_client()
    assert client.get_run(run_id).info.artifact_uri == f"{chosen.as_uri()}/{run_id}/artifacts"
    assert [item.fix for item in store_findings()] == [".venv/bin/videomar doctor --fix"]
    repair()
    assert (root / MLARTIFACTS / run_id / "artifacts/a.txt").read_text() == "text"
    assert (chosen / run_id / "artifacts/a.txt").is_file(), "nothing is removed"
    assert store_findings() == []


def test_folder_of_no_run_is_named_and_never_copied(root: Path, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    (private / "key").write_text("secret")
    run_id = open_client().create_run(experiment_id(open_client())).info.run_id
    with closing(sqlite3.connect(STORE)) as store, store:
        store.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", [private.as_uri(), run_id])
    (finding,) = store_findings()
    assert private.as_uri() in finding.what
    assert "rollback" not in finding.fix
    assert repair() == []
    assert not list(root.rglob("key"))
    run(finding.fix)


def test_experiment_that_was_never_used_moves_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    enter(tmp_path / "first", monkeypatch)
    experiment_id(open_client())
    os.rename(tmp_path / "first/.local", tmp_path / "second/.local")
    (tmp_path / "first").rmdir()
    enter(tmp_path / "second", monkeypatch)
    assert write_a_run().is_relative_to(tmp_path / "second")
    location = open_client().get_experiment_by_name(EXPERIMENT).artifact_location
    assert location == (tmp_path / "second" / MLARTIFACTS).as_uri()
    assert not (tmp_path / "first").exists()


def test_services_of_the_other_copy_are_not_ours(root: Path, copied: Path) -> None:
    for folder in (root, copied):
        write_json(
            folder / SERVICES, {"folder_mark": folder_mark(root), "tracking_uri": "http://127.0.0.1:9"}
        )
    assert read_services(root)["tracking_uri"] == "http://127.0.0.1:9"
    assert read_services(copied) == {}
    os.rename(copied / ".local", copied / ".elsewhere")
    os.rename(copied / ".elsewhere", copied / ".local")
    assert read_services(copied) == {}


def test_environment_of_another_folder_is_found(tmp_path: Path) -> None:
    venv = tmp_path / ".venv"
    assert environment_findings(venv) == []
    write_json(venv / ".ready", {"folder": str(tmp_path)})
    assert environment_findings(venv) == []
    write_json(venv / ".ready", {"folder": "/another"})
    (finding,) = environment_findings(venv)
    assert isinstance(finding, Finding)
    assert finding.fix == "make setup"


def test_work_tree_of_a_sweep_is_taken_over(
    root: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeps = Path(".local/sweeps")
    assert worktree_findings(sweeps) == []
    monkeypatch.chdir(root)
    run("git worktree add --quiet --detach .local/sweeps/sweep-1 HEAD")
    assert worktree_findings(sweeps) == []
    subprocess.run(["cp", "-a", root / ".git", root / ".local", copied], check=True)
    monkeypatch.chdir(copied)
    (finding,) = worktree_findings(sweeps)
    run(finding.fix)
    assert worktree_findings(sweeps) == []
    where = run("git -C .local/sweeps/sweep-1 rev-parse --path-format=absolute --git-common-dir").strip()
    assert Path(where) == copied / ".git"
    assert run(".venv/bin/dvc --cd .local/sweeps/sweep-1 cache dir").strip() == str(copied / ".dvc/cache")

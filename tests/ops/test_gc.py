"""What is planted as garbage goes; what an alias, a version, a tag, a branch or the tree needs stays."""

import os
import re
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.upkeep_checkout import commit, run
from videomar.cli import app as cli
from videomar.files import write_json
from videomar.ops.gc import find_files, find_objects, known_versions
from videomar.ops.unused_runs import find_runs
from videomar.provenance.checkout import outputs_of
from videomar.registry.champion_history import MODEL
from videomar.registry.versions import version_of
from videomar.tracking.mlflow_store import experiment_id, open_client
from videomar.tracking.run_log import RunLog

OLD_S = 40 * 86400.0
CACHE = Path(".dvc/cache/files/md5")


def old(path: Path) -> Path:
    """The folder, as if written forty days ago."""
    (path / "file").parent.mkdir(parents=True, exist_ok=True)
    (path / "file").write_bytes(b"1234567890")
    for item in (*path.rglob("*"), path):
        os.utime(item, (time.time() - OLD_S,) * 2)
    return path


def gc(*options: str) -> str:
    done = CliRunner().invoke(cli.app, ["gc", *options])
    assert done.exit_code == 0, done.output
    return done.stdout


def files() -> set[Path]:
    return {path for path in Path().rglob("*") if path.is_file() and ".venv" not in path.parts}


def stored(text: str) -> Path:
    """An object in DVC's cache for an output of these bytes that is committed with git and tagged."""
    Path("data/ledger.parquet").write_text(text)
    run(".venv/bin/dvc commit --force --quiet curate")
    md5 = outputs_of(Path("dvc.lock").read_text())["data/ledger.parquet"]
    return CACHE / md5[:2] / md5[2:]


def deleted_run(days: float) -> str:
    """A run with an artifact that was deleted so long ago."""
    client = open_client()
    run_id = str(client.create_run(experiment_id(client)).info.run_id)
    client.log_text(run_id, "1234567890", "a.txt")
    client.delete_run(run_id)
    age(run_id, days)
    return run_id


def age(run_id: str, days: float) -> None:
    with closing(sqlite3.connect(".local/mlflow.db")) as store, store:
        store.execute(
            "UPDATE runs SET deleted_time = ? WHERE run_uuid = ?",
            [(time.time() - days * 86400) * 1000, run_id],
        )


def test_clean_checkout_has_no_garbage(root: Path) -> None:
    assert gc() == "nothing to remove\n"


def test_nothing_is_removed_unless_asked(root: Path) -> None:
    old(Path("checkpoints/videomar.aside/planted"))
    deleted_run(40)
    before = files()
    told = gc()
    assert files() == before
    assert "could be removed; `videomar gc --yes` does it" in told
    assert re.search(r"0\.00 MB {2}checkpoints/videomar\.aside/planted {2}\(a training run archived", told)


@pytest.mark.parametrize(
    "folder",
    [
        "checkpoints/videomar.aside/a",
        "checkpoints/runs/videomar.aside/a",
        ".local/ray/a",
        ".local/mirrors/a",
        ".local/journals/a",
        ".local/sweeps/a",
        ".local/replaced-a",
    ],
)
def test_old_folder_goes_and_a_young_one_stays(root: Path, folder: str) -> None:
    young = old(Path(f"{folder}-young"))
    (young / "file").touch()
    planted = old(Path(folder))
    others = files() - {planted / "file"}
    assert f"{planted}  (" in gc("--yes")
    assert not planted.exists()
    assert files() == others
    gc("--yes", "--days", "0")
    assert not young.exists()


def test_run_set_aside_stays_while_mlflow_lacks_lines_or_it_trained_the_champion(root: Path) -> None:
    unsent = Path("checkpoints/videomar.aside/unsent")
    RunLog(unsent / "outbox/a").append("start", params={}, tags={})
    trained = Path("checkpoints/videomar.aside/trained")
    write_json(trained / "run.json", {"run_id": "trained"})
    open_client().set_model_version_tag(MODEL, "1", "training_run", "trained")
    for folder in (unsent, trained):
        old(folder)
    garbage, notes = find_files(30, known_versions())
    assert garbage == []
    assert [note.partition(":")[0] for note in notes] == [str(trained), str(unsent)]


def test_draft_stays_while_it_may_be_written(root: Path) -> None:
    (root / f"metrics/.a.json.{os.getpid()}").touch()
    (root / "checkpoints/videomar/.draft-young").mkdir()
    assert find_files(0, known_versions())[0] == []


def test_deleted_run_goes_with_its_artifacts(root: Path) -> None:
    long_ago, lately = deleted_run(40), deleted_run(10)
    artifacts = {
        run_id: Path(f".local/mlartifacts/{run_id}/artifacts/a.txt") for run_id in (long_ago, lately)
    }
    assert f"MLflow run {long_ago}" in gc("--yes")
    assert not artifacts[long_ago].exists()
    assert artifacts[lately].exists()
    assert open_client().get_run(lately).info.lifecycle_stage == "deleted"
    assert gc() == "nothing to remove\n"


def test_deleted_run_of_a_version_stays(root: Path) -> None:
    run_id = version_of("1").run_id
    open_client().delete_run(run_id)
    age(run_id, 40)
    garbage, notes = find_runs(30, known_versions())
    assert garbage == []
    assert notes == [f"MLflow run {run_id}: kept, a registered version is from it"]


def test_deleted_experiment_stays_whole(root: Path) -> None:
    """`mlflow gc` would remove it, and all of its runs, beside the run that it is asked to remove."""
    deleted_run(40)
    other = open_client().create_experiment("other")
    open_client().delete_experiment(other)
    garbage, notes = find_runs(30, known_versions())
    assert garbage == []
    assert "restore` it first" in notes[0]


def test_object_that_nothing_names_goes_and_those_of_tag_branch_and_tree_stay(root: Path) -> None:
    run("git branch before")
    tagged = stored("tagged")
    commit("tagged")
    run("git tag release-1")
    unnamed = stored("named by nothing any more")
    branched = stored("branched")
    commit("branched")
    present = stored("present")
    everything = {path for path in CACHE.rglob("*") if path.is_file()}
    assert {tagged, unnamed, branched, present} <= everything
    assert "DVC's cache: 1 objects" in gc("--yes")
    assert {path for path in CACHE.rglob("*") if path.is_file()} == everything - {unnamed}


def test_objects_of_a_registered_version_stay_though_git_never_knew_them(root: Path) -> None:
    """Its dvc.lock is in the evidence of its run alone."""
    lock = (root / "dvc.lock").read_text()
    named = {path for path in CACHE.rglob("*") if path.is_file()}
    shutil.rmtree(".git")
    run("git init --quiet && git add .dvc/config && git commit --quiet -m emptied")
    stored("present")
    garbage, notes = find_objects(known_versions())
    assert (garbage, notes) == ([], [])
    (unneeded,), _ = find_objects([])
    unneeded.remove()
    gone = named - {path for path in CACHE.rglob("*") if path.is_file()}
    assert gone == {CACHE / (md5 := outputs_of(lock)["data/ledger.parquet"])[:2] / md5[2:]}


def test_cache_is_left_alone_if_a_version_does_not_say_what_it_needs(root: Path) -> None:
    stored("unneeded")
    stored("present")
    for evidence in Path(".local/mlartifacts").glob("*/artifacts/evidence/dvc.lock"):
        evidence.unlink()
    garbage, notes = find_objects(known_versions())
    assert garbage == []
    assert len(notes) == 1
    assert notes[0].startswith(
        "DVC's cache: left alone, videomar version 1 (checkpoint step 30) has no dvc.lock"
    )


def test_nothing_is_judged_without_a_registry(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/none.db")
    old(Path("checkpoints/videomar.aside/planted"))
    done = CliRunner().invoke(cli.app, ["gc", "--yes"])
    assert "got no registry" in str(done.exception)
    assert Path("checkpoints/videomar.aside/planted").exists()

"""What is planted as garbage goes; what an alias, a version, a tag, a branch or the tree needs stays."""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.pipeline_outputs import REPOSITORY
from tests.support.upkeep_checkout import commit, run
from videomar.cli import app as cli
from videomar.files import write_json
from videomar.ops.check_machine import leftover_findings
from videomar.ops.check_registry import registration_findings
from videomar.ops.gc import find_files, find_objects, known_versions
from videomar.ops.unused_runs import find_registrations, find_runs
from videomar.provenance.checkout import outputs_of
from videomar.registry.champion_history import MODEL
from videomar.registry.versions import version_of
from videomar.tracking.mlflow_store import experiment_id, open_client
from videomar.tracking.run_log import RunLog
from videomar.tracking.staging import note_run, staging_folder

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


@pytest.mark.parametrize(
    "location",
    [
        "file:///{0}/private",
        "/{0}/private",
        "file://{0}/.local/mlartifacts",
        "file://{0}/.local/mlartifacts/{1}",
        "file://{0}/.local/mlartifacts/{2}/artifacts",
        "file://{0}/.local/mlartifacts/../../private/{1}/artifacts",
        "{0}/.local/mlartifacts/%2e%2e/%2e%2e/private/{1}/artifacts",
        "file://{0}/.local/mlartifacts/link/{1}/artifacts",
        "s3://bucket/other",
    ],
)
@pytest.mark.parametrize("table", ["runs", "logged_models"])
def test_store_that_names_other_folders_gets_none_of_them_removed(
    root: Path, location: str, table: str
) -> None:
    """A backup of anybody's may be restored, and its store says where artifacts are."""
    run_id, needed = deleted_run(40), version_of("1").run_id
    mine = root / f"private/{run_id}/artifacts/key"
    mine.parent.mkdir(parents=True)
    mine.write_text("secret")
    (root / ".local/mlartifacts/link").symlink_to(root / "private")
    with closing(sqlite3.connect(".local/mlflow.db")) as store, store:
        if table == "runs":
            where = location.format(root, run_id, needed)
            store.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", [where, run_id])
        else:
            where = location.format(root, model_id := f"m-{run_id}", needed)
            (root / f"private/{model_id}").symlink_to(root / f"private/{run_id}")
            store.execute(
                "INSERT INTO logged_models (model_id, experiment_id, name, artifact_location, "
                "creation_timestamp_ms, last_updated_timestamp_ms, status, lifecycle_stage, source_run_id) "
                "VALUES (?, 1, 'model', ?, 0, 0, 2, 'deleted', ?)",
                [model_id, where, run_id],
            )
    before = {path for path in files() if ".dvc" not in path.parts}
    garbage, notes = find_runs(30, known_versions())
    assert garbage == []
    assert where in notes[0]
    assert {path for path in files() if ".dvc" not in path.parts} == before


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


def test_clone_whose_lock_names_objects_that_nobody_has_shrinks_again(root: Path, tmp_path: Path) -> None:
    """The committed dvc.lock of a clone is that of somebody else's run."""
    run(f"git clone --quiet . {tmp_path}/clone && ln -s $PWD/.venv {tmp_path}/clone/.venv")
    os.chdir(tmp_path / "clone")
    Path("data").mkdir()
    assert not any("cannot" in note or "left alone" in note for note in find_objects([])[1])
    unneeded = stored("unneeded")
    stored("present")
    (garbage,), notes = find_objects([])
    assert notes == []
    garbage.remove()
    assert not unneeded.exists()
    assert len([path for path in CACHE.rglob("*") if path.is_file()]) == 1


def test_object_that_a_file_of_the_tree_links_to_stays(root: Path) -> None:
    run(".venv/bin/dvc config --local cache.type symlink && .venv/bin/dvc checkout --quiet --relink --force")
    assert Path("data/ledger.parquet").is_symlink()
    Path("dvc.lock").unlink()  # nothing but the link says what the tree needs
    run("git rm --quiet --cached dvc.lock && git commit --quiet --message without")
    for garbage in find_objects([])[0]:
        garbage.remove()
    assert Path("data/ledger.parquet").read_bytes()


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


KILLED = """
import os, signal, mlflow.pyfunc  # not as `mlflow.pyfunc` alone, which is a stand-in until it is used
from videomar import checkpoint
from videomar.registry import release

def kill_after(module, name):
    function = getattr(module, name)
    def killed(*args, **options):
        function(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(module, name, killed)

kill_after({after})
release.register()
"""
AT = {
    "while it is put together": "checkpoint, 'export'",
    "while MLflow stores it": "mlflow.pyfunc, 'log_model'",
    "with the evidence alone": "mlflow, 'log_artifacts'",
}
"""Functions after which the process is killed."""


@pytest.mark.slow
@pytest.mark.parametrize("when", AT)
def test_registration_that_is_killed_leaves_nothing_that_gc_does_not_remove(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    with Path("dvc.lock").open("a") as lock:
        lock.write("# another state of the pipeline\n")
    run("sed -i 's/md5: ./md5: 0/' dvc.lock")
    before, here = files(), tmp_path / "system"
    here.mkdir()
    monkeypatch.setenv("TMPDIR", str(here))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    script = KILLED.format(after=AT[when])
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not [path for path in here.rglob("*.safetensors")], "a model outside of the checkout's disk"
    assert [path for path in files() - before if path.suffix == ".safetensors"]
    found = [item.fix for item in (*leftover_findings(), *registration_findings())]
    assert set(found) == {".venv/bin/videomar gc --yes"}
    gc("--yes")
    assert files() - before <= {Path(".local/mlflow.db-journal")}
    assert (leftover_findings(), registration_findings()) == ([], [])
    assert [version.number for version in known_versions()] == ["1"]


def test_registration_that_goes_on_and_models_of_others_are_no_garbage(root: Path) -> None:
    client = open_client()
    version = version_of("1")
    tags = {"weights_sha256": "0" * 64}
    going_on = client.create_run(experiment_id(client), tags=tags, start_time=1).info.run_id
    other = client.create_run(experiment_id(client), tags=tags, start_time=1).info.run_id
    client.create_registered_model("of-somebody-else")
    client.create_model_version("of-somebody-else", f"runs:/{other}/model", other)
    with staging_folder() as folder:
        note_run(folder, going_on)
        assert find_registrations(0, known_versions()) == ([], [])
    client.delete_model_version(MODEL, version.number)
    left = [item.what.split()[2] for item in find_registrations(0, known_versions())[0]]
    assert sorted(left) == sorted([going_on, version.run_id])
    ((item,), _) = find_registrations(30, known_versions())
    assert item.what.split()[2] == going_on

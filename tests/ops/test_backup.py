"""Registry and runs in one file, and back: here, elsewhere, while in use, and never half."""

import io
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.ops.test_doctor import living, note_services
from tests.support.upkeep_checkout import run
from videomar.errors import VideomarError
from videomar.files import sha256_of
from videomar.ops.backup import back_up, restore
from videomar.registry.champion_history import MODEL, read_history
from videomar.registry.versions import all_versions, download_evidence, download_model, find_model
from videomar.tracking.mlflow_store import open_client


def sums(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_round_trip_in_another_checkout_keeps_aliases_history_runs_and_artifacts(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(f".venv/bin/videomar backup {tmp_path}/all.tar")
    version = find_model("champion")
    expected = read_history(open_client()), all_versions(), open_client().get_run(version.run_id).data
    weights, artifacts = sums(download_model(version)), sums(root / ".local/mlartifacts")
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow itself sets it for children
    restore(tmp_path / "all.tar", force=False)
    os.rename(root / ".local/mlartifacts", root / ".local/hidden")  # nothing may be read from there
    try:
        again = find_model("champion")
        found = read_history(open_client()), all_versions(), open_client().get_run(again.run_id).data
        assert [str(item) for item in found] == [str(item) for item in expected]
        assert sums(download_model(again)) == weights
        assert sums(other / ".local/mlartifacts") == artifacts
        assert (download_evidence(again, tmp_path / "evidence") / "dvc.lock").is_file()
    finally:
        os.rename(root / ".local/hidden", root / ".local/mlartifacts")


def test_backup_says_that_artifacts_in_a_bucket_are_not_in_it(root: Path, tmp_path: Path) -> None:
    assert len(back_up(tmp_path / "all.tar")) == 1
    client = open_client()
    experiment = client.create_experiment("elsewhere", artifact_location="s3://bucket/mlflow")
    run_id = client.create_run(experiment).info.run_id
    (_, note) = back_up(tmp_path / "again.tar")
    assert note.startswith(
        f"note: not in it: artifacts of 1 runs at other locations, as s3://bucket/mlflow/{run_id}"
    )


def test_registry_that_is_there_is_replaced_only_by_force_and_kept(root: Path, tmp_path: Path) -> None:
    back_up(tmp_path / "all.tar")
    before = sha256_of(root / ".local/mlflow.db")
    with pytest.raises(VideomarError, match=r"got a registry, expected none; --force"):
        restore(tmp_path / "all.tar", force=False)
    assert sha256_of(root / ".local/mlflow.db") == before
    copy = tmp_path / "copy"
    shutil.copytree(root / ".local", copy / ".local")
    lines = subprocess.run(
        [sys.executable, "-m", "videomar.cli", "restore", str(tmp_path / "all.tar"), "--force"],
        cwd=copy,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (kept,) = (copy / ".local").glob("replaced-*")
    assert str(kept.name) in lines
    assert sha256_of(kept / "mlflow.db") == before
    assert sums(kept / "mlartifacts") == sums(copy / ".local/mlartifacts")


def test_backup_of_a_store_in_use_is_whole(root: Path, tmp_path: Path) -> None:
    """Tags are written meanwhile; the copy has all up to some moment and none after it."""
    client, ended = open_client(), threading.Event()

    def write() -> None:
        number = 0
        while not ended.is_set():
            client.set_registered_model_tag(MODEL, f"planted.{number}", "a")
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            back_up(tmp_path / f"{number}.tar")
    finally:
        ended.set()
        writer.join()
    counts = []
    for number in range(3):
        with tarfile.open(tmp_path / f"{number}.tar") as tar:
            tar.extract("mlflow.db", tmp_path, filter="data")
        with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
            assert store.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            query = "SELECT key FROM registered_model_tags WHERE key LIKE 'planted.%'"
            planted = {int(key.partition(".")[2]) for (key,) in store.execute(query)}
        assert planted == set(range(len(planted)))
        counts.append(len(planted))
    assert counts == sorted(counts)
    assert counts[-1] > 0


def test_damaged_or_foreign_file_is_refused_and_changes_nothing(root: Path, tmp_path: Path) -> None:
    back_up(tmp_path / "all.tar")
    whole = (tmp_path / "all.tar").read_bytes()
    place = whole.index(b"SQLite format 3") + 5000
    flipped = bytearray(whole)
    flipped[place] ^= 1
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        member = tarfile.TarInfo("mlartifacts/../../evil")
        tar.addfile(member, io.BytesIO(b""))
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "end.tar").write_bytes(whole[: whole.rindex(b"backup.json") // 512 * 512])
    (tmp_path / "flip.tar").write_bytes(flipped)
    (tmp_path / "text.tar").write_text("no tar")
    before = sums(root / ".local")
    for name in ("cut", "end", "flip", "evil", "text"):
        with pytest.raises(VideomarError, match=rf"{name}\.tar: (damaged|cut off)"):
            restore(tmp_path / f"{name}.tar", force=True)
    assert sums(root / ".local") == before


@pytest.mark.slow
def test_backup_that_names_other_folders_says_so_and_gets_none_of_them_removed(
    root: Path, tmp_path: Path
) -> None:
    private = tmp_path / "private"
    private.mkdir()
    (private / "key").write_text("secret")
    client = open_client()
    run_id = client.create_run("1").info.run_id
    client.delete_run(run_id)
    with closing(sqlite3.connect(".local/mlflow.db")) as store, store:
        values = [private.as_uri(), run_id]
        store.execute("UPDATE runs SET artifact_uri = ?, deleted_time = 1 WHERE run_uuid = ?", values)
    back_up(tmp_path / "all.tar")
    lines = restore(tmp_path / "all.tar", force=True)
    assert lines[-1].startswith(
        f"note: 1 runs or models name folders outside of this checkout, as {private.as_uri()}"
    )
    run(".venv/bin/videomar gc --yes")
    assert (private / "key").read_text() == "secret"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("backup.json", b"{}"),
        ("backup.json", b'{"sha256": {}, "artifacts": "file:///a", "made_at": "x"}'),
        ("", b""),
    ],
)
def test_file_that_is_no_backup_is_refused_in_a_line(
    root: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    with tarfile.open(tmp_path / "odd.tar", "w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    with pytest.raises(VideomarError, match=r"odd\.tar: (damaged|cut off)"):
        restore(tmp_path / "odd.tar", force=True)


def test_backup_that_is_killed_leaves_the_one_before(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "all.tar"
    target.write_text("the one before")
    with (root / ".local/mlartifacts/large").open("wb") as large:
        large.truncate(400_000_000)
    child = subprocess.Popen([sys.executable, "-m", "videomar.cli", "backup", str(target)])
    end = time.monotonic() + 60
    while not any(path.stat().st_size > 1_000_000 for path in tmp_path.glob(".all.tar.*")):
        assert time.monotonic() < end
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert target.read_text() == "the one before"
    (root / ".local/mlartifacts/large").unlink()
    back_up(target)
    assert list(tmp_path.iterdir()) == [target]


def test_restore_under_services_that_are_up_is_refused(root: Path, tmp_path: Path) -> None:
    back_up(tmp_path / "all.tar")
    note_services([living()])
    with pytest.raises(VideomarError, match="`make down` first"):
        restore(tmp_path / "all.tar", force=True)


def test_store_elsewhere_is_refused_without_its_password(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://user:secret@host/runs")
    with pytest.raises(VideomarError, match="got a postgresql address") as refusal:
        back_up(tmp_path / "all.tar")
    assert "secret" not in str(refusal.value)


def test_backup_into_the_artifacts_or_of_nothing_is_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(VideomarError, match="among the artifacts"):
        back_up(root / ".local/mlartifacts/all.tar")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideomarError, match="got no file, expected MLflow's store"):
        back_up(tmp_path / "all.tar")
    assert list(tmp_path.iterdir()) == []

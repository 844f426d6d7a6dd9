"""DVC's remote may be a bucket; the store is a real server on loopback."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

from tests.support.object_store import object_store, use_store
from tests.support.upkeep_checkout import WHO


@pytest.fixture
def bucket(monkeypatch):
    """The URL of a new bucket of the machine's object store."""
    with object_store() as address:
        use_store(monkeypatch, address)
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="project")
        yield "s3://project/dvc"


def run(folder: Path, command: str) -> str:
    environment = {**os.environ, **WHO, "DVC_NO_ANALYTICS": "1"}
    command = command.replace("dvc ", f"{sys.executable} -m dvc ")
    done = subprocess.run(
        ["/bin/sh", "-ec", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout} {done.stderr}"
    return done.stdout


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_fresh_clone_pulls_from_a_bucket_what_was_pushed(tmp_path, bucket):
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "data/raw/trip").mkdir(parents=True)
    (here / "data/raw/trip/a b.mp4").write_bytes(os.urandom(2**20))
    (here / "data/raw/empty.mp4").touch()
    (here / "data/ledger.parquet").write_bytes(b"rows")
    run(here, "git init --quiet && dvc init --quiet")
    run(here, f"dvc remote add --default --quiet store {bucket}")
    run(here, "dvc add --quiet data/raw data/ledger.parquet && dvc push --quiet")
    assert "in sync" in run(here, "dvc status --cloud")
    run(here, "git add --all && git commit --quiet --message first")

    run(tmp_path, "git clone --quiet here there")
    assert not (there / "data/raw").exists()
    run(there, "dvc pull --quiet")
    assert "up to date" in run(there, "dvc status")
    names = files(there / "data")
    assert {name: data for name, data in files(here / "data").items() if name in names} == names
    assert set(names) >= {"raw/trip/a b.mp4", "raw/empty.mp4", "ledger.parquet"}

    (here / "data/raw/empty.mp4").write_bytes(b"no more")
    run(here, "dvc add --quiet data/raw && dvc push --quiet")
    shutil.rmtree(there / ".dvc/cache")
    shutil.rmtree(there / "data/raw")
    run(here, "git commit --quiet --all --message second")
    run(there, "git pull --quiet && dvc pull --quiet")
    assert files(there / "data/raw") == files(here / "data/raw")

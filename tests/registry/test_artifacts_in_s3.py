"""Artifacts of MLflow may lie in a bucket: a release, what reads it, and what is thrown away.

The store is a real server on loopback; MLflow's tables stay in the SQLite file.
"""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import boto3
import pytest
from typer.testing import CliRunner

from tests.support.object_store import object_store, use_store
from tests.support.pipeline_outputs import write_outputs
from videomar import checkpoint
from videomar.cli import app as cli
from videomar.ops.gc import known_versions
from videomar.ops.unused_runs import find_runs
from videomar.registry import release
from videomar.registry import versions as registry
from videomar.tracking.mlflow_store import EXPERIMENT, experiment_id, open_client


@pytest.fixture
def client(monkeypatch):
    """Client of the machine's object store, which holds the bucket `project`."""
    with object_store() as address:
        use_store(monkeypatch, address, "MLFLOW_S3_ENDPOINT_URL")
        client = boto3.client("s3", endpoint_url=address)
        client.create_bucket(Bucket="project")
        yield client


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A working folder after a run of the pipeline."""
    write_outputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def keys(client, folder=""):
    found = client.list_objects_v2(Bucket="project", Prefix=f"mlflow/{folder}").get("Contents", [])
    return [item["Key"] for item in found]


def call(*arguments):
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.slow
def test_release_lies_in_the_bucket_and_all_that_reads_it_still_does(root, client):
    open_client().create_experiment(EXPERIMENT, artifact_location="s3://project/mlflow")
    number = release.register()
    assert "promoted" in release.decide(number)
    release.move_alias(number)
    release.report(number)
    version = registry.champion()
    assert str(version) == "videomar version 1 (checkpoint step 30)"
    assert {Path(key).name for key in keys(client)} >= {"model.safetensors", "lineage.parquet", "dvc.lock"}
    assert not list(root.rglob("mlartifacts"))

    model = registry.download_model(version)
    assert checkpoint.load(model / "checkpoint").step == 30
    traced = json.loads(call("trace", "champion", "--json"))
    assert traced["num_latents"] == len(traced["latents"]) > 0
    assert traced["lock_sha256"] == version.tags["lock_sha256"]
    assert "was made with" in call("trace", "--forward", traced["raw"][0]["sha256"])

    store = open_client()
    unneeded = store.create_run(experiment_id(store)).info.run_id
    store.log_text(unneeded, "1234567890", "a.txt")
    store.delete_run(unneeded)
    store.delete_run(version.run_id)
    with closing(sqlite3.connect(".local/mlflow.db")) as tables, tables:
        tables.execute("UPDATE runs SET deleted_time = 1 WHERE lifecycle_stage = 'deleted'")
    garbage, notes = find_runs(30, known_versions())
    assert [item.what for item in garbage] == [f"MLflow run {unneeded}"]
    assert notes == [f"MLflow run {version.run_id}: kept, a registered version is from it"]
    assert keys(client, unneeded)
    garbage[0].remove()
    assert not keys(client, unneeded)
    assert keys(client, version.run_id)

"""Runs below another run, in a store that was away when they began."""

from pathlib import Path

import pytest

from videomar.tracking.mlflow_store import experiment_id, open_client
from videomar.tracking.run_log import read_json
from videomar.tracking.runs import open_run, upload_pending
from videomar.tracking.uploader import PARENT_TAG, upload


def test_runs_recorded_while_the_store_was_away_are_children_of_their_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    parent = open_run(tmp_path / "out/run.json", {"a": 1}, {"mlflow.runName": "above"})
    name = read_json(tmp_path / "out/run.json")["name"]
    # Its folder sorts before that of its parent's outbox.
    child = open_run(tmp_path / "out/a/run.json", {"a": 2}, {PARENT_TAG: name})
    child.log(1, {"loss": 0.5})
    for run in (child, parent):
        run.finish()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert not upload(child._log), "its parent run is not uploaded yet"
    assert upload_pending(tmp_path / "out")
    client = open_client()
    found = client.search_runs([experiment_id(client)])
    assert len(found) == 2
    above = next(run for run in found if run.info.run_name == "above")
    below = next(run for run in found if run is not above)
    assert below.data.tags["mlflow.parentRunId"] == above.info.run_id
    assert below.data.metrics == {"loss": 0.5}

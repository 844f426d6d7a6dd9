import dataclasses
import json
import os
from pathlib import Path

import pytest

from tests.training.conftest import files_of
from videomar import checkpoint
from videomar.config.section import fixed_keys
from videomar.errors import CheckpointError
from videomar.provenance.made_with import differing_keys
from videomar.training import run_folder as identity
from videomar.training.loop import train
from videomar.training.run_folder import archive_path, claim_run_folder, describe_run
from videomar.training.worker import Worker


def test_run_of_other_parameters_is_archived_and_restored(data, shape, params, tmp_path, caplog):
    """A -> B -> A: nothing of either is lost, and A goes on where it stood."""
    out = tmp_path / "run"
    other = dataclasses.replace(params.train, learning_rate=1e-4)
    train(shape, data, params.train, out, Worker(), None)
    first = files_of(out)
    place = archive_path(out, describe_run(shape, data.train, params.train))
    train(shape, data, other, out, Worker(), None)
    assert "train.learning_rate: 0.002 -> 0.0001" in caplog.text
    assert str(place) in caplog.text
    assert files_of(place) == first
    train(shape, data, other, tmp_path / "fresh", Worker(), None)
    second = files_of(out)
    assert second == files_of(tmp_path / "fresh")
    newest = checkpoint.latest(place)
    (newest / "model.safetensors").unlink()  # as if A had been killed before its last checkpoint
    train(shape, data, params.train, out, Worker(), None)
    assert f"continuing from {out}" in caplog.text
    assert files_of(out) == first
    assert not place.exists()
    assert files_of(archive_path(out, describe_run(shape, data.train, other))) == second


def test_run_killed_before_its_first_checkpoint_is_known_by_its_folder(data, shape, params, tmp_path):
    out = tmp_path / "run"
    claim_run_folder(out, describe_run(shape, data.train, params.train))
    (out / "batch_sizes.json").write_text("{}")
    other = describe_run(shape, data.train, dataclasses.replace(params.train, seed=7))
    claim_run_folder(out, other)
    assert not (out / "batch_sizes.json").exists()
    claim_run_folder(out, describe_run(shape, data.train, params.train))
    assert (out / "batch_sizes.json").exists()


def test_claim_killed_between_its_renames_is_mended_by_the_next(data, shape, params, tmp_path, monkeypatch):
    out, ours = tmp_path / "run", describe_run(shape, data.train, params.train)
    theirs = describe_run(shape, data.train, dataclasses.replace(params.train, seed=7))
    claim_run_folder(out, ours)
    (out / "mark").touch()
    claim_run_folder(out, theirs)
    real = os.replace
    calls = []

    def dies(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(identity.os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        claim_run_folder(out, ours)
    monkeypatch.undo()
    assert not out.exists()
    claim_run_folder(out, ours)
    assert (out / "mark").exists()


def test_copy_that_is_further_on_stays(data, shape, params, tmp_path):
    """DVC may have put back a copy of a run while another lies aside."""
    out, ours = tmp_path / "run", describe_run(shape, data.train, params.train)
    train(shape, data, params.train, out, Worker(), None)
    theirs = describe_run(shape, data.train, dataclasses.replace(params.train, seed=7))
    claim_run_folder(out, theirs)
    older = tmp_path / "older"
    claim_run_folder(older, ours)
    out.rename(tmp_path / "theirs")
    older.rename(out)
    claim_run_folder(out, theirs)
    assert checkpoint.latest(archive_path(out, ours)).name == "step_00000012"


def test_run_of_other_code_is_archived(data, shape, params, tmp_path, caplog, monkeypatch):
    train(shape, data, params.train, tmp_path / "run", Worker(), None)
    monkeypatch.setattr(identity, "code_hash", lambda _: "another")
    train(shape, data, params.train, tmp_path / "run", Worker(), None)
    assert "holds another run (code: " in caplog.text


def test_checkpoint_of_another_run_is_refused_by_its_keys(data, shape, params, tmp_path):
    """A checkpoint copied into the folder of another run."""
    out = tmp_path / "run"
    train(shape, data, params.train, out, Worker(), None)
    other = dataclasses.replace(params.train, learning_rate=1e-4)
    (out / "made_with.json").write_text(json.dumps(describe_run(shape, data.train, other)))
    with pytest.raises(CheckpointError, match=r"another run \(train.learning_rate: 0.002 -> 0.0001\)"):
        train(shape, data, other, out, Worker(), None)


def test_keys_of_where_and_how_may_change_within_a_run(data, shape, params):
    moved = dataclasses.replace(params.train, num_workers=2, keep_checkpoints=9, on_bad_step="skip")
    ours, theirs = (describe_run(shape, data.train, settings) for settings in (moved, params.train))
    assert differing_keys(ours, theirs) == []
    assert archive_path(Path("run"), ours) == archive_path(Path("run"), theirs)
    assert ours["train"] == json.loads(json.dumps(fixed_keys(params.train)))


def test_differing_keys_name_both_values():
    ours, theirs = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 5}, "d": 3, "e": 4}
    assert differing_keys(ours, theirs) == ["a.c: 5 -> 2", "e: 4 -> None"]

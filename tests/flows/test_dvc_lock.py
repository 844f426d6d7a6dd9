"""A DVC that was killed while it wrote its list of readers and writers stops nobody after it."""

from pathlib import Path

import pytest

from flows.pipeline import checkout_lock, repair_dvc_lock, run_stage
from flows.retrain import what_changed
from tests.support.checkout import Checkout


@pytest.mark.parametrize("left", ["", '{"write": {}, "re'])
def test_flow_gets_past_a_list_that_was_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    checkout = Checkout(tmp_path)
    monkeypatch.chdir(tmp_path)
    record = tmp_path / ".dvc/tmp/rwlock"
    record.parent.mkdir(exist_ok=True)
    record.write_text(left)
    refused = checkout.run("dvc", "status")
    assert "RWLock-file" in refused.stderr + refused.stdout
    with checkout_lock("test"):
        assert what_changed.fn() == "changed: first, second"
    record.write_text(left)
    run_stage.fn("first", tmp_path)
    assert (tmp_path / "first.txt").read_text() == "0"


def test_list_that_can_be_read_is_left_alone(tmp_path: Path) -> None:
    repair_dvc_lock(tmp_path)
    record = tmp_path / ".dvc/tmp/rwlock"
    record.parent.mkdir(parents=True)
    record.write_text('{"write": {}, "read": {}}')
    repair_dvc_lock(tmp_path)
    assert record.read_text() == '{"write": {}, "read": {}}'

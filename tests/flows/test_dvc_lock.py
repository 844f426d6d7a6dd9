"""What a killed DVC left stops no run after it, whether a flow or `make run` is next."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from prefect.logging import disable_run_logger

from flows.checkout_lock import hold_checkout
from flows.pipeline import run_stage
from flows.retrain import what_changed
from tests.support.checkout import REPOSITORY, Checkout, wait_for
from videomar.errors import ParamsError, VideomarError
from videomar.provenance.dvc_repair import keep_lock, outputs_kept, read_lock, repair

DAMAGED = {
    "empty": "",
    "null": "null",
    "zeros": "\0" * 99,
    "half": 'schema: "2.0"\nstages:\n  first:\n    cmd: x\n    outs:\n    - path:\n',
    "no yaml": "a: [",
    "no record": '{"stages": 3}',
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose pipeline is up to date."""
    checkout = Checkout(tmp_path_factory.mktemp("checkout"))
    assert checkout.run("flows.reproduce").returncode == 0
    return checkout.folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, for one test to change, and to stand in."""
    shutil.copytree(finished, tmp_path / "checkout", symlinks=True)
    monkeypatch.chdir(tmp_path / "checkout")
    return tmp_path / "checkout"


def make_run(folder: Path, *stages: str) -> subprocess.CompletedProcess[str]:
    """What `make run` does with the pipeline."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "flows.reproduce", *stages]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("left", ["", '{"write": {}, "re', "[]", '{"write": 3}'])
def test_flow_gets_past_a_list_of_readers_that_was_half_written(folder: Path, left: str) -> None:
    record = folder / ".dvc/tmp/rwlock"
    (folder / "source.txt").write_text("1")
    record.write_text(left)
    lines: list[str] = []
    with hold_checkout("test", lines.append):
        assert what_changed.fn() == "changed: first"
    assert len(lines) == 1
    assert "rwlock" in lines[0]
    record.write_text(left)
    with disable_run_logger():
        run_stage.fn("first", folder)
    assert (folder / "first.txt").read_text() == "1"


def test_entry_whose_number_another_process_has_by_now_is_removed(folder: Path) -> None:
    record = folder / ".dvc/tmp/rwlock"
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            ended = {"pid": other.pid, "cmd": "/some where/dvc/__main__.py repro"}
            # Not sys.argv: pytest's workers have that of the process that started them.
            own = {"pid": os.getpid(), "cmd": " ".join(psutil.Process().cmdline())}
            source, first = str(folder / "source.txt"), str(folder / "first.txt")
            held = {"write": {first: ended}, "read": {source: [ended, own]}}
            record.write_text(json.dumps(held))
            (line,) = repair(folder)
            assert f"process {other.pid}" in line
            assert json.loads(record.read_text()) == {"write": {}, "read": {source: [own]}}
            record.write_text(json.dumps({"write": {first: ended}, "read": {}}))
            (folder / "source.txt").write_text("1")
            assert make_run(folder, "first").returncode == 0
            assert other.poll() is None
        finally:
            other.kill()


def test_entry_of_a_dvc_at_work_is_left_alone(folder: Path) -> None:
    (folder / "pause").touch()
    (folder / "source.txt").write_text("1")
    (folder / "child").unlink()
    work = subprocess.Popen([sys.executable, "-m", "dvc", "repro", "--quiet"], cwd=folder)
    try:
        wait_for((folder / "child").is_file, "the second stage")
        before = (folder / ".dvc/tmp/rwlock").read_text()
        assert str(work.pid) in before
        assert repair(folder) == []
        assert (folder / ".dvc/tmp/rwlock").read_text() == before
    finally:
        (folder / "pause").unlink()
        assert work.wait(60) == 0


@pytest.mark.parametrize("left", DAMAGED.values(), ids=list(DAMAGED))
def test_record_of_results_that_was_half_written_is_replaced_by_the_last_good_one(
    folder: Path, left: str
) -> None:
    good = (folder / "dvc.lock").read_bytes()
    (folder / "dvc.lock").write_text(left)
    (line,) = repair(folder)
    assert line.startswith(f"{folder}/dvc.lock: got a file that DVC cannot read")
    assert (folder / "dvc.lock").read_bytes() == good
    assert (folder / ".local/dvc.lock.damaged").read_text() == left
    assert repair(folder) == []


def test_make_run_repairs_too_and_runs_nothing_again(folder: Path) -> None:
    (folder / "dvc.lock").write_text("")
    done = make_run(folder)
    assert done.returncode == 0, done.stderr
    assert "dvc.lock: got a file that DVC cannot read" in done.stderr
    assert "Running stage" not in done.stdout


def test_record_that_was_never_good_is_made_again(folder: Path) -> None:
    (folder / ".local/dvc.lock").unlink()
    (folder / "dvc.lock").write_text("")
    assert "DVC starts a new one" in repair(folder)[0]
    assert make_run(folder).returncode == 0
    assert set(read_lock(folder / "dvc.lock") or {}) == {"first", "second"}


def test_merge_conflict_is_left_to_a_person(folder: Path) -> None:
    marks = '<<<<<<< ours\nschema: "2.0"\n=======\n>>>>>>> theirs\n'
    (folder / "dvc.lock").write_text(marks)
    with pytest.raises(VideomarError, match="marks of a merge conflict, expected .*git checkout --ours"):
        repair(folder)
    assert (folder / "dvc.lock").read_text() == marks


def test_copy_follows_the_record_and_never_a_damaged_one(folder: Path) -> None:
    kept, good = folder / ".local/dvc.lock", (folder / "dvc.lock").read_text()
    for text, wanted in (('schema: "2.0"\n', 'schema: "2.0"\n'), ("", 'schema: "2.0"\n'), (good, good)):
        (folder / "dvc.lock").write_text(text)
        keep_lock(folder)
        assert kept.read_text() == wanted


def test_list_that_can_be_read_is_left_alone(tmp_path: Path) -> None:
    assert repair(tmp_path) == []
    record = tmp_path / ".dvc/tmp/rwlock"
    record.parent.mkdir(parents=True)
    record.write_text('{"write": {}, "read": {}}')
    assert repair(tmp_path) == []
    assert record.read_text() == '{"write": {}, "read": {}}'


def test_make_run_waits_for_its_turn(folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    (folder / "source.txt").write_text("1")
    with hold_checkout("retrain", print):
        waiting = subprocess.Popen(
            [sys.executable, "-m", "flows.reproduce"],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == "make run waits for its turn: retrain is running\n"
        assert (folder / "second.txt").read_text() == "0"
    assert waiting.wait(120) == 0
    waiting.stderr.close()
    assert (folder / "second.txt").read_text() == "1"


def test_outputs_of_a_stage_that_fails_before_it_begins_stay_as_they_were(folder: Path) -> None:
    pipeline = (folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text(pipeline.replace("cp source.txt first.txt", "exit 3"))
    with disable_run_logger(), pytest.raises(VideomarError, match="stage first: ended with code 3"):
        run_stage.fn("first", folder)
    assert (folder / "first.txt").read_text() == "0"
    assert make_run(folder).returncode
    assert (folder / "first.txt").read_text() == "0"


def test_outputs_that_a_killed_run_lost_come_back_before_the_next(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("videomar.provenance.dvc_repair._put_back", lambda *_: None)  # it is dead by then
        with outputs_kept(folder, ["first"]):
            (folder / "first.txt").unlink()
    assert repair(folder) == []
    assert (folder / "first.txt").read_text() == "0"


def test_params_are_checked_before_the_first_stage(folder: Path) -> None:
    """A mistake in a section of the last stage; without stages that read params no file is needed."""
    shutil.copy(REPOSITORY / "params.yaml", folder)
    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("  seeds: 4", "  seeds: four"))
    (folder / "source.txt").write_text("1")
    assert make_run(folder, "first").returncode == 0
    pipeline = (folder / "dvc.yaml").read_text()
    last = "    deps: [first.txt]\n"
    (folder / "dvc.yaml").write_text(pipeline.replace(last, f"{last}    params: [suite]\n"))
    (folder / "source.txt").write_text("2")
    done = make_run(folder, "first")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "suite.seeds: got 'four'" in done.stderr
    assert done.stdout == ""
    with pytest.raises(ParamsError, match="suite.seeds"), hold_checkout("test", print):
        pass
    assert (folder / "first.txt").read_text() == "1"
    params.unlink()
    assert "params.yaml: no such file" in make_run(folder, "first").stderr


def test_folder_is_put_back_whole_and_new_outputs_are_kept(tmp_path: Path) -> None:
    outs = "[made, {kept: {persist: true}}], metrics: [{m.json: {cache: false}}]"
    (tmp_path / "dvc.yaml").write_text(f"stages: {{one: {{cmd: x, outs: {outs}}}}}")
    (tmp_path / "made/deep").mkdir(parents=True)
    (tmp_path / "made/deep/a").write_text("old")
    for name in ("kept", "m.json"):
        (tmp_path / name).write_text("old")
    with outputs_kept(tmp_path):
        shutil.rmtree(tmp_path / "made")
        (tmp_path / "m.json").unlink()
        (tmp_path / "m.json").write_text("new")
    assert (tmp_path / "made/deep/a").read_text() == "old"
    assert (tmp_path / "m.json").read_text() == "new"
    assert not (tmp_path / ".local/outputs_before").exists()

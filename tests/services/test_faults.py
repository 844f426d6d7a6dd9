"""A disk that is full while a flow or a stage works, and a watcher that is killed."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import ENVIRONMENT_AT_START
from tests.support.checkout import wait_for
from tests.support.pipeline_outputs import REPOSITORY, write_outputs
from videomar.files import full_disk_message
from videomar.processes import run_in_group

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


def mounts_are_allowed(folder: Path) -> bool:
    """Whether an ordinary user may mount a tmpfs in a namespace here."""
    command = [*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def on_full_disk(root: Path, folder: str, free_kb: int, *command: str) -> dict[str, Any]:
    """See full_disk.py; in a checkout `root`."""
    if not mounts_are_allowed(root):
        pytest.skip("this kernel lets no ordinary user mount a tmpfs")
    environment = {**ENVIRONMENT_AT_START, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    whole = [*NAMESPACE, sys.executable, "-m", "tests.support.full_disk", folder, str(free_kb)]
    done = subprocess.run(
        [*whole, sys.executable, "-m", *command],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def is_told(said: dict[str, Any], who: str, folder: str) -> bool:
    """Whether one line, and nothing else, names the folder, what is missing and what to do."""
    start = f"{who}: {folder}: got 0.0 MB free, expected enough"
    lines = said["err"].strip().splitlines()
    return said["code"] == 1 and len(lines) == 1 and lines[0].startswith(start) and "run again" in lines[0]


@pytest.mark.slow
def test_release_on_a_full_local_disk_is_one_line_and_completes_with_room(tmp_path: Path) -> None:
    """First the disk is full while MLflow makes its tables, then while a second version is registered."""
    write_outputs(tmp_path)
    first = on_full_disk(tmp_path, ".local", 300, "flows.release")
    assert is_told(first["full"], "release", ".local"), first["full"]["err"]
    assert first["left"] == [".local/.ballast", ".local/mlflow.lock"]
    assert (first["again"]["code"], first["again"]["champions"]) == (0, [1]), first["again"]["err"]
    (tmp_path / "dvc.lock").write_text("another state")
    second = on_full_disk(tmp_path, ".local", 0, "flows.release")
    assert is_told(second["full"], "release", ".local"), second["full"]["err"]
    assert second["full"]["champions"] == [1]
    assert (second["again"]["code"], second["again"]["champions"]) == (0, [1]), second["again"]["err"]
    assert "gate: refused. No better: equal to the champion" in second["again"]["out"]


@pytest.mark.slow
def test_stage_on_a_full_data_disk_is_one_line_and_completes_with_room(tmp_path: Path) -> None:
    write_outputs(tmp_path)
    for old in tmp_path.glob("data/evaluation.*"):
        old.unlink()
    (tmp_path / "metrics/sample.json").write_text("{}")
    paths = ["--generated", "data/generated.parquet", "--sampled", "metrics/sample.json"]
    paths += ["--out", "data/evaluation.parquet", "--details", "data/evaluation.json"]
    paths += ["--plot", "plots/quality.csv", "--metrics", "metrics/evaluate.json"]
    before = hashlib.sha256((tmp_path / "metrics/evaluate.json").read_bytes()).hexdigest()
    said = on_full_disk(tmp_path, "data", 0, "stages.evaluate", *paths)
    assert is_told(said["full"], "evaluate", "data"), said["full"]["err"]
    assert [path for path in said["left"] if "evaluation" in path] == []
    assert said["again"]["code"] == 0, said["again"]["err"]
    assert (tmp_path / "data/evaluation.parquet").is_file()
    assert hashlib.sha256((tmp_path / "metrics/evaluate.json").read_bytes()).hexdigest() != before


def test_error_that_is_not_about_the_disk_is_not_told_as_one() -> None:
    assert full_disk_message(ValueError("tables are missing")) is None
    error = RuntimeError("could not be stored")
    error.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "MB free, expected enough" in str(full_disk_message(error))


def test_group_whose_watcher_is_killed_ends_before_another_try(tmp_path: Path) -> None:
    code = []
    command = ["sh", "-c", "echo $PPID $$ > pids.tmp; mv pids.tmp pids; sleep 60"]
    work = threading.Thread(target=lambda: code.append(run_in_group(command, tmp_path)))
    work.start()
    wait_for((tmp_path / "pids").is_file, "the command")
    watcher, child = (psutil.Process(int(pid)) for pid in (tmp_path / "pids").read_text().split())
    watcher.send_signal(signal.SIGKILL)
    work.join(20)
    assert code == [-signal.SIGKILL]
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "its end", 5)

"""Ingest and curate killed at random moments, and run twice at once: the same bytes, and nothing left behind.

`python -m tests.latents.test_data_kills 50` kills fifty times and prints where the kills fell.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.support.videos import run_ffmpeg
from videomar.files import atomic_write

ROOT = Path(__file__).parents[2]
VIDEOS = 4
ROUNDS = 8


class Project:
    """A folder of videos and what the stages make of it when nothing disturbs them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "raw").mkdir(parents=True)
        for number in range(VIDEOS):
            source = f"testsrc2=size=96x64:rate=24:duration=4,rotate=t*{number}/3,gblur={1 + number}"
            run_ffmpeg(folder, "-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p", f"raw/{number}.mp4")
        (folder / "raw" / "bad.mp4").write_text("no video")
        shutil.copy(ROOT / "takedowns.csv", folder)
        shutil.copy(ROOT / "params.yaml", folder)
        self.commands = {
            "ingest": ["--raw", "raw"],
            "curate": ["--candidates", "candidates.parquet", "--takedowns", "takedowns.csv"],
        }
        self.outputs = {"ingest": "candidates.parquet", "curate": "ledger.parquet"}
        self.seconds: dict[str, float] = {}
        self.wanted: dict[str, tuple[bytes, dict[str, Any]]] = {}
        for stage in self.commands:
            for _ in range(2):  # the first may be slower, until files are in memory
                began = time.monotonic()
                assert self.start(stage).wait(60) == 0
                self.seconds[stage] = time.monotonic() - began
            self.wanted[stage] = self.read(stage)
        self.files = {path.name for path in folder.iterdir()}

    def start(self, stage: str) -> "subprocess.Popen[bytes]":
        """The stage as a process that leads a session of its own."""
        command = [sys.executable, "-m", f"stages.{stage}", *self.commands[stage]]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [*command, "--out", self.outputs[stage], "--metrics", f"{stage}.json"],
            cwd=self.folder,
            env=environment,
            start_new_session=True,
            stderr=subprocess.DEVNULL,
        )

    def read(self, stage: str) -> tuple[bytes, dict[str, Any]]:
        """The stage's output and its figures, without what differs from run to run."""
        figures = json.loads((self.folder / f"{stage}.json").read_text())
        return (self.folder / self.outputs[stage]).read_bytes(), {
            name: value for name, value in figures.items() if name not in ("seconds", "peak_memory_gb")
        }

    def kill(self, stage: str, delay_s: float) -> str:
        """Kill a run and let the next one finish; when the kill came."""
        output = self.folder / self.outputs[stage]
        output.unlink(missing_ok=True)
        process = self.start(stage)
        time.sleep(delay_s)
        busy = len(session(process.pid)) > 1
        process.send_signal(signal.SIGKILL)
        ended = process.wait() == 0
        assert_gone(process.pid)
        written = output.exists()
        if written:
            assert output.read_bytes() == self.wanted[stage][0]
        again = self.start(stage)
        assert again.wait(60) == 0
        assert_gone(again.pid)
        self.check(stage)
        return (
            "after the end"
            if ended
            else "after writing"
            if written
            else "in the children"
            if busy
            else "alone"
        )

    def check(self, stage: str) -> None:
        """The same bytes, the same figures, no file more."""
        assert self.read(stage) == self.wanted[stage]
        assert {path.name for path in self.folder.iterdir()} == self.files


def session(leader: int) -> list[int]:
    """Processes of a session that still run."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.Error):
            continue
    return found


def assert_gone(leader: int) -> None:
    """No process of a session is left, a moment after its leader ended."""
    until = time.monotonic() + 5.0
    while session(leader):
        assert time.monotonic() < until, "children outlive the stage"
        time.sleep(0.02)


def kill_often(project: Project, rounds: int, seed: int = 0) -> Counter[str]:
    """Kill ingest and curate in turn, at moments spread over the length of a run; when the kills came."""
    generator = np.random.default_rng(seed)
    moments: Counter[str] = Counter()
    for number in range(rounds):
        stage = ("ingest", "curate")[number % 2]
        # One random moment in each of equal parts of the run.
        share = (number // 2 + generator.random()) / -(-rounds // 2)
        moments[f"{stage}: {project.kill(stage, share * project.seconds[stage])}"] += 1
    return moments


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("kills") / "project")


@pytest.mark.slow
def test_killed_at_any_moment_the_next_run_makes_the_same_bytes(project: Project) -> None:
    assert kill_often(project, ROUNDS).total() == ROUNDS


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["ingest", "curate"])
def test_two_runs_at_once_spoil_nothing(project: Project, stage: str) -> None:
    (project.folder / project.outputs[stage]).unlink()
    runs = [project.start(stage), project.start(stage)]
    assert [run.wait(60) for run in runs] == [0, 0]
    project.check(stage)


def test_drafts_of_dead_processes_are_removed_and_those_of_living_ones_left(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    out = tmp_path / "out.parquet"
    left = [tmp_path / f".out.parquet.{end}" for end in (str(dead.pid), str(os.getppid()), "backup")]
    for path in left:
        path.write_text("half")
    with atomic_write(out) as draft:
        draft.write_text("whole")
        assert not out.exists()
    assert out.read_text() == "whole"
    assert set(tmp_path.iterdir()) == {out, *left[1:]}


def test_a_draft_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    out.write_text("before")

    def fail() -> None:
        with atomic_write(out) as draft:
            draft.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        told = kill_often(Project(Path(place) / "project"), int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
    sys.stdout.write(json.dumps(dict(sorted(told.items()))) + "\n")

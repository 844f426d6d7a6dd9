"""Why a stage failed: one line and the last ones of its output, where people look."""

import pickle
import sys
import time
from pathlib import Path

import pytest

from tests.support.pipeline_outputs import REPOSITORY
from videomar.errors import VideomarError
from videomar.processes import (
    _WORKERS,
    OverTimeError,
    StageError,
    StageRefusedError,
    failure_of,
    one_line,
    run_in_group,
    run_within,
)

DVC = "ERROR: failed to reproduce 'train': failed to run: ./stages/run train --out x, exited with {}"
REFUSAL = "train: data/latents: got other latents: pixels.fps is 8.0, expected 12.0; run dvc repro encode"
TRACEBACK = ["Traceback (most recent call last):", '  File "a.py", line 1, in <module>', "KeyError: 'x'"]


@pytest.mark.parametrize(
    ("lines", "code", "kind", "reason"),
    [
        (["Running stage 'train':", REFUSAL, DVC.format(1)], 255, StageRefusedError, REFUSAL[7:]),
        ([REFUSAL], 1, StageRefusedError, REFUSAL[7:]),
        (["train: made again: inputs.latents", REFUSAL, "", "(raylet) bye", DVC.format(1)], 255,
         StageRefusedError, REFUSAL[7:]),
        ([REFUSAL, *TRACEBACK, DVC.format(1)], 255, StageError,
         "ended with code 1, expected 0: KeyError: 'x'"),
        (["training: step 5", DVC.format(-9)], 255, StageError,
         "was killed by SIGKILL, expected to end by itself; the system does this when memory is full: "
         "training: step 5"),
        (["training: step 5"], 137, StageError,
         "was killed by SIGKILL, expected to end by itself; the system does this when memory is full: "
         "training: step 5"),
        (["ERROR: failed to reproduce 'train': missing data source: data/raw"], 255, StageError,
         "ended with code 255, expected 0: "
         "ERROR: failed to reproduce 'train': missing data source: data/raw"),
        ([], 3, StageError, "ended with code 3, expected 0; its message stands above"),
        (["train: training: a worker failed: ActorDiedError", DVC.format(1)], 255, StageError,
         "ended with code 1, expected 0: train: training: a worker failed: ActorDiedError"),
    ],
)  # fmt: skip
def test_reason_is_one_line(lines: list[str], code: int, kind: type[StageError], reason: str) -> None:
    error = failure_of("train", code, lines)
    assert type(error) is kind
    assert one_line(error) == f"stage train: {reason}"
    assert str(error).splitlines() == [one_line(error), *(line for line in lines if line)]
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.reason) == (str(error), error.reason)


def test_last_lines_are_few_and_short() -> None:
    lines = str(failure_of("train", 1, [f"{number} {'x' * 999}" for number in range(99)])).splitlines()[1:]
    assert len(lines) == 10
    assert lines[-1].startswith("98 ")
    assert max(map(len, lines)) == 300


def test_other_errors_are_one_line_too() -> None:
    assert one_line(VideomarError("a\n b")) == "a b"


def test_stages_name_workers_that_died_in_the_words_that_allow_another_try() -> None:
    """Words alone tell them from a problem of the user's, so the messages must keep them."""
    sources = [REPOSITORY / "videomar" / name for name in ("training/launch.py", "latents/encode_ray.py")]
    said = "".join(path.read_text() for path in sources)
    assert [words for words in _WORKERS if words not in said] == []


def test_output_is_shown_while_the_stage_runs_and_ends_the_reason(tmp_path: Path) -> None:
    code = "import sys, time; print('begun'); time.sleep(2); sys.exit('slow: got 1, expected 2; do 3')"
    seen: list[tuple[float, str]] = []
    with pytest.raises(StageRefusedError, match="^stage slow: got 1, expected 2; do 3\nbegun\nslow: got 1"):
        run_within(
            None,
            "slow",
            [sys.executable, "-c", code],
            tmp_path,
            lambda line: seen.append((time.monotonic(), line)),
        )
    assert [line for _, line in seen] == ["begun", "slow: got 1, expected 2; do 3"]
    assert seen[1][0] - seen[0][0] > 1


def test_time_limit_names_what_was_printed_last(tmp_path: Path) -> None:
    with pytest.raises(OverTimeError, match="stage slow: took over .*\nbegun$"):
        run_within(1 / 3600, "slow", ["sh", "-c", "echo begun; sleep 60"], tmp_path, print)


def test_lines_are_whole_without_colours_and_bars_do_not_flood(tmp_path: Path) -> None:
    bar = "".join(f"{number} %\r" for number in range(50))
    (tmp_path / "output").write_bytes(f"\033[31mred\033[0m\nüber\n{bar}done\nend".encode() + b"\xff")
    lines: list[str] = []
    assert run_in_group(["cat", "output"], tmp_path, on_line=lines.append) == 0
    assert lines == ["red", "über", "0 %", "done", "end�"]


def test_log_that_fails_stops_no_stage(tmp_path: Path) -> None:
    def fail(_line: str) -> None:
        raise OSError

    assert run_in_group(["sh", "-c", "seq 100000; exit 7"], tmp_path, limit_s=60, on_line=fail) == 7


def test_process_that_leaves_the_group_with_the_pipe_holds_nobody_up(tmp_path: Path) -> None:
    begin = time.monotonic()
    command = ["sh", "-c", "setsid sleep 20 & echo $! > pid"]
    assert run_in_group(command, tmp_path, on_line=print) == 0
    assert time.monotonic() - begin < 15

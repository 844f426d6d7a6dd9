"""A benchmark's result says what, where and with which versions."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from benchmarks.record import ROOT, overview, write_result


def test_result_is_stored_and_printed_as_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = write_result("try", {"seconds": 1.5}, {"vs_peer": 2.0}, ["pebble"], folder=tmp_path)
    printed = capsys.readouterr().out.splitlines()
    assert json.loads(printed[-1]) == json.loads((tmp_path / "try.json").read_text()) == result
    assert result["ratios"] == {"vs_peer": 2.0}
    assert result["figures"] == {"seconds": 1.5}
    assert result["cores"] == len(os.sched_getaffinity(0))
    assert {"python", "numpy", "torch", "pebble"} <= set(result["versions"])
    assert [path.name for path in tmp_path.iterdir()] == ["try.json"]


def test_commit_is_that_of_the_tree(tmp_path: Path) -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (
        write_result("try", {}, {}, folder=tmp_path)["commit"].removesuffix("-dirty") == head.stdout.strip()
    )


def test_table_of_results_is_that_of_the_stored_files() -> None:
    """`python -m benchmarks.record` writes it."""
    assert (ROOT / "benchmarks/README.md").read_text("utf-8") == overview()

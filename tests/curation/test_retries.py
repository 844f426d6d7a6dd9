"""What fails on this machine is no verdict: it is read again, alone, then by the next run, and never kept."""

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from stages.ingest import main as run_stage
from tests.conftest import ENVIRONMENT_AT_START
from tests.support.videos import run_ffmpeg
from videomar.cli import app as cli
from videomar.config import IngestParams
from videomar.config.layout import Layout
from videomar.curation.ingest import ingest_videos
from videomar.curation.ledger import LEDGER_SCHEMA, read_candidates, write_ledger
from videomar.curation.retries import (
    AGAIN,
    VideoReading,
    installed_programs,
    is_retryable,
    read_reading,
    refuse_failures,
    retry_entry,
)
from videomar.errors import DataError
from videomar.media import check_decoders
from videomar.ops.check_machine import reading_findings
from videomar.report.ledger_sheet import summarise_ledger

ROOT = Path(__file__).parents[2]
NEXT = {"ingest": {AGAIN: {"attempt": "1"}}}


CAPTIONER = """
import os, signal
from pathlib import Path

folder = Path(__file__).parent

def describe(clip):
    with open(folder / "calls", "a") as calls:
        calls.write("x")
    dark = clip.mean() < 60
    if dark and (left := [*folder.glob("fault*")]):
        left[0].unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return "dark" if dark else "light"
"""


@pytest.fixture
def raw(videos: Path, tmp_path: Path) -> Path:
    """A light and a dark video."""
    folder = tmp_path / "raw"
    folder.mkdir()
    shutil.copy(videos / "plain.mp4", folder / "light.mp4")
    run_ffmpeg(
        folder, "-i", str(videos / "plain.mp4"), "-vf", "lutyuv=y=val/4", "-pix_fmt", "yuv420p", "dark.mp4"
    )
    return folder


@pytest.mark.slow
def test_next_run_reads_only_what_failed(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The process of one of two videos is killed twice: beside the other, and alone."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "captioner_that_dies.py").write_text(CAPTIONER)
    monkeypatch.syspath_prepend(str(folder))
    params = yaml.safe_load((ROOT / "params.yaml").read_text("utf-8"))
    params["ingest"] |= {"captioner": "captioner_that_dies:describe", "num_frames": 9, "shorter_clips": []}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    out = tmp_path / "out.parquet"
    arguments = ["--raw", str(raw), "--out", str(out), "--metrics", str(tmp_path / "metrics.json")]
    arguments += ["--params", str(tmp_path / "params.yaml")]
    monkeypatch.setenv("VIDEOMAR_DEVICE", "cpu")

    for number in range(2):
        (folder / f"fault{number}").touch()
    run_stage(arguments)
    rows = read_candidates(out).set_index("video")
    assert rows.loc["dark.mp4", "reason"] == "crashed"
    assert "1 of 2 files that failed here, whatever is in them: dark.mp4 (crashed)" in caplog.text
    assert (read_reading(out).unfinished, retry_entry(out)) == (1, NEXT)

    (folder / "calls").unlink()
    run_stage(arguments)
    rows = read_candidates(out).set_index("video")
    assert set(rows.loc["dark.mp4", "caption"]) == {"dark"}
    assert len((folder / "calls").read_text()) == len(rows.loc[["dark.mp4"]])
    arguments[3], arguments[5] = str(tmp_path / "never_failed.parquet"), str(tmp_path / "other.json")
    run_stage(arguments)
    assert pq.read_table(out).equals(pq.read_table(arguments[3]))
    # The same entry as before this run: DVC does not run the stage again.
    assert (read_reading(out).unfinished, retry_entry(out)) == (0, NEXT)

    (folder / "calls").unlink()
    arguments[3], arguments[5] = str(out), str(tmp_path / "metrics.json")
    run_stage(arguments)
    assert not (folder / "calls").exists()


def test_slow_file_is_read_however_long_it_takes(
    copied: Callable[..., Path], tmp_path: Path, ingest_params: IngestParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clips take a quarter of a second each, together longer than a file may stand still."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "captioner_that_is_slow.py").write_text(
        "import time\n\ndef describe(clip):\n    time.sleep(0.25)\n    return 'late'\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    params = dataclasses.replace(
        ingest_params, captioner="captioner_that_is_slow:describe", stride_frames=1, timeout_s=3.0
    )
    figures = ingest_videos(copied("plain.mp4"), tmp_path / "out.parquet", params)
    assert 0.25 * figures["clips"] > params.timeout_s
    assert "retryable" not in figures
    assert set(read_candidates(tmp_path / "out.parquet")["caption"]) == {"late"}


def test_most_files_that_fail_end_the_stage(tmp_path: Path) -> None:
    refuse_failures(tmp_path, ["a.mp4 (timeout)"], 2)
    with pytest.raises(DataError, match="got 2 of 3 files that failed here.*expected at most half"):
        refuse_failures(tmp_path, ["a.mp4 (timeout)", "b.mp4 (out_of_memory)"], 3)


def test_verdicts_are_told_from_failures() -> None:
    ours = ["timeout", "crashed", "out_of_memory", "failed: Too many open files"]
    facts = ["damaged: x", "unreadable: y", "too_short", "duplicate_file", None, float("nan")]
    assert [is_retryable(reason) for reason in [*ours, *facts]] == [True] * 4 + [False] * 6


FAKE_DECORD = """
class logging:
    FATAL = 0
    set_level = staticmethod(lambda level: None)

class DECORDError(Exception): ...
"""


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            "raise ImportError('libavcodec.so.58: cannot open shared object file')",
            "got libavcodec.so.58: cannot",
        ),
        (
            f"import os\n{FAKE_DECORD}\nVideoReader = lambda *_, **__: os.abort()",
            "decoders: got crashed while",
        ),
    ],
)
def test_decoder_that_cannot_work_ends_the_stage_in_one_line(
    videos: Path, tmp_path: Path, module: str, message: str
) -> None:
    (tmp_path / "raw").mkdir()
    shutil.copy(videos / "plain.mp4", tmp_path / "raw")
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake/decord.py").write_text(module)
    command = [sys.executable, "-m", "stages", "ingest", "--raw", str(tmp_path / "raw")]
    command += ["--out", str(tmp_path / "out.parquet"), "--metrics", str(tmp_path / "metrics.json")]
    environment = {**ENVIRONMENT_AT_START, "PYTHONPATH": f"{tmp_path / 'fake'}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("ingest: ")]
    assert done.returncode == 1
    assert len(lines) == 1, done.stderr
    assert message in lines[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.parquet").exists()


def _raises(*_: object, **__: object) -> None:
    raise RuntimeError("no codec\nfor this")


OTHERS = "got other pictures of a tiny video by PyAV"


@pytest.mark.parametrize(
    ("reader", "fake", "got"),
    [
        ("decord.VideoReader", _raises, "got no codec for this"),
        ("_by_pyav", lambda _: np.zeros((4, 64, 64, 3), np.uint8), OTHERS),
        ("_by_pyav", lambda _: np.zeros((0, 64, 64, 3), np.uint8), OTHERS),
    ],
)
def test_decoder_that_reads_wrongly_is_refused(
    reader: str, fake: Callable[..., object], got: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_decoders.check_decoders()
    monkeypatch.setattr(f"videomar.media.check_decoders.{reader}", fake)
    with pytest.raises(DataError, match=f"decoders: {got}"):
        check_decoders.check_decoders()


def test_doctor_finds_a_ledger_made_with_other_programs(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.ledger.parent.mkdir()
    assert reading_findings(layout) == []
    here = installed_programs()
    assert set(here) >= {"av", "decord2"}
    rows = pandas.DataFrame({name: [None] for name in LEDGER_SCHEMA.names})
    rows = rows.assign(video="a.mp4", group="real", kept=False, reason="timeout")
    for programs, unfinished, expected in [
        ({}, 0, []),
        (here, 0, []),
        (
            here | {"av": "1.2"},
            0,
            [f"was made with av 1.2, here {here['av']}, expected the installed programs"],
        ),
        (here, 1, ["has 1 files that failed on this machine, expected verdicts on all"]),
    ]:
        write_ledger(layout.ledger, rows, None, VideoReading(programs=programs, unfinished=unfinished))
        findings = reading_findings(layout)
        assert [finding.what for finding in findings] == expected
        assert all("dvc repro" in finding.fix for finding in findings)
    summary = summarise_ledger(layout.ledger)
    assert (summary.num_unreadable, summary.num_retryable) == (1, 1)
    shown = CliRunner().invoke(cli.app, ["ledger", "show", "--ledger", str(layout.ledger)])
    assert "1 of these failed on this machine, whatever is in them" in shown.output

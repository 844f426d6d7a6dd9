"""Videos by split in seconds, and warnings where a verdict would not be fair."""

import dataclasses
from pathlib import Path

import pandas
import pytest
from typer.testing import CliRunner

from tests.curation.test_curate import TAKEDOWNS, clip
from videomar.cli.ledger_commands import app
from videomar.config import CurateParams
from videomar.curation.curate import curate_clips
from videomar.curation.ledger import ClipRow, read_ledger, write_candidates
from videomar.curation.split_summary import SplitSummary, summarise_splits


def curated(folder: Path, candidates: list[ClipRow], params: CurateParams) -> tuple[SplitSummary, dict]:
    write_candidates(folder / "c.parquet", candidates)
    figures = curate_clips(folder / "c.parquet", TAKEDOWNS, folder / "ledger.parquet", params)
    return summarise_splits(read_ledger(folder / "ledger.parquet")), figures


def test_each_video_is_listed_with_its_seconds(tmp_path: Path, curate_params: CurateParams) -> None:
    rows = [clip(f"v{v}", float(s)) for v in range(12) for s in range(10 + v)]
    summary, figures = curated(tmp_path, [*rows, clip("bad", 0.0, motion=0.0)], curate_params)
    assert {each.video for each in summary.videos} == {f"v{v}" for v in range(12)}
    lengths_s = [sum(each.seconds) for each in summary.videos]
    assert lengths_s == sorted(lengths_s, reverse=True)
    by_split = pandas.DataFrame([each.seconds for each in summary.videos]).sum()
    assert (
        summary.seconds == tuple(by_split) == tuple(figures[f"film_s_{n}"] for n in ("train", "val", "test"))
    )
    assert sum(each.clips for each in summary.videos) == figures["kept"]
    assert summary.seconds[2] / sum(summary.seconds) == pytest.approx(0.2, abs=0.05)
    assert figures["test_videos"] == summary.test_videos >= 3
    assert summary.warnings == []
    assert figures["split_warnings"] == 0
    shown = CliRunner().invoke(
        app, ["show", "--ledger", str(tmp_path / "ledger.parquet")], env={"COLUMNS": "120"}
    )
    assert all(f" v{v} " in shown.output for v in range(12))
    assert f"{summary.test_shots} shots of {summary.test_videos} videos" in shown.output


@pytest.mark.parametrize(
    ("videos", "test_share", "warning"),
    [
        ([30], 0.2, "all real clips in test are of one video (v0, 1 shot)"),
        ([1], 0.2, "no real clip is in test"),
        ([30, 30, 30], 0.6, "more than a third"),
    ],
)
def test_an_unfair_split_is_said_on_the_terminal_and_by_the_ledger(
    videos: list[int],
    test_share: float,
    warning: str,
    tmp_path: Path,
    curate_params: CurateParams,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = [clip(f"v{v}", float(s), shot_s=0.0) for v, count in enumerate(videos) for s in range(count)]
    params = dataclasses.replace(curate_params, test_share=test_share)
    summary, figures = curated(tmp_path, rows, params)
    assert figures["split_warnings"] == 1
    assert warning in summary.warnings[0]
    assert f"SPLIT: {summary.warnings[0]}" in caplog.text
    shown = CliRunner().invoke(
        app, ["show", "--ledger", str(tmp_path / "ledger.parquet")], env={"COLUMNS": "120"}
    )
    assert f"WARNING: {summary.warnings[0]}" in shown.output

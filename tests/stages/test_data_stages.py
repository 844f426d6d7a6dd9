"""The three data stages by their command lines, on one small user folder."""

import json
import shutil
from pathlib import Path

import pytest

from stages import curate, ingest, list_clips, samples
from tests.support.videos import run_ffmpeg
from videomar.config.edit import update_params
from videomar.curation.ledger import read_ledger

PARAMS = str(Path(__file__).parent.parent.parent / "params.yaml")


def test_data_stages_lead_from_a_folder_to_a_ledger(tmp_path: Path) -> None:
    own, raw = tmp_path / "own", tmp_path / "raw"
    own.mkdir()
    run_ffmpeg(own, "-f", "lavfi", "-i", "testsrc2=size=64x64:rate=8:duration=9", "a.mp4")
    shutil.copy(own / "a.mp4", own / "b.mp4")
    candidates, ledger = str(tmp_path / "candidates.parquet"), tmp_path / "ledger.parquet"
    params = str(shutil.copy(PARAMS, tmp_path))
    update_params(Path(params), {"samples": {"source": str(own)}})
    end = ["--metrics", str(tmp_path / "metrics.json"), "--params", params]
    listing = tmp_path / "clips.json"
    named = ["--named", str(tmp_path / "named")]
    list_clips.main(["--raw", str(raw), "--out", str(listing), *named, "--params", params])
    assert set(json.loads(listing.read_text())) == {"a.mp4", "b.mp4"}
    samples.main(["--out", str(raw), *end])
    ingest.main(["--raw", str(raw), "--out", candidates, *end])
    takedowns = str(Path(PARAMS).parent / "takedowns.csv")
    curate.main(["--candidates", candidates, "--takedowns", takedowns, "--out", str(ledger), *end])
    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert figures["considered"] == len(read_ledger(ledger)) == figures["kept"] + figures["rejected"]
    assert figures["rejected_duplicate_file"] == 1
    assert figures["kept_train"] > 0


def test_stage_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        ingest.main(
            [
                "--raw",
                str(tmp_path / "none"),
                "--out",
                str(tmp_path / "o"),
                "--metrics",
                "m",
                "--params",
                PARAMS,
            ]
        )
    assert caught.value.code == 1
    assert capsys.readouterr().err.count("\n") == 1

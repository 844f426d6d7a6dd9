"""The picture of the ledger: every verdict has its tag and its clips."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from tests.support.pipeline_outputs import write_ledger
from videomar.cli.ledger_commands import app
from videomar.curation.ledger import read_ledger
from videomar.curation.ledger import write_ledger as write_csv
from videomar.report.ledger_sheet import draw_sheet, summarise_ledger

GREEN, RED = (0x2D, 0xA4, 0x4E), (0xCF, 0x22, 0x2E)


def picture_of(ledger: Path) -> np.ndarray:
    draw_sheet(summarise_ledger(ledger), ledger.parent / "sheet.png")
    return np.asarray(Image.open(ledger.parent / "sheet.png").convert("RGB"))


def runs(flags: Iterable[bool]) -> int:
    """How many separate runs of True."""
    return int((np.diff(np.r_[False, np.asarray(flags), False].astype(int)) == 1).sum())


def test_every_verdict_has_a_tag_and_the_clips_their_pictures(tmp_path: Path) -> None:
    write_ledger(tmp_path / "ledger.parquet")
    ledger = read_ledger(tmp_path / "ledger.parquet")
    ledger["thumbnail"] = [thumbnail((0, 0, 255 if kept else 128)) for kept in ledger["kept"]]
    write_csv(tmp_path / "ledger.parquet", ledger)
    summary, picture = summarise_ledger(tmp_path / "ledger.parquet"), picture_of(tmp_path / "ledger.parquet")
    tags = [runs((picture == colour).all(axis=2)[:, 20]) for colour in (GREEN, RED)]
    assert tags == [len(summary.kept), len(summary.rejected)]
    shown = [sum(len(sheet.thumbnails) for sheet in sheets) for sheets in (summary.kept, summary.rejected)]
    blue = picture.astype(int)
    for count, value in zip(shown, (255, 128), strict=True):
        area = (np.abs(blue - [0, 0, value]).max(axis=2) <= 2).sum()
        assert count > 0
        assert area == count * 192 * 64


def thumbnail(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (192, 64), colour).save(file, "JPEG")
    return file.getvalue()


def test_clips_without_pictures_are_counted_all_the_same(tmp_path: Path) -> None:
    write_ledger(tmp_path / "ledger.parquet")
    ledger = read_ledger(tmp_path / "ledger.parquet").assign(thumbnail=None)
    write_csv(tmp_path / "ledger.parquet", ledger)
    picture = picture_of(tmp_path / "ledger.parquet")
    assert runs((picture == GREEN).all(axis=2)[:, 20]) > 0


def test_show_draws_where_it_is_told(tmp_path: Path) -> None:
    write_ledger(tmp_path / "ledger.parquet")
    words = ["show", "--ledger", str(tmp_path / "ledger.parquet"), "--sheet", str(tmp_path / "a/b.png")]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert Image.open(tmp_path / "a/b.png").format == "PNG"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.png"]


def test_show_lists_videos_with_several_streams(tmp_path: Path) -> None:
    write_ledger(tmp_path / "ledger.parquet")
    ledger = read_ledger(tmp_path / "ledger.parquet")
    words = ["show", "--ledger", str(tmp_path / "ledger.parquet")]
    assert "several video streams" not in CliRunner().invoke(app, words).output
    write_csv(tmp_path / "ledger.parquet", ledger.assign(stream="2 of 2: h264 96x64, 3.0 s"))
    shown = CliRunner().invoke(app, words).output
    assert f"{ledger['video'].nunique()} videos have several video streams" in shown
    assert "2 of 2: h264" in shown

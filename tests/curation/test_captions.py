"""Sidecar files: what is read, and what is refused."""

import logging
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from videomar.config import IngestParams
from videomar.curation.captions import CaptionsError, check_table, parse_captions, read_captions
from videomar.curation.ingest import ingest_videos
from videomar.curation.ledger import read_candidates
from videomar.curation.shots import Captions, Shot
from videomar.errors import DataError


def test_json_goes_before_text(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    assert read_captions(video) == Captions("", [])
    (tmp_path / "a.txt").write_text("a  green\nmeadow\n")
    assert read_captions(video) == Captions("a green meadow", [])
    (tmp_path / "a.json").write_text('{"caption": "a hill"}')
    assert read_captions(video) == Captions("a hill", [])


def test_spans_without_caption_take_that_of_the_video() -> None:
    text = (
        '{"caption": "x", "clips": [{"start_s": 0, "end_s": 1}, {"start_s": 1, "end_s": 2, "caption": "y"}]}'
    )
    assert parse_captions(text).spans == [Shot(0, 1, "x"), Shot(1, 2, "y")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[]", "expected an object"),
        ('{"caption": 3}', "expected `caption`"),
        ('{"clips": [{"start_s": 2, "end_s": 1, "caption": ""}]}', r"clips\[0\]"),
        ('{"clips": [{"start_s": 0, "end_s": Infinity, "caption": ""}]}', r"clips\[0\]"),
        ('{"clips": [7]}', r"clips\[0\]"),
    ],
)
def test_captions_refuse_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(CaptionsError, match=message):
        parse_captions(text)


ROWS = [
    {"video": "deep/a.mp4", "caption": "a  hill", "start_s": None, "end_s": None},
    {"video": "b.mp4", "caption": "first", "start_s": 0.0, "end_s": 1.5},
    {"video": "b.mp4", "caption": 'then, "more"', "start_s": 1.5, "end_s": 3.0},
]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_captions_what_has_no_sidecar(kind: str, tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    if kind == "csv":
        table.to_pandas().to_csv(tmp_path / "captions.csv", index=False)
    else:
        pq.write_table(table, tmp_path / "captions.parquet")
    assert read_captions(tmp_path / "deep/a.mp4", tmp_path) == Captions("a hill", [])
    spans = [Shot(0.0, 1.5, "first"), Shot(1.5, 3.0, 'then, "more"')]
    assert read_captions(tmp_path / "b.mp4", tmp_path) == Captions("", spans)
    assert read_captions(tmp_path / "a.mp4", tmp_path) == Captions("", [])
    (tmp_path / "b.txt").write_text("a sidecar wins")
    assert read_captions(tmp_path / "b.mp4", tmp_path) == Captions("a sidecar wins", [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,caption\na.mp4,x\n", "captions.csv: row 0"),
        ("video,caption,start_s\na.mp4,x,1\n", "both times or none"),
        ("video,caption,start_s,end_s\na.mp4,x,2,1\n", r"clips\[0\]: expected 0 <= start_s < end_s"),
        ("video,caption,start_s,end_s\na.mp4,x,soon,later\n", r"clips\[0\]"),
    ],
)
def test_a_wrong_table_is_refused_with_the_reason(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text(text)
    with pytest.raises(CaptionsError, match=message):
        read_captions(tmp_path / "a.mp4", tmp_path)


TROUBLE = """video,caption,start_s,end_s
a.mp4,a hill,,
a.mp4,a  hill,,
b.mp4,a hill,,
b.mp4,a lake,,
c.mp4,one,0,1
c.mp4,two,0,1
d.mp4,in the table,,
e.mp4,the same,,
f.mp4, ,,
gone.mp4,nobody,,
"""


def test_problems_of_a_table_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "captions.csv").write_text(TROUBLE)
    (tmp_path / "d.txt").write_text("beside the video")
    (tmp_path / "e.txt").write_text("the  same\n")
    figures = check_table(tmp_path, [f"{name}.mp4" for name in "abcdef"])
    assert figures == {"captions_unmatched": 1, "captions_conflicting": 3, "captions_empty": 1}
    assert len(caplog.messages) == 1
    for words in (
        "1 unmatched ('gone.mp4')",
        "3 conflicting ('b.mp4', 'c.mp4', 'd.mp4')",
        "1 empty ('f.mp4')",
    ):
        assert words in caplog.messages[0]


def test_of_two_tables_the_second_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "captions.csv").write_text("video,caption\na.mp4,a hill\n")
    pq.write_table(pa.Table.from_pylist([{"video": "a.mp4", "caption": None}]), tmp_path / "captions.parquet")
    assert check_table(tmp_path, ["a.mp4"])["captions_conflicting"] == 1
    assert "captions.parquet" in caplog.text
    (tmp_path / "captions.csv").unlink()
    assert check_table(tmp_path, ["a.mp4"])["captions_empty"] == 1
    assert read_captions(tmp_path / "a.mp4", tmp_path) == Captions("", [])


def test_a_sound_table_and_none_are_met_with_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert check_table(tmp_path, ["a.mp4"]) == {}
    (tmp_path / "captions.csv").write_text("video,caption\na.mp4,a hill\n")
    assert set(check_table(tmp_path, ["a.mp4"]).values()) == {0}
    assert caplog.messages == []


def test_ingest_counts_problems_of_a_table_and_refuses_one_that_is_none(
    videos: Path, tmp_path: Path, ingest_params: IngestParams, caplog: pytest.LogCaptureFixture
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    shutil.copy(videos / "plain.mp4", raw / "a.mp4")
    (raw / "captions.csv").write_text("video,caption\na.mp4,a hill\ntypo.mp4,a lake\n")
    figures = ingest_videos(raw, tmp_path / "out.parquet", ingest_params)
    assert figures["captions_unmatched"] == 1
    assert figures["uncaptioned"] == 0
    assert set(read_candidates(tmp_path / "out.parquet")["caption"]) == {"a hill"}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    (raw / "captions.csv").write_text("name,caption\na.mp4,a hill\n")
    with pytest.raises(DataError, match=r"captions.csv: row 0: expected video, caption"):
        ingest_videos(raw, tmp_path / "out.parquet", ingest_params)

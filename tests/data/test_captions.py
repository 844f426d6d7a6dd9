"""Sidecar files: what is read, and what is refused."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from videomar.data.captions import Captions, CaptionsError, parse_captions, read_captions
from videomar.data.clips import Shot


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

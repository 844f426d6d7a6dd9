"""Sidecar files: what is read, and what is refused."""

from pathlib import Path

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

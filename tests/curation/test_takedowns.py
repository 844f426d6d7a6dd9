"""The table of takedowns: what is written is read, what is damaged is refused."""

from pathlib import Path

import pytest

from videomar.curation.takedowns import add_takedown, read_rows, read_takedowns
from videomar.errors import DataError

HEADER = "video_sha256,video,reason,removed_at\n"


def test_the_shipped_table_can_be_read() -> None:
    read_takedowns(Path(__file__).parents[2] / "takedowns.csv")


def test_a_takedown_is_kept_once_whatever_the_words(tmp_path: Path) -> None:
    table = tmp_path / "takedowns.csv"
    table.write_text(HEADER)
    assert add_takedown(table, "a" * 64, 'b, "c"\n.mp4', "the owner\nasked, twice")
    assert not add_takedown(table, "a" * 64, "renamed.mp4", "again")
    assert read_takedowns(table) == {"a" * 64: "the owner asked, twice"}
    assert read_rows(table)[0].video == 'b, "c"\n.mp4'
    assert [path.name for path in tmp_path.iterdir()] == ["takedowns.csv"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got columns None"),
        ("video,reason\n", "got columns"),
        (HEADER + "abc,v,r,t\n", "expected 64 hex digits"),
        (HEADER + "a" * 64 + ",v\n", "a row of another length"),
        (HEADER + "a" * 64 + ",v,r,t,more\n", "a row of another length"),
        (HEADER + "a" * 64 + ",v, ,t\n", "got no reason"),
    ],
)
def test_a_damaged_table_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "takedowns.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_takedowns(tmp_path / "takedowns.csv")


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_takedowns(tmp_path / "takedowns.csv")

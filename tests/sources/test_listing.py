"""A folder of clips may hold anything: what is no readable file is named with a reason, and nothing waits."""

import json
import multiprocessing
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import small_params
from tests.support.deadlines import within
from videomar.config import IngestParams
from videomar.curation.ingest import ingest_videos
from videomar.curation.ledger import read_candidates
from videomar.errors import DataError
from videomar.sources.collect import collect_samples
from videomar.sources.listing import UNREADABLE, is_current, list_files, list_videos, walk, write_listing

NOBODY = 65_534
ODD_NAMES = [
    "a b.mp4",
    "[x]*?.mp4",
    "$(touch x);&.mp4",
    "-v.mp4",
    "100%.mp4",
    "${HOME}.mp4",
    "q'\"`.mp4",
    "n\nl.mp4",
]
ODD_NAMES += ["日本語 – é.mp4", "back\\slash.mp4", "x" * 200 + ".mp4", "#1;2.mp4", " lead.mp4", "trail .mp4 "]


@pytest.fixture
def own() -> Iterator[Path]:
    """A folder that other users may enter, with one video, a caption, and what is neither."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "own"
        folder.mkdir()
        Path(made).chmod(0o755)
        (folder / "good.mp4").write_bytes(b"video")
        (folder / "good.txt").write_text("words")
        os.mkfifo(folder / "pipe.mp4")
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(folder / "socket.mp4"))
        (folder / "nowhere.mp4").symlink_to("gone")
        (folder / "round.mp4").symlink_to("round.mp4")
        (folder / "again").symlink_to(folder)
        (folder / ".hidden").write_text("a dotfile is nobody's business")
        yield folder


def as_nobody(function: Callable[..., None], *arguments: object) -> None:
    """Call it as a user who is not the super-user: only such a one can be denied anything."""
    if os.geteuid() != 0:
        function(*arguments)
        return

    def child() -> None:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        function(*arguments)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == 0


def test_walk_names_everything_and_opens_nothing(own: Path) -> None:
    with within(10):
        found = {entry.name: entry.reason for entry in walk(own)}
    assert found == {
        "good.mp4": None,
        "good.txt": None,
        "pipe.mp4": "a named pipe",
        "socket.mp4": "a socket",
        "nowhere.mp4": "No such file or directory",
        "round.mp4": "Too many levels of symbolic links",
    }
    assert list_files(own) == ["good.mp4", "good.txt"]
    assert list_videos(own) == ["good.mp4"]


def test_what_cannot_be_read_is_a_row_and_the_rest_is_collected(
    own: Path, tmp_path: Path, ingest_params: IngestParams
) -> None:
    raw = tmp_path / "raw"
    with within(60):
        collect_samples(own, raw, small_params().samples)
        ingest_videos(raw, tmp_path / "candidates.parquet", ingest_params)
    assert list_files(raw) == ["good.mp4", "good.txt"]
    rows = read_candidates(tmp_path / "candidates.parquet").set_index("video")["reason"].to_dict()
    assert rows == {
        "good.mp4": "not_a_video",
        "pipe.mp4": "unreadable: a named pipe",
        "socket.mp4": "unreadable: a socket",
        "nowhere.mp4": "unreadable: No such file or directory",
        "round.mp4": "unreadable: Too many levels of symbolic links",
    }
    (own / "pipe.mp4").unlink()
    collect_samples(own, raw, small_params().samples)
    assert "pipe.mp4" not in json.loads((raw / UNREADABLE).read_text())


def test_files_and_folders_of_other_users_are_rows(own: Path) -> None:
    (own / "secret.mp4").write_bytes(b"theirs")
    (own / "secret.mp4").chmod(0)
    (own / "closed").mkdir(mode=0)
    raw = own.parent / "raw"
    raw.mkdir(mode=0o777)
    raw.chmod(0o777)

    def collect() -> None:
        collect_samples(own, raw, small_params().samples)

    try:
        as_nobody(collect)
        noted = json.loads((raw / UNREADABLE).read_text())
        assert (noted["secret.mp4"], noted["closed"]) == ("Permission denied", "Permission denied")
        assert list_files(raw) == ["good.mp4", "good.txt"]
    finally:
        (own / "closed").chmod(0o700)


def test_names_that_no_disk_here_can_have_are_rows(tmp_path: Path) -> None:
    own, raw = tmp_path / "own", tmp_path / "raw"
    own.mkdir()
    long = os.fsdecode(os.fsencode(own) + b"/" + b"\xe9" * 200 + b".mp4")  # four times as long in escapes
    Path(long).write_bytes(b"video")
    (own / "good.mp4").write_bytes(b"video")
    collect_samples(own, raw, small_params().samples)
    assert list_files(raw) == ["good.mp4"]
    assert list(json.loads((raw / UNREADABLE).read_text()).values()) == ["File name too long"]


def test_odd_names_are_collected_and_ingested(
    videos: Path, tmp_path: Path, ingest_params: IngestParams
) -> None:
    own, raw = tmp_path / "own", tmp_path / "raw"
    own.mkdir()
    for number, name in enumerate(ODD_NAMES):
        data = (videos / "plain.mp4").read_bytes() + (12).to_bytes(4, "big") + b"free"
        (own / name).write_bytes(data + number.to_bytes(4, "big"))
    collect_samples(own, raw, small_params().samples)
    ingest_videos(raw, tmp_path / "candidates.parquet", ingest_params)
    rows = read_candidates(tmp_path / "candidates.parquet")
    assert set(rows["video"]) == set(ODD_NAMES)
    assert rows["reason"].isna().all()


@pytest.mark.parametrize("change", ["new", "gone", "grown", "touched", "caption", "closed"])
def test_listing_shows_every_change(own: Path, tmp_path: Path, change: str) -> None:
    (own / "large.mp4").write_bytes(bytes(100_000))
    listing = tmp_path / "clips.json"
    write_listing(own, tmp_path / "raw", listing)
    assert is_current(listing, own)
    if change == "new":
        (own / "b.mp4").touch()
    elif change == "gone":
        (own / "good.mp4").unlink()
    elif change == "grown":
        (own / "large.mp4").write_bytes(bytes(100_001))
    elif change == "touched":
        os.utime(own / "large.mp4", (1, 1))
    elif change == "caption":
        facts = (own / "good.txt").stat()
        (own / "good.txt").write_text("WORDS")
        os.utime(own / "good.txt", ns=(facts.st_atime_ns, facts.st_mtime_ns))
    else:
        (own / "large.mp4").unlink()
        os.mkfifo(own / "large.mp4")
    assert not is_current(listing, own)


def test_small_files_are_compared_by_content_so_that_every_clone_lists_the_same(
    own: Path, tmp_path: Path
) -> None:
    write_listing(own, tmp_path / "raw", tmp_path / "a.json")
    shutil.rmtree(own / ".hidden", ignore_errors=True)
    os.utime(own / "good.txt", (1, 1))
    write_listing(own, tmp_path / "raw", tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_listing_refuses_what_would_stop_data_version_control(own: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        write_listing(tmp_path / "none", tmp_path / "raw", tmp_path / "clips.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="got no files"):
        write_listing(tmp_path / "empty", tmp_path / "raw", tmp_path / "clips.json")
    with pytest.raises(DataError, match="raw.*got a named pipe, expected readable files"):
        write_listing(own, _raw_with_pipe(tmp_path), tmp_path / "clips.json")
    assert not (tmp_path / "clips.json").exists()


def _raw_with_pipe(folder: Path) -> Path:
    (folder / "raw").mkdir()
    os.mkfifo(folder / "raw" / "pipe.mp4")
    return folder / "raw"

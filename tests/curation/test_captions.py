"""Caption files as people keep them: which words each video gets, and that nothing is lost without a line."""

import json
import logging
import os
import shutil
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from videomar.config import IngestParams, Params
from videomar.curation.captions.caption_report import CaptionReport, summarise_captions
from videomar.curation.captions.caption_text import CaptionsError, parse_captions
from videomar.curation.captions.find_captions import FoundCaptions, find_captions
from videomar.curation.ingest import ingest_videos
from videomar.curation.ledger import read_candidates, read_note
from videomar.curation.shots import Captions, Shot
from videomar.errors import DataError
from videomar.sources.collect import collect_samples
from videomar.sources.listing import UNREADABLE, is_sidecar, list_files

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
LINE = '{"file_name": "a.mp4", "text": "a hill"}'


def lay(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write files; text as UTF-8."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def find(folder: Path) -> tuple[dict[str, FoundCaptions], CaptionReport]:
    """Search a folder whose videos are all files that are no captions."""
    names = list_files(folder)
    return find_captions(
        folder, [name for name in names if not is_sidecar(name)], [name for name in names if is_sidecar(name)]
    )


def parquet(rows: list[dict[str, object]]) -> bytes:
    """Bytes of a Parquet file."""
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue().to_pybytes()


BESIDE = {
    "text": ("a.mp4", "a.txt", "a  hill\n"),
    "name with suffix": ("a.mp4", "a.mp4.txt", "a hill"),
    "json, name with suffix": ("a.mp4", "a.mp4.json", '{"caption": "a hill"}'),
    "kohya": ("a.mp4", "a.caption", "a hill"),
    "camera": ("GOPR0001.MP4", "GOPR0001.TXT", "a hill"),
    "other letter case": ("GOPR0001.MP4", "gopr0001.txt", "a hill"),
    "suffix in both cases": ("x.mp4", "x.Json", '{"text": "a hill"}'),
    "name decomposed": (f"{NFC}.mp4", f"{NFD}.txt", "a hill"),
    "video decomposed": (f"{NFD}.mp4", f"{NFC}.TXT", "a hill"),
    "dots in the name": ("a.b.mp4", "a.b.txt", "a hill"),
    "no suffix": ("clip", "clip.txt", "a hill"),
    "byte order mark": ("a.mp4", "a.txt", b"\xef\xbb\xbfa hill"),
    "notepad's unicode": ("a.mp4", "a.txt", "a hill".encode("utf-16")),
    "utf-16 without mark": ("a.mp4", "a.txt", "a hill".encode("utf-16-be")),
    "key prompt": ("a.mp4", "a.json", '{"prompt": "a hill"}'),
    "key cap": ("a.mp4", "a.json", '{"fps": 3, "Cap": "a hill"}'),
    "several captions": ("a.mp4", "a.json", '{"caption": ["", "a hill", "a lake"]}'),
    "list": ("a.mp4", "a.json", '["a hill", "a lake"]'),
    "text in json": ("a.mp4", "a.json", '"a hill"'),
    "line feed in json": ("a.mp4", "a.json", '{"caption": "a hill\\n"}'),
}


@pytest.mark.parametrize("case", BESIDE)
def test_file_beside_a_video_is_found(case: str, tmp_path: Path) -> None:
    video, sidecar, content = BESIDE[case]
    lay(tmp_path, {video: "", sidecar: content, "other.mp4": ""})
    found, report = find(tmp_path)
    assert found[video] == FoundCaptions(Captions("a hill", []), sidecar)
    assert not found["other.mp4"]
    assert report.unused() == []


TABLES: dict[str, dict[str, str | bytes]] = {
    "ours": {"captions.csv": "video,caption\na.mp4,a hill\n"},
    "video folder": {"metadata.csv": "file_name,text\na.mp4,a hill\n"},
    "lines": {"metadata.jsonl": f"\n{LINE}\n\n"},
    "array called lines": {"metadata.jsonl": f"[{LINE}]"},
    "lines called array": {"captions.json": f'{LINE}\n{{"file_name": "other.mp4", "text": "x"}}'},
    "list": {"captions.json": f"[{LINE}]"},
    "wrapped": {"captions.json": f'{{"data": [{LINE}]}}'},
    "one object": {"metadata.json": LINE},
    "by name": {"captions.json": '{"a.mp4": "a hill", "other.mp4": ["x", "y"]}'},
    "objects by name": {"captions.json": '{"a": {"caption": "a hill"}}'},
    "columns": {"metadata.json": '{"file": ["a.mp4"], "cap": ["a hill"]}'},
    "tabs": {"captions.tsv": "path\ttext\na.mp4\ta hill\n"},
    "tabs in csv": {"captions.csv": "path\ttext\na.mp4\ta hill\n"},
    "commas in tsv": {"captions.tsv": "path,text\na.mp4,a hill\n"},
    "semicolons": {"metadata.csv": "File Name;Prompt\na.mp4;a hill\n"},
    "excel": {"captions.csv": "sep=;\r\nvideo;caption\r\na.mp4;a hill\r\n".encode("utf-16")},
    "excel's utf-8": {"captions.csv": b"\xef\xbb\xbfvideo,caption\na.mp4,a hill\n"},
    "old apple": {"captions.csv": "video,caption\ra.mp4,a hill\r"},
    "quoted newline": {"captions.csv": 'video,caption,source\na.mp4,"a\n hill",x\n'},
    "more columns": {"dataset.csv": "id,video_file,score,caption\n7,a.mp4,.5,a hill\n"},
    "upper case": {"METADATA.CSV": "FILE_NAME,TEXT\nA.MP4,a hill\n"},
    "parquet": {"metadata.parquet": parquet([{"file_name": "a.mp4", "text": "a hill", "x": 1}])},
    "parquet with videos": {
        "captions.parquet": parquet([{"video": {"bytes": b"0" * 99, "path": "a.mp4"}, "caption": ["a hill"]}])
    },
    "absolute": {"metadata.csv": "file_name,text\n/home/me/clips/a.mp4,a hill\n"},
    "windows": {"metadata.csv": "file_name,text\nC:\\clips\\A.mp4,a hill\n"},
    "folder's name": {"metadata.csv": "file_name,text\nclips/a.mp4,a hill\n"},
    "dot": {"metadata.csv": "file_name,text\n./a.mp4, a hill\n"},
    "no suffix": {"metadata.csv": "file_name,text\na,a hill\n"},
    "two names": {"metadata.csv": "video,path,text\nid7,a.mp4,a hill\n"},
    "two captions": {"metadata.csv": "path,text,caption\na.mp4,a hill,\n"},
    "finetrainers": {"videos.txt": "other.mp4\na.mp4\n", "prompts.txt": "x\na hill\n"},
    "finetrainers, other names": {"video.txt": "a.mp4", "captions.txt": "a hill"},
}


@pytest.mark.parametrize("case", TABLES)
def test_table_is_found(case: str, tmp_path: Path) -> None:
    lay(tmp_path, {"a.mp4": "", "other.mp4": "", **TABLES[case]})
    found, report = find(tmp_path)
    assert found["a.mp4"].captions == Captions("a hill", [])
    assert found["a.mp4"].source in TABLES[case]
    assert report.unused() == []


TREES: dict[str, tuple[dict[str, str | bytes], dict[str, str]]] = {
    "splits of a video folder": (
        {
            "train/a.mp4": "",
            "test/a.mp4": "",
            "train/metadata.csv": "file_name,text\na.mp4,train\n",
            "test/metadata.jsonl": '{"file_name": "a.mp4", "text": "test"}',
        },
        {"train/a.mp4": "train", "test/a.mp4": "test"},
    ),
    "table at the top": (
        {"videos/a.mp4": "", "videos/b.mp4": "", "metadata.csv": "file_name,text\na.mp4,1\nvideos/b.mp4,2\n"},
        {"videos/a.mp4": "1", "videos/b.mp4": "2"},
    ),
    "paths from the top": (
        {"videos/a.mp4": "", "meta/captions.csv": "file_name,text\nvideos/a.mp4,1\n"},
        {"videos/a.mp4": "1"},
    ),
    "deeper table first": (
        {
            "in/a.mp4": "",
            "in/b.mp4": "",
            "in/metadata.csv": "file_name,text\na.mp4,deep\n",
            "captions.csv": "video,caption\nin/a.mp4,deep\nin/b.mp4,top\n",
        },
        {"in/a.mp4": "deep", "in/b.mp4": "top"},
    ),
    "one of another folder": (
        {"train/b.mp4": "", "a.mp4": "", "test/a.mp4": "", "metadata.csv": "path,text\ntrain/a.mp4,no\n"},
        {"train/b.mp4": "", "a.mp4": "", "test/a.mp4": ""},
    ),
    "folders side by side": (
        {
            "videos/1.mp4": "",
            "labels/1.txt": "one",
            "x/videos/1.mp4": "",
            "x/Captions/1.mp4.txt": "x one",
            "x/captions/2.txt": "beside nothing",
            "w/y/1.mp4": "",
            "w/y/texts/1.txt": "second",
            "w/y/1.txt": "first",
            "w/y/z.mp4": "",
            "w/y/text/z.json": '"up"',
        },
        {"videos/1.mp4": "one", "x/videos/1.mp4": "x one", "w/y/1.mp4": "first", "w/y/z.mp4": "up"},
    ),
    "web dataset": (
        {"000.mp4": "", "000.txt": "words", "000.json": '{"key": "000", "fps": 3}', "000.cls": "7"},
        {"000.mp4": "words"},
    ),
    "two files of a name": (
        {"a.mp4": "", "a.MOV": "", "a.txt": "both", "B.mp4": "", "b.mp4": "", "b.txt": "low", "B.txt": "up"},
        {"a.mp4": "both", "a.MOV": "both", "B.mp4": "up", "b.mp4": "low"},
    ),
    "precedence beside": (
        {"a.mp4": "", "a.txt": "4", "a.mp4.txt": "3", "a.json": '"2"', "a.mp4.json": '"1"', "a.caption": "5"},
        {"a.mp4": "1"},
    ),
    "table named like a video": (
        {"captions.mp4": "", "captions.json": '{"caption": "x"}', "captions.csv": "video,caption\nb.mp4,y\n"},
        {"captions.mp4": "x"},
    ),
}


@pytest.mark.parametrize("case", TREES)
def test_right_video_gets_the_words(case: str, tmp_path: Path) -> None:
    files, expected = TREES[case]
    lay(tmp_path, files)
    found, _ = find(tmp_path)
    assert {video: words.captions.whole for video, words in found.items()} == expected


@pytest.mark.parametrize(
    ("sidecar", "content", "kind", "is_rejected"),
    [
        ("a.json", "[[0, 1], [2, 3]]", "empty", False),
        ("a.json", '{"iso": 100}', "empty", False),
        ("a.json", "[]", "empty", False),
        ("a.json", "[" + "0, " * 400_000 + "0]", "unreadable", False),
        ("a.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\0\0\0\1\0\x08\2\0\0\0", "unreadable", False),
        ("a.txt", b"\1\0\2\0\x20\0\3\0" * 9, "unreadable", False),
        ("labels/a.txt", "0 0.51 0.43 .2 0.31\n1 .5 .5 .5 .5\n", "unreadable", False),
        ("a.txt", "", "empty", False),
        ("a.json", '{"clips": [{"start_s": 0, "end_', "unreadable", True),
        ("a.json", '{"clips": [{"start_s": 0}]}', "unreadable", True),
    ],
)
def test_video_is_rejected_only_for_spans_that_cannot_be_read(
    sidecar: str, content: str | bytes, kind: str, is_rejected: bool, tmp_path: Path
) -> None:
    lay(tmp_path, {"a.mp4": "", sidecar: content})
    found, report = find(tmp_path)
    assert not found["a.mp4"]
    assert (found["a.mp4"].error is not None) == is_rejected
    assert report.counts == {kind: 1}


def test_spans_come_from_json_and_from_tables(tmp_path: Path) -> None:
    table = (
        'Video,caption,start_s,end_s\ndeep/a.mp4,a hill,,\nb.mp4,first,0,1.5\nb.mp4,"then, ""more""",1.5,3\n'
    )
    clips = '{"caption": "x", "clips": [{"start_s": 0, "end_s": 1}, {"start_s": 1, "end_s": 2, "text": "y"}]}'
    files = {"deep/a.mp4": "", "b.mp4": "", "c.mp4": "", "c.json": clips, "d.mp4": ""}
    lay(tmp_path, {**files, "captions.csv": table, "d.json": json.dumps(json.loads(clips)["clips"])})
    found = {video: words.captions for video, words in find(tmp_path)[0].items()}
    assert found["deep/a.mp4"] == Captions("a hill", [])
    assert found["b.mp4"] == Captions("", [Shot(0.0, 1.5, "first"), Shot(1.5, 3.0, 'then, "more"')])
    assert found["c.mp4"] == Captions("x", [Shot(0, 1, "x"), Shot(1, 2, "y")])
    assert found["d.mp4"] == Captions("", [Shot(0, 1, ""), Shot(1, 2, "y")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"caption": 3}', "expected `caption`"),
        ('{"clips": 3}', "expected `clips`"),
        ('{"clips": [{"start_s": 2, "end_s": 1, "caption": ""}]}', r"clips\[0\]"),
        ('{"clips": [{"start_s": 0, "end_s": Infinity, "caption": ""}]}', r"clips\[0\]"),
        ('{"clips": [7]}', r"clips\[0\]"),
    ],
)
def test_captions_refuse_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(CaptionsError, match=message):
        parse_captions(text)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "captions.csv",
            "name,caption\na.mp4,x\n",
            r"got the columns 'name', 'caption', expected one for the vid",
        ),
        ("captions.csv", "video,caption,start_s\na.mp4,x,1\n", "line 2: got one time, '1', expected both"),
        (
            "captions.csv",
            "video,caption,start_s,end_s\na.mp4,x,2,1\n",
            r"2 to 1 s, expected 0 <= start_s < end_s",
        ),
        ("captions.csv", "video,caption,start_s,end_s\na.mp4,x,soon,later\n", "line 2: the span: got .*soon"),
        ("captions.csv", "Фильм".encode("cp1251"), "unknown encoding, expected text; save it as UTF-8"),
        ("captions.json", '{"images": [1], "version": 2}', "entry 1: got caption .1., expected `caption`"),
        ("captions.json", "7", "got 7, expected a list"),
        ("captions.jsonl", '"x"\n{', "line 1: got 'x', expected an object .* and 1 more like this"),
        ("captions.parquet", "text", "expected a Parquet file"),
        ("captions.tsv", "a\tb\n", "got the columns 'a', 'b'"),
        ("captions.txt", "one\ntwo\n", "got 2 lines, but 1 in videos.txt"),
    ],
)
def test_table_of_captions_without_a_good_row_is_refused(
    name: str, content: str | bytes, message: str, tmp_path: Path
) -> None:
    lay(tmp_path, {"a.mp4": "", "videos.txt": "a.mp4", name: content})
    with pytest.raises(DataError, match=f"{name}: .*{message}.*; correct the table, or remove it"):
        find(tmp_path)


def test_ingest_counts_rows_without_a_video(
    copied: Callable[..., Path], tmp_path: Path, ingest_params: IngestParams, caplog: pytest.LogCaptureFixture
) -> None:
    raw = copied("plain.mp4")
    (raw / "captions.csv").write_text("video,caption\nplain.mp4,a hill\ntypo.mp4,a lake\n")
    figures = ingest_videos(raw, tmp_path / "out.parquet", ingest_params)
    assert figures["captions_unmatched"] == 1
    assert figures["uncaptioned"] == 0
    rows = read_candidates(tmp_path / "out.parquet")
    assert set(rows["caption"]) == {"a hill"}
    assert set(rows["caption_from"]) == {"captions.csv"}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "1 of 1 videos have one (1 from captions.csv)" in caplog.text
    assert "rows whose video is not here (1): captions.csv line 3: 'typo.mp4'" in caplog.text


def test_what_is_in_order_is_met_with_silence(
    copied: Callable[..., Path], tmp_path: Path, ingest_params: IngestParams, caplog: pytest.LogCaptureFixture
) -> None:
    raw = copied("plain.mp4")
    lay(raw, {"PLAIN.txt": "a hill", "README.md": "about"})
    figures = ingest_videos(raw, tmp_path / "out.parquet", ingest_params)
    assert caplog.messages == []
    assert {name for name, value in figures.items() if name.startswith("captions_") and value} == {
        "captions_other"
    }


def test_copy_under_another_name_shares_its_captions(
    copied: Callable[..., Path], tmp_path: Path, ingest_params: IngestParams
) -> None:
    raw = copied("plain.mp4", "uneven.mp4")
    for name in ("again.mp4", "zebra.mp4"):
        shutil.copy(raw / "plain.mp4", raw / name)
    shutil.copy(raw / "uneven.mp4", raw / "uneven copy.mp4")
    lay(
        raw,
        {"plain.txt": "a hill", "zebra.txt": "a lake", "uneven.txt": "a tree", "uneven copy.txt": "a tree"},
    )
    figures = ingest_videos(raw, tmp_path / "out.parquet", ingest_params)
    rows = read_candidates(tmp_path / "out.parquet")
    clips = rows[rows["clip_id"].notna()]
    assert set(zip(clips["video"], clips["caption"], clips["caption_from"], strict=True)) == {
        ("again.mp4", "a hill", "plain.txt"),
        ("uneven copy.mp4", "a tree", "uneven copy.txt"),
    }
    assert figures["captions_conflicting"] == 1
    assert figures["uncaptioned"] == 0


HOSTILE: dict[str, str | bytes] = {
    "plain.mp4": "",
    "named.mp4": "",
    "deep/named.mp4": "",
    "deep/other.mp4": "",
    "é.mp4": "",
    "conflict.mp4": "",
    "conflict.txt": "beside",
    "é.txt": "café".encode("cp1252"),
    "captions.csv": (
        "video,caption\n"
        "plain.mp4,a hill, green, and \x1b[31m quiet\n"
        "conflict.mp4,in the table\n"
        '"broken"x,no\n'
        "other.mp4,\n"
        ",nobody\n"
        "gone.mp4,gone\n"
        '"never closed,\n'
        "named.mp4,after it\n"
    ),
    "metadata.csv": "iso,aperture\n100,2.8\n",
    "metadata.json": '{"name": "a card", "version": [1]}',
    "my list.csv": "video,caption\nplain.mp4,old\n",
    "README.txt": "about",
    "no\x1b[2Jtes\n.txt": "no video",
    "IMG_1.JPG.txt": "no video either",
    "plain.json": "{",
    "deep/metadata.jsonl": (
        '{"path": "na\\u006ded", "text": "\\ud800 half"}\n{"path": 7}\n[]\n\n{"path": ["x"], "text": "x"}'
    ),
    "deep/named.txt": "x" * 2_000_000,
    "prompts.txt": "one\n",
    "subtitles.srt": "00:00",
    "dataset.parquet": b"PAR1",
}


def test_folder_with_everything_wrong_says_it_all(tmp_path: Path) -> None:
    lay(tmp_path, HOSTILE)
    found, report = find(tmp_path)
    words = {video: (captions.captions.whole, captions.source) for video, captions in found.items()}
    assert words == {
        "plain.mp4": ("a hill, green, and \x1b[31m quiet", "captions.csv"),
        "named.mp4": ("after it", "captions.csv"),
        "deep/named.mp4": ("? half", "deep/metadata.jsonl"),
        "deep/other.mp4": ("", None),
        "é.mp4": ("café", "é.txt"),
        "conflict.mp4": ("beside", "conflict.txt"),
    }
    assert {name.removeprefix("captions_"): count for name, count in report.figures().items()} == {
        "unmatched": 2,
        "ambiguous": 0,
        "bad_rows": 7,
        "orphaned": 3,
        "unreadable": 2,
        "unused_tables": 3,
        "conflicting": 1,
        "empty": 1,
        "guessed": 1,
        "other": 2,
    }
    for captions in found.values():
        report.count_source(captions.source)
    assert report.lines(False)[0] == (
        "captions: 5 of 6 videos have one (2 from files beside the videos, 2 from captions.csv, "
        "1 from deep/metadata.jsonl); the clips of the other 1 are trained without words"
    )
    assert len(report.lines(True)) == 1 + len(report.unused())
    text = "\n".join(example for kind in report.unused() for example in kind.examples)
    for part in (
        "captions.csv line 4: got ',' expected after '\"'",
        "captions.csv line 6: got video '', expected the name of a video",
        "captions.csv line 7: 'gone.mp4'",
        "metadata.csv: got the columns 'iso', 'aperture', expected one for the video (file_name, ",
        "my list.csv: another name",
        r"no\x1b[2Jtes\n.txt",
        "plain.json: no JSON",
        "deep/named.txt: got 2.0 MB, expected a caption of at most 1 MB",
        "conflict.mp4 (used: conflict.txt)",
        "deep/other.mp4 in captions.csv",
        "é.txt",
    ):
        assert part in text
    assert text.replace("\n", "").isprintable()


def test_name_that_fits_two_videos_is_given_to_none(tmp_path: Path) -> None:
    lay(tmp_path, {"x/a.mp4": "", "y/a.mp4": "", "C.mp4": "", "c.mp4": "", "ç.mp4": ""})
    lay(tmp_path, {"metadata.csv": "path,text\na.mp4,which\nC.MP4,which\n", "É.mp4": "", "e.TXT": ""})
    found, report = find(tmp_path)
    assert not any(found.values())
    assert report.counts["ambiguous"] == 2
    assert "metadata.csv line 2: 'a.mp4' fits x/a.mp4, y/a.mp4" in report.examples["ambiguous"]


def test_collected_folder_keeps_all_its_captions(
    videos: Path, tmp_path: Path, params: Params, ingest_params: IngestParams
) -> None:
    own, raw = tmp_path / "own", tmp_path / "raw"
    lay(
        own,
        {
            "metadata.JSONL": '{"file_name": "in/b.mp4", "text": "from lines"}',
            "a.MP4.txt": "beside",
            "a.TOML": "",
        },
    )
    (own / "in").mkdir()
    shutil.copy(videos / "plain.mp4", own / "a.MP4")
    shutil.copy(videos / "uneven.mp4", own / "in" / "b.mp4")
    collect_samples(own, raw, params.samples)
    assert list_files(raw) == list_files(own)
    ingest_videos(raw, tmp_path / "out.parquet", ingest_params)
    rows = read_candidates(tmp_path / "out.parquet")
    assert dict(zip(rows["video"], rows["caption"], strict=True)) == {
        "a.MP4": "beside",
        "in/b.mp4": "from lines",
    }
    summary = summarise_captions(rows["caption_from"], read_note(tmp_path / "out.parquet"))
    assert dict(summary.sources).keys() == {"metadata.JSONL", "files beside the videos"}
    assert summary.num_without == 0
    assert [kind.examples for kind in summary.unused] == [("a.TOML",)]


def test_caption_file_that_cannot_be_opened_is_no_broken_video(
    copied: Callable[..., Path], tmp_path: Path, ingest_params: IngestParams
) -> None:
    raw = copied("plain.mp4")
    os.mkfifo(raw / "plain.json")
    (raw / "captions.csv").symlink_to("gone.csv")
    (raw / UNREADABLE).write_text('{"PLAIN.TXT": "Permission denied", "lost.mp4": "Permission denied"}')
    figures = ingest_videos(raw, tmp_path / "out.parquet", ingest_params)
    rows = read_candidates(tmp_path / "out.parquet")
    assert set(rows["video"]) == {"plain.mp4", "lost.mp4"}
    assert figures["captions_unreadable"] == 3
    assert figures["uncaptioned"] == figures["clips"] == 4
    note = summarise_captions([None], read_note(tmp_path / "out.parquet"))
    assert note.unused[0].examples == (
        "PLAIN.TXT: Permission denied",
        "captions.csv: No such file or directory",
        "plain.json: a named pipe",
    )


def test_no_bytes_in_a_caption_file_are_too_odd(tmp_path: Path) -> None:
    """Damaged files of every kind: captions, a count, or one line; text that can be stored and shown."""
    random = Random(0)
    whole = [
        content.encode() if isinstance(content, str) else content
        for content in [*(content for *_, content in BESIDE.values()), *HOSTILE.values()]
    ]
    whole += [parquet([{"video": "a.mp4", "caption": "x"}]), bytes(range(256)), b"[" * 9999, b"9" * 9999]
    names = ["a.txt", "a.JSON", "prompts.txt", "videos.txt", "labels/a.caption"]
    names += [
        f"{stem}.{suffix}"
        for stem in ("captions", "metadata")
        for suffix in ["csv", "tsv", "json", "jsonl", "parquet"]
    ]
    outcomes = set()
    for number in range(300):
        folder = tmp_path / str(number)
        for name in random.sample(names, 3):
            content = bytearray(random.choice(whole)[:20_000])
            for _ in range(random.randrange(4)):
                place = random.randrange(len(content) + 1)
                content[place : place + random.randrange(3)] = random.choice(whole)[: random.randrange(9)]
            lay(folder, {name: bytes(content)})
        lay(folder, {"a.mp4": "", "b.mp4": ""})
        try:
            found, report = find(folder)
            text = [report.to_json(), *report.lines(False)]
            text += [words.captions.whole + (words.error or "") for words in found.values()]
            outcomes.add("words" if any(found.values()) else "none")
        except DataError as error:
            text = [str(error)]
            outcomes.add("refused")
        assert all(line.encode() for line in text if line)
    assert outcomes == {"words", "none", "refused"}


def test_archive_of_videos_is_a_row_that_says_what_to_do(
    copied: Callable[..., Path], tmp_path: Path, ingest_params: IngestParams
) -> None:
    raw = copied("plain.mp4")
    shutil.make_archive(str(raw / "shard-000"), "tar", raw, "plain.mp4")
    ingest_videos(raw, tmp_path / "out.parquet", ingest_params)
    reasons = read_candidates(tmp_path / "out.parquet").set_index("video")["reason"]
    assert reasons["shard-000.tar"] == "archive: unpack it, so that its videos can be read"

"""Every file becomes rows: clips with scores, or one row that says why not."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import pandas
import pytest

from tests.support.videos import ODD_NAME
from videomar.config import CurateParams, IngestParams
from videomar.curation.captions.caption_report import KINDS
from videomar.curation.duplicates import find_clusters
from videomar.curation.ingest import group_of, ingest_videos
from videomar.curation.ledger import SCORES, read_candidates
from videomar.curation.scores import score
from videomar.errors import DataError
from videomar.media.clip_reader import read_ledger_clips
from videomar.sources.listing import list_videos

Copy = Callable[..., Path]


def counts(
    videos: int,
    unreadable: int,
    clips: int,
    too_short: int = 0,
    uncaptioned: int = 0,
    unused: Mapping[str, int] | None = None,
) -> dict[str, float]:
    """The figures of ingest, whose sums are filled in; `unused` are captions by their kind."""
    return {
        "videos": videos,
        "read": videos - unreadable,
        "unreadable": unreadable,
        "clips_considered": clips + too_short,
        "clips": clips,
        "too_short": too_short,
        "uncaptioned": uncaptioned,
        **{f"captions_{kind}": float((unused or {}).get(kind, 0)) for kind in KINDS},
    }


def test_every_file_is_a_row_with_clips_or_a_reason(
    copied: Copy, tmp_path: Path, ingest_params: IngestParams
) -> None:
    names = ["plain.mp4", "empty.mp4", "text.mp4", "sound.mp4", "truncated.mp4", ODD_NAME]
    raw = copied(*names)
    (raw / "lost.mp4").symlink_to("nowhere.mp4")
    (raw / ".hidden.mp4").touch()
    (raw / "notes.txt").write_text("not a video")
    figures = ingest_videos(raw, tmp_path / "out.parquet", ingest_params)
    rows = read_candidates(tmp_path / "out.parquet")
    assert figures == counts(7, 6, 4, uncaptioned=4, unused={"orphaned": 1})
    reasons = rows[rows["clip_id"].isna()].set_index("video")["reason"].to_dict()
    assert reasons.pop("truncated.mp4").startswith("damaged: ")
    assert reasons == {
        "plain.mp4": "duplicate_file",
        "empty.mp4": "empty_file",
        "text.mp4": "not_a_video",
        "sound.mp4": "no_video_stream",
        "lost.mp4": "unreadable: No such file or directory",
    }
    clips = rows[rows["clip_id"].notna()]
    assert set(clips["video"]) == {ODD_NAME}
    assert clips["start_s"].tolist() == [0.0, 0.5, 1.0, 1.5]
    assert clips["clip_id"].is_unique
    assert (clips["width"] == 96).all()


@pytest.mark.parametrize("ratios", [("1:1",), ("3:2", "2:3")])
def test_scores_are_those_of_the_clips_that_training_reads(
    ratios: tuple[str, ...], copied: Copy, tmp_path: Path, ingest_params: IngestParams
) -> None:
    raw = copied("uneven.mp4", "rotated.mp4")
    ingest_videos(raw, tmp_path / "out.parquet", dataclasses.replace(ingest_params, aspect_ratios=ratios))
    rows = read_candidates(tmp_path / "out.parquet")
    for row, clip in zip(rows.to_dict("records"), read_ledger_clips(raw, rows, ingest_params), strict=True):
        assert clip.shape[1:3] == (row["clip_height_px"], row["clip_width_px"])
        assert {name: row[name] for name in SCORES} == score(clip)


def test_ledger_says_the_shape_of_each_clip(
    copied: Copy, tmp_path: Path, ingest_params: IngestParams, curate_params: CurateParams
) -> None:
    """Of 96 x 64, 64 x 96 and 96 x 96 pixels; ratios and lengths change no clip's id, place or look."""
    raw = copied("plain.mp4", "rotated.mp4", "long_gop.mp4")
    params = dataclasses.replace(
        ingest_params, aspect_ratios=("1:1", "3:2", "2:3"), shorter_clips=(5,), side_multiple_px=8
    )
    ingest_videos(raw, tmp_path / "square.parquet", ingest_params)
    ingest_videos(raw, tmp_path / "out.parquet", params)
    square, rows = (read_candidates(tmp_path / f"{name}.parquet") for name in ("square", "out"))
    columns = ["clip_width_px", "clip_height_px", "num_frames"]
    shapes = {video: set(map(tuple, part[columns].to_numpy())) for video, part in rows.groupby("video")}
    assert shapes == {"plain.mp4": {(40, 24, 9)}, "rotated.mp4": {(24, 40, 9)}, "long_gop.mp4": {(32, 32, 9)}}
    assert (square[columns] == (32, 32, 9)).all(None)
    same = ["clip_id", "start_s", "end_s", "width", "height", "reason"]
    pandas.testing.assert_frame_equal(square[same], rows[same])
    assert find_clusters(rows, curate_params).tolist() == find_clusters(square, curate_params).tolist()


def test_shots_too_short_for_a_whole_clip_are_shorter_clips(
    copied: Copy, tmp_path: Path, ingest_params: IngestParams
) -> None:
    raw = copied("plain.mp4")
    spans = [(0.0, 1.2), (1.2, 2.0), (2.0, 2.3)]
    clips = [{"start_s": start, "end_s": end, "caption": str(start)} for start, end in spans]
    (raw / "plain.json").write_text(json.dumps({"clips": clips}))
    ingest_videos(raw, tmp_path / "out.parquet", dataclasses.replace(ingest_params, shorter_clips=(5,)))
    rows = read_candidates(tmp_path / "out.parquet")
    assert rows["reason"].fillna("").tolist() == ["", "", "too_short"]
    assert rows["num_frames"].fillna(0).tolist() == [9, 5, 0]
    assert rows["end_s"].tolist() == [1.125, 1.825, 2.3]
    [_, short] = read_ledger_clips(raw, rows[:2], ingest_params)
    assert short.shape == (5, 32, 32, 3)


def test_caption_spans_take_the_place_of_shots(
    copied: Copy, tmp_path: Path, ingest_params: IngestParams
) -> None:
    raw = copied("plain.mp4", "uneven.mp4")
    spans = [
        {"start_s": 0.0, "end_s": 1.125, "caption": "one"},
        {"start_s": 1.125, "end_s": 2.0, "caption": "short"},
        {"start_s": 0.0, "end_s": 1.125, "caption": "again"},
    ]
    (raw / "plain.json").write_text(json.dumps({"clips": spans}))
    (raw / "uneven.json").write_text("{")
    figures = ingest_videos(raw, tmp_path / "out.parquet", ingest_params)
    rows = read_candidates(tmp_path / "out.parquet").set_index("caption")
    assert figures == counts(2, 1, 1, too_short=1, unused={"unreadable": 1})
    assert rows.loc["short", "reason"] == "too_short"
    assert rows.loc["one", "end_s"] == 1.125
    assert rows["reason"].str.startswith("unreadable_captions").any()


def test_thumbnail_is_three_pictures(copied: Copy, tmp_path: Path, ingest_params: IngestParams) -> None:
    ingest_videos(copied("plain.mp4"), tmp_path / "out.parquet", ingest_params)
    jpeg = read_candidates(tmp_path / "out.parquet")["thumbnail"].iloc[0]
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape == (64, 192, 3)


def test_equal_input_gives_equal_bytes(copied: Copy, tmp_path: Path, ingest_params: IngestParams) -> None:
    raw = copied("plain.mp4", "uneven.mp4", "text.mp4")
    for name in ("a", "b"):
        ingest_videos(raw, tmp_path / name, dataclasses.replace(ingest_params, num_workers=2))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_folder_without_files_is_refused(tmp_path: Path, ingest_params: IngestParams) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match="got no files, expected videos"):
        ingest_videos(tmp_path, tmp_path / "out.parquet", ingest_params)
    assert not (tmp_path / "out.parquet").exists()


def test_group_is_the_first_folder(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "simulated").mkdir()
    shutil.copy(videos / "plain.mp4", tmp_path / "simulated" / "a.mp4")
    assert list_videos(tmp_path) == ["simulated/a.mp4"]
    assert [group_of(video) for video in ("simulated/a.mp4", "simulated.mp4")] == ["simulated", "real"]


def test_name_that_is_not_utf8_is_a_row_with_the_reason(
    copied: Copy, tmp_path: Path, ingest_params: IngestParams
) -> None:
    raw = copied("plain.mp4")
    shutil.copy(raw / "plain.mp4", os.fsdecode(os.fsencode(raw) + b"/caf\xe9.mp4"))
    figures = ingest_videos(raw, tmp_path / "out.parquet", ingest_params)
    rows = read_candidates(tmp_path / "out.parquet")
    assert figures == counts(2, 1, 4, uncaptioned=4)
    reasons = rows[rows["clip_id"].isna()].set_index("video")["reason"].to_dict()
    assert reasons == {"caf\\xe9.mp4": "unreadable: the file name is not UTF-8"}


def test_links_to_folders_are_followed_once(videos: Path, tmp_path: Path) -> None:
    raw, other = tmp_path / "raw", tmp_path / "other"
    raw.mkdir()
    other.mkdir()
    shutil.copy(videos / "plain.mp4", other / "a.mp4")
    (other / "loop").symlink_to(raw)
    (raw / "first").symlink_to(other)
    (raw / "second").symlink_to(other)
    (raw / ".hidden").symlink_to(other)
    assert list_videos(raw) == ["first/a.mp4"]

"""Considered = kept + rejected; the first broken rule names the reason; no video is in two splits."""

from pathlib import Path

import pandas
import pytest

from videomar.config import CurateParams
from videomar.data.curate import count_verdicts, curate_clips, judge, judge_all
from videomar.data.ledger import Candidate, kept_clips, read_candidates, read_ledger, write_candidates
from videomar.errors import DataError

GOOD = {"motion": 3.0, "brightness": 100.0, "contrast": 30.0, "sharpness": 500.0, "frozen_share": 0.0}


def clip(video: str, start_s: float, group: str = "real", **changes: object) -> Candidate:
    values = {**GOOD, "width": 96, "height": 64, **changes}
    return Candidate(
        video=video,
        video_sha256=f"sha of {video}",
        clip_id=f"{video} {start_s}",
        start_s=start_s,
        end_s=start_s + 2.0,
        group=group,
        **values,  # type: ignore[arg-type]
    )


def frame(tmp_path: Path, candidates: list[Candidate]) -> pandas.DataFrame:
    write_candidates(tmp_path / "candidates.parquet", candidates)
    return read_candidates(tmp_path / "candidates.parquet")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"motion": 0.1}, "too_static"),
        ({"motion": 90.0}, "too_violent"),
        ({"brightness": 1.0}, "too_dark"),
        ({"brightness": 254.0}, "too_bright"),
        ({"contrast": 0.5}, "low_contrast"),
        ({"sharpness": 0.1}, "blurred"),
        ({"frozen_share": 0.9}, "frozen"),
        ({"frozen_share": 0.9, "motion": 0.0, "brightness": 0.0}, "too_static"),
    ],
)
def test_judge_names_the_first_broken_rule(
    changes: dict[str, float], reason: str | None, curate_params: CurateParams
) -> None:
    assert judge(64, {**GOOD, **changes}, curate_params) == reason


def test_judge_refuses_small_sources_first(curate_params: CurateParams) -> None:
    assert judge(31, {**GOOD, "motion": 0.0}, curate_params) == "too_small"


@pytest.mark.parametrize("num_videos", [3, 4, 10, 25])
def test_each_split_has_a_video_and_no_video_two_splits(
    num_videos: int, tmp_path: Path, curate_params: CurateParams
) -> None:
    candidates = [
        clip(f"{g}{v}", float(s), g)
        for g in ("real", "simulated")
        for v in range(num_videos)
        for s in range(3)
    ]
    ledger = judge_all(frame(tmp_path, candidates), curate_params)
    assert (ledger.groupby("video")["split"].nunique() == 1).all()
    for _, group in ledger.groupby("group"):
        videos = group.groupby("split")["video"].nunique()
        assert videos["test"] == min(-(-num_videos // 5), num_videos - 2)
        assert set(videos.index) == {"train", "val", "test"}


def test_split_does_not_depend_on_the_order_of_rows(tmp_path: Path, curate_params: CurateParams) -> None:
    rows = frame(tmp_path, [clip(f"{v}", float(s)) for v in range(9) for s in range(3)])
    split = judge_all(rows, curate_params).set_index("clip_id")["split"]
    shuffled = judge_all(rows.sample(frac=1, random_state=0), curate_params).set_index("clip_id")["split"]
    assert split.to_dict() == shuffled.to_dict()


def test_one_video_is_split_by_time_without_shared_frames(
    tmp_path: Path, curate_params: CurateParams
) -> None:
    ledger = judge_all(frame(tmp_path, [clip("a", i * 0.5) for i in range(40)]), curate_params)
    kept = kept_clips(ledger).groupby("split")
    ends, starts = kept["end_s"].max(), kept["start_s"].min()
    assert ends["train"] <= starts["val"]
    assert ends["val"] <= starts["test"]
    assert kept.size().to_dict() == {"train": 22, "val": 4, "test": 8}
    assert (ledger["reason"].dropna() == "split_boundary").all()


@pytest.mark.parametrize(("num_clips", "expected"), [(1, {"train"}), (2, {"train", "test"})])
def test_short_videos_train_first(
    num_clips: int, expected: set[str], tmp_path: Path, curate_params: CurateParams
) -> None:
    ledger = judge_all(frame(tmp_path, [clip("a", i * 3.0) for i in range(num_clips)]), curate_params)
    assert set(ledger["split"]) == expected


def test_books_balance_and_every_row_stays(tmp_path: Path, curate_params: CurateParams) -> None:
    candidates = [clip(f"{v}", float(s), motion=float(s)) for v in range(5) for s in range(4)]
    candidates.append(Candidate(video="bad", group="real", reason="unreadable: no moov"))
    candidates.append(clip("0", 9.0, reason="too_short", motion=None))
    write_candidates(tmp_path / "candidates.parquet", candidates)
    figures = curate_clips(tmp_path / "candidates.parquet", tmp_path / "ledger.parquet", curate_params)
    ledger = read_ledger(tmp_path / "ledger.parquet")
    assert len(ledger) == figures["considered"] == figures["kept"] + figures["rejected"] == 22
    assert figures["kept"] == sum(figures[f"kept_{split}"] for split in ("train", "val", "test")) == 15
    assert (figures["rejected_too_static"], figures["rejected_unreadable"]) == (5, 1)
    assert figures["rejected_too_short"] == 1
    assert (ledger["kept"] == ledger["reason"].isna()).all()
    assert (ledger["split"].isna() == ledger["clip_id"].isna()).all()
    assert len(kept_clips(ledger, "test", "real")) == figures["kept_test"]


def test_unbalanced_books_are_refused(tmp_path: Path, curate_params: CurateParams) -> None:
    ledger = judge_all(frame(tmp_path, [clip("a", 0.0)]), curate_params)
    ledger["kept"] = False
    with pytest.raises(DataError, match="considered = kept"):
        count_verdicts(ledger)


def test_nothing_kept_is_refused_with_the_commonest_reasons(
    tmp_path: Path, curate_params: CurateParams
) -> None:
    write_candidates(tmp_path / "c.parquet", [clip("a", float(s), motion=0.0) for s in range(3)])
    with pytest.raises(DataError, match=r"too_static \(3\)"):
        curate_clips(tmp_path / "c.parquet", tmp_path / "ledger.parquet", curate_params)
    assert not (tmp_path / "ledger.parquet").exists()


def test_missing_or_foreign_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run that stage first"):
        read_candidates(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(DataError, match="expected the output of `curate`"):
        read_ledger(tmp_path / "text.parquet")
    write_candidates(tmp_path / "c.parquet", [clip("a", 0.0)])
    with pytest.raises(DataError, match="kept"):
        read_ledger(tmp_path / "c.parquet")

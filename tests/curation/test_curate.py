"""Considered = kept + rejected; the first broken rule names the reason; no video is in two splits."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas
import pytest

from videomar.config import CurateParams
from videomar.curation.curate import count_verdicts, curate_clips, judge, judge_all
from videomar.curation.duplicates import FINGERPRINT_BYTES
from videomar.curation.ledger import ClipRow, kept_clips, read_candidates, read_ledger, write_candidates
from videomar.curation.ledger_diff import compare_ledgers
from videomar.errors import DataError

TAKEDOWNS = Path(__file__).parents[2] / "takedowns.csv"
GOOD = {
    "motion": 3.0,
    "brightness": 100.0,
    "contrast": 30.0,
    "sharpness": 500.0,
    "frozen_share": 0.0,
    "flicker": 0.0,
    "letterbox_share": 0.0,
}


def clip(video: str, start_s: float, group: str = "real", **changes: object) -> ClipRow:
    values = {**GOOD, "width": 96, "height": 64, **changes}
    return ClipRow(
        video=video,
        video_sha256=f"sha of {video}",
        clip_id=f"{video} {start_s}",
        start_s=start_s,
        end_s=start_s + 2.0,
        group=group,
        **values,  # type: ignore[arg-type]
    )


def frame(tmp_path: Path, candidates: list[ClipRow]) -> pandas.DataFrame:
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
        ({"flicker": 9.0}, "flickering"),
        ({"letterbox_share": 0.3}, "letterboxed"),
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
    assert kept.size().to_dict() == {"train": 27, "val": 1, "test": 6}  # of 21.5 s: 15, 2, 4.5
    assert (ledger["reason"].dropna() == "split_boundary").all()


@pytest.mark.parametrize(("num_clips", "expected"), [(1, {"train"}), (2, {"train", "test"})])
def test_short_videos_train_first(
    num_clips: int, expected: set[str], tmp_path: Path, curate_params: CurateParams
) -> None:
    ledger = judge_all(frame(tmp_path, [clip("a", i * 3.0) for i in range(num_clips)]), curate_params)
    assert set(ledger["split"]) == expected


def test_counts_add_up_and_every_row_stays(tmp_path: Path, curate_params: CurateParams) -> None:
    candidates = [clip(f"{v}", float(s), motion=float(s)) for v in range(5) for s in range(4)]
    candidates.append(ClipRow(video="bad", group="real", reason="unreadable: no moov"))
    candidates.append(clip("0", 9.0, reason="too_short", motion=None))
    write_candidates(tmp_path / "candidates.parquet", candidates)
    figures = curate_clips(
        tmp_path / "candidates.parquet", TAKEDOWNS, tmp_path / "ledger.parquet", curate_params
    )
    ledger = read_ledger(tmp_path / "ledger.parquet")
    assert len(ledger) == figures["considered"] == figures["kept"] + figures["rejected"] == 22
    assert figures["kept"] == sum(figures[f"kept_{split}"] for split in ("train", "val", "test")) == 15
    assert (figures["rejected_too_static"], figures["rejected_unreadable"]) == (5, 1)
    assert figures["rejected_too_short"] == 1
    assert (ledger["kept"] == ledger["reason"].isna()).all()
    assert (ledger["split"].isna() == ledger["clip_id"].isna()).all()
    assert len(kept_clips(ledger, "test", "real")) == figures["kept_test"]


def test_counts_that_do_not_add_up_are_refused(tmp_path: Path, curate_params: CurateParams) -> None:
    ledger = judge_all(frame(tmp_path, [clip("a", 0.0)]), curate_params)
    ledger["kept"] = False
    with pytest.raises(DataError, match="considered = kept"):
        count_verdicts(ledger)


def test_nothing_kept_is_refused_with_the_commonest_reasons(
    tmp_path: Path, curate_params: CurateParams
) -> None:
    write_candidates(tmp_path / "c.parquet", [clip("a", float(s), motion=0.0) for s in range(3)])
    with pytest.raises(DataError, match=r"too_static \(3\)"):
        curate_clips(tmp_path / "c.parquet", TAKEDOWNS, tmp_path / "ledger.parquet", curate_params)
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


def look(seed: int) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, FINGERPRINT_BYTES).astype(np.uint8).tobytes()


def test_of_near_duplicates_the_largest_video_stays(tmp_path: Path, curate_params: CurateParams) -> None:
    small = [clip("a", float(s), fingerprint=look(s % 2)) for s in range(3)]
    large = [clip("b", float(s), fingerprint=look(s), width=400, height=300) for s in range(3)]
    others = [clip(f"other {v}", 0.0, fingerprint=look(10 + v)) for v in range(2)]
    ledger = judge_all(frame(tmp_path, [*small, *large, *others]), curate_params)
    kept = ledger.set_index("clip_id")["kept"]
    assert kept[[c.clip_id for c in large]].all()
    assert not kept[[c.clip_id for c in small]].any()
    assert set(ledger["reason"].dropna()) == {"near_duplicate"}
    assert ledger["cluster"].nunique() == 5
    named = dataclasses.replace(curate_params, test_videos=("[a]",))
    ledger = judge_all(frame(tmp_path, [*small, *large, *others]), named)
    kept = ledger[ledger["kept"]]
    assert set(kept.loc[kept["video"] == "a", "split"]) == {"test"}
    assert (kept["video"] == "a").sum() == 3
    assert (kept["video"] == "b").sum() == 1


def test_rejected_clips_reject_no_others(tmp_path: Path, curate_params: CurateParams) -> None:
    dark = clip("a", 0.0, brightness=0.0, fingerprint=look(0), width=400, height=300)
    ledger = judge_all(frame(tmp_path, [dark, clip("b", 0.0, fingerprint=look(0))]), curate_params)
    assert ledger["reason"].tolist() == ["too_dark", None]


@pytest.mark.parametrize("num_videos", [1, 2, 3, 12, 40])
@pytest.mark.parametrize("seed", range(4))
def test_no_cluster_and_no_video_crosses_splits(
    num_videos: int, seed: int, tmp_path: Path, curate_params: CurateParams
) -> None:
    rng = np.random.default_rng(seed)
    # Four clips of each video, some of which show what a clip elsewhere shows.
    candidates = [
        clip(
            f"{v}",
            float(3 * s),
            ("real", "simulated")[v % 2],
            fingerprint=look(int(rng.integers(0, 20 * num_videos))),
        )
        for v in range(num_videos)
        for s in range(4)
    ]
    params = dataclasses.replace(curate_params, seed=seed)
    ledger = judge_all(frame(tmp_path, candidates), params)
    kept = kept_clips(ledger)
    assert (kept.groupby("cluster")["split"].nunique() == 1).all()
    assert (ledger[ledger["split"].notna()].groupby("cluster")["split"].nunique() <= 1).all()
    assert (kept["split"] == "train").any()
    if num_videos == 40:
        assert ledger["cluster"].value_counts().max() > 1
        # Families of several videos may be cut in time.
        assert (kept.groupby("video")["split"].nunique() == 1).mean() > 0.4
        assert set(kept["split"]) == {"train", "val", "test"}


def test_one_alike_clip_joins_the_splits_of_two_videos(tmp_path: Path, curate_params: CurateParams) -> None:
    alone = [clip(f"{v}", float(s), fingerprint=look(10 * v + s)) for v in range(20) for s in range(3)]
    split = judge_all(frame(tmp_path, alone), curate_params).groupby("video")["split"].first()
    held_out = split.index[split == "test"][0]
    train = split.index[split == "train"][0]
    joined = [
        dataclasses.replace(c, fingerprint=look(999)) if c.video in (held_out, train) and not c.start_s else c
        for c in alone
    ]
    split = judge_all(frame(tmp_path, joined), curate_params).groupby("video")["split"].first()
    assert split[held_out] == split[train]


def test_a_video_taken_down_is_out_under_any_name_with_all_that_looks_like_it(
    tmp_path: Path, curate_params: CurateParams
) -> None:
    large = {"width": 400, "height": 300}
    candidates = [
        clip("a", 0.0, fingerprint=look(0), thumbnail=b"jpeg", caption="words"),
        clip("b", 0.0, fingerprint=look(0), **large),
        clip("c", 0.0, fingerprint=look(1)),
        ClipRow(video="copy", video_sha256="sha of a", group="real", reason="duplicate_file"),
    ]
    rows = frame(tmp_path, candidates)
    assert judge_all(rows, curate_params)["reason"].tolist()[:2] == ["near_duplicate", None]
    ledger = judge_all(rows, curate_params, {"sha of a": "asked"})
    assert ledger["reason"].tolist() == ["removed: asked", "near_duplicate", None, "removed: asked"]
    assert ledger.loc[0, ["thumbnail", "caption"]].isna().all()
    assert count_verdicts(ledger)["rejected_removed"] == 2


@pytest.mark.parametrize(("num_bad", "alarm"), [(0, 0), (2, 0), (3, 1), (9, 1)])
def test_an_unusual_share_of_rejected_clips_raises_an_alarm(
    num_bad: int,
    alarm: int,
    tmp_path: Path,
    curate_params: CurateParams,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = [clip(f"{v}", 0.0, brightness=0.0 if v < num_bad else 100.0) for v in range(10)]
    write_candidates(tmp_path / "c.parquet", rows)
    figures = curate_clips(tmp_path / "c.parquet", TAKEDOWNS, tmp_path / "ledger.parquet", curate_params)
    assert figures["drop_alarm"] == alarm
    assert ("DROP ALARM" in caplog.text) == bool(alarm)


def test_two_policies_are_compared_without_the_videos(tmp_path: Path, curate_params: CurateParams) -> None:
    rows = [clip(f"{v}", float(s), brightness=20.0 * s) for v in range(8) for s in range(5)]
    rows.append(ClipRow(video="bad", group="real", reason="unreadable: no moov"))
    before = judge_all(frame(tmp_path, rows), curate_params)
    same = compare_ledgers(before, before)
    assert (same.kept_before, same.appeared, same.newly_kept, same.split_moves) == (32, 0, {}, {})
    params = dataclasses.replace(curate_params, min_brightness=0.0, max_brightness=70.0)
    changes = compare_ledgers(before, judge_all(frame(tmp_path, rows), params))
    assert (changes.newly_kept, changes.newly_rejected) == ({"too_dark": 8}, {"too_bright": 8})
    assert (changes.kept_before, changes.kept_after) == (32, 32)
    params = dataclasses.replace(curate_params, seed=1, min_brightness=2000.0, max_motion=1.0)
    changes = compare_ledgers(before, judge_all(frame(tmp_path, rows), params))
    assert changes.newly_rejected == {"too_violent": 32}
    assert changes.other_reason == {"too_dark -> too_violent": 8}
    params = dataclasses.replace(curate_params, seed=1)
    after = judge_all(frame(tmp_path, rows[:-6]), params)
    changes = compare_ledgers(before, after)
    moved = sum(
        (before.set_index("clip_id")["split"][name] != split)
        for name, split in kept_clips(after).set_index("clip_id")["split"].items()
    )
    assert sum(changes.split_moves.values()) == moved > 0
    assert (changes.appeared, changes.disappeared) == (0, 6)

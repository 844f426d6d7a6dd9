"""Which clips train, which tune, which are held out for the figures: by source video, or by time in one."""

import hashlib
import math

import pandas

from videomar.config import CurateParams

_FEWEST_VIDEOS = 3


def assign_split(clips: pandas.DataFrame, params: CurateParams) -> pandas.Series:
    """`train`, `val` or `test` for each row, or null for a clip that can be in none.

    Clips of one video are alike, so a video lies in one split as a whole, drawn by its content and the seed:
    of each group, `test_share` of the videos with kept clips, rounded up, and `val_share` likewise. A group
    of one or two such videos is split inside them by time: the last clips are test, those before val. Clips
    that overlap the first clip of the next split are in none, for their frames are in both.

    Args:
        clips: `video_sha256`, `group`, `start_s`, `end_s`, `clip_id`, `kept`; rows with `clip_id` null stay
            null. Rejected clips get the split of their neighbours but do not count.
        params: `val_share`, `test_share`, `seed`.
    """
    split = pandas.Series(None, index=clips.index, dtype=object)
    for _, group in clips[clips["clip_id"].notna()].groupby("group"):
        videos = group.loc[group["kept"], "video_sha256"].unique().tolist()
        if len(videos) >= _FEWEST_VIDEOS:
            split.update(group["video_sha256"].map(_split_videos(videos, params)).fillna("train"))
        else:
            for _, clips_of_video in group.groupby("video_sha256"):
                split.update(_split_time(clips_of_video, params))
    return split


def _split_videos(videos: list[str], params: CurateParams) -> dict[str, str]:
    """The split of each video; at least one is in each split."""
    num_test = min(_share(params.test_share, len(videos)), len(videos) - 2)
    num_val = min(_share(params.val_share, len(videos)), len(videos) - num_test - 1)
    drawn = sorted(videos, key=lambda video: hashlib.sha256(f"{params.seed} {video}".encode()).digest())
    return {
        video: "test" if rank < num_test else "val" if rank < num_test + num_val else "train"
        for rank, video in enumerate(drawn)
    }


def _split_time(clips: pandas.DataFrame, params: CurateParams) -> pandas.Series:
    """The split of each clip of one video; what is too short for three splits goes without val, then test."""
    kept = clips[clips["kept"]].sort_values("start_s")
    num_test, num_val = _share(params.test_share, len(kept)), _share(params.val_share, len(kept))
    for tried_test, tried_val in ((num_test, num_val), (num_test, 0), (0, 0)):
        test_s = _last_starts_s(kept, tried_test)
        val_s = _last_starts_s(kept[kept["end_s"] <= test_s], tried_val) if tried_val else test_s
        if (kept["end_s"] <= val_s).any():
            break
    split = pandas.Series(None, index=clips.index, dtype=object)
    split[clips["end_s"] <= val_s] = "train"
    split[(clips["start_s"] >= val_s) & (clips["end_s"] <= test_s)] = "val"
    split[clips["start_s"] >= test_s] = "test"
    return split


def _last_starts_s(kept: pandas.DataFrame, count: int) -> float:
    """Start of the first of the last `count` clips; for none, a time after all."""
    if count == 0:
        return math.inf
    return float(kept["start_s"].iloc[-count]) if len(kept) >= count else -math.inf


def _share(share: float, count: int) -> int:
    # A share of 0.12 of 25 is 3.0000000000000004 in floating point, and not 4.
    return max(1, math.ceil(round(share * count, 9)))

"""Splits: which clips are for training, tuning and held-out metrics, by source video, or by time in one.

Videos that share near-duplicate clips count as one, so no cluster of near-duplicates is in two splits.
"""

import hashlib
import math

import numpy as np
import pandas
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from videomar.config import CurateParams

_FEWEST_VIDEOS = 3


def assign_split(clips: pandas.DataFrame, params: CurateParams) -> pandas.Series:
    """Return `train`, `val` or `test` for each row, or null for a clip that can be in none.

    Clips of one video are alike, so a whole video is in one split, together with all videos that share a
    cluster with it (its family). In each group of videos `test_share` of the families with kept clips,
    rounded up, are drawn by their content and the seed, then `val_share` of them. A group of one or two
    families is split inside the videos, by time:

        |------- train -------| none |-- val --| none |-- test --|

    Clips that overlap the first clip of the next split are in none, because their frames are in both; so are
    clips that look like one in a later split.

    Args:
        clips: `video_sha256`, `group`, `start_s`, `end_s`, `clip_id`, `kept`, `cluster`; rows with `clip_id`
            null stay null. Rejected clips get the split of their neighbours but do not count.
        params: `val_share`, `test_share`, `seed`.
    """
    split = pandas.Series(None, index=clips.index, dtype=object)
    known = clips[clips["clip_id"].notna()]
    family = _families(known)
    # A family that is both simulated and real is drawn once, with the real ones.
    for _, members in family.groupby(known["group"].groupby(family).transform("min")):
        group = known.loc[members.index]
        drawn = members[group["kept"]].unique().tolist()
        if len(drawn) >= _FEWEST_VIDEOS:
            split.update(members.map(_split_videos(drawn, params)).fillna("train"))
        else:
            split.update(_split_times(group, params))
    return split


def _families(clips: pandas.DataFrame) -> pandas.Series:
    """Family of each row's video: the first `video_sha256` of the videos that clusters connect to it."""
    videos, names = pandas.factorize(clips["video_sha256"])
    clusters = pandas.factorize(clips["cluster"])[0]
    joined = clusters >= 0
    ends = (videos[joined], len(names) + clusters[joined])
    size = len(names) + clusters.max(initial=-1) + 1
    links = coo_array((np.ones(joined.sum(), np.int8), ends), shape=(size, size))
    labels = pandas.Series(connected_components(links, directed=False)[1][: len(names)] if size else [])
    first = pandas.Series(names.to_numpy(object)).groupby(labels).transform("min")
    return pandas.Series(first.to_numpy(object)[videos], index=clips.index, dtype=object)


def _split_videos(videos: list[str], params: CurateParams) -> dict[str, str]:
    """Split of each video; each split has at least one."""
    num_test = min(_share(params.test_share, len(videos)), len(videos) - 2)
    num_val = min(_share(params.val_share, len(videos)), len(videos) - num_test - 1)
    drawn = sorted(videos, key=lambda video: hashlib.sha256(f"{params.seed} {video}".encode()).digest())
    return {
        video: "test" if rank < num_test else "val" if rank < num_test + num_val else "train"
        for rank, video in enumerate(drawn)
    }


def _split_times(clips: pandas.DataFrame, params: CurateParams) -> pandas.Series:
    """Split of each clip of a few videos, by time; all are train if otherwise none would be."""
    parts = [_split_time(rows, params) for _, rows in clips.groupby("video_sha256")]
    split = pandas.concat(parts).reindex(clips.index)
    rank = split.where(clips["kept"]).map({"train": 0, "val": 1, "test": 2})
    latest = rank.groupby(clips["cluster"]).transform("max").map({0: "train", 1: "val", 2: "test"})
    held_back = split.where(latest.isna() | (split == latest), None)
    if (held_back[clips["kept"]] == "train").any() or not clips["kept"].any():
        return held_back
    return split.where(split.isna(), "train").fillna("train")


def _split_time(clips: pandas.DataFrame, params: CurateParams) -> pandas.Series:
    """Split of each clip of one video; one too short for three splits has no val, then no test."""
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
    """Start of the first of the last `count` clips; for none, a time after all clips."""
    if count == 0:
        return math.inf
    return float(kept["start_s"].iloc[-count]) if len(kept) >= count else -math.inf


def _share(share: float, count: int) -> int:
    # A share of 0.12 of 25 is 3.0000000000000004 in floating point, and not 4.
    return max(1, math.ceil(round(share * count, 9)))

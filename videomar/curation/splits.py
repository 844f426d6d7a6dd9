"""Splits: which clips are for training, tuning and held-out metrics, by seconds of film and by source.

A source is a video, or several videos that share near-duplicate clips, so that no cluster of near-duplicates
is in two splits. Seconds are those of film that kept clips show: where clips overlap, they count once.

`test` and `val` take their shares of a group's seconds, a quarter of it from each of several sources: short
sources as a whole, long ones in part. Sources take turns in an order drawn by their content and the seed.

    sources in their order   |--- a ---|----------------------- b ------------------------|-- c --|- d -|
    test takes                all of it        as much as one may give, at its end         all     none

Videos that `curate.test_videos` names are test as a whole. In a group that has such videos no others are
drawn for test, and `val` takes its share of the others.

Where a new source stands in that order does not depend on the others, and all that it changes for them is
where the taking ends. So the others change by about as many seconds as the new source has: see
tests/curation/test_splits.py for the bound.
"""

import hashlib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np
import pandas
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from videomar.config import CurateParams

_PARTS = 4
"""None gives more than one part of so many of what a split takes; a long video is cut in so many places."""
_WHOLE = 1.5
"""A source of up to so many times what it may give is given whole: what is left would hardly be of use."""
_LEAST_CLIPS = 2
"""No part is shorter than so many clips, because clips at its ends are lost."""
_STRETCH_CLIPS = 64
"""A stretch of a video that is cut in several is at least so many clips long."""
_RANK = {"train": 0, "val": 1, "test": 2}
_EPSILON_S = 1e-6


class _Source(NamedTuple):
    """What a source has to give."""

    name: str
    left_s: float
    may_be_whole: bool


class _Wanted(NamedTuple):
    """What each split takes of a source or a group, as shares of its seconds; 1 = all of it."""

    test: float
    val: float

    def whole(self) -> str | None:
        """The split that has the whole source, or None if it is cut."""
        if self.test + self.val < _EPSILON_S:
            return "train"
        return next((name for name in ("test", "val") if getattr(self, name) > 1 - _EPSILON_S), None)


def assign_split(clips: pandas.DataFrame, params: CurateParams) -> pandas.Series:
    """Return `train`, `val` or `test` for each row, or null for a clip that can be in none.

    Each group of clips is split by itself. A source that is not in one split as a whole is cut in time, into
    one to four stretches by its length, each of

        |------- train -------| none |-- val --| none |-- test --|

    with edges between scenes where there are some nearby. Clips that cross an edge are in none, because
    their frames would be in both; so are clips that look like one in a later split.

    A named video is in test whole, but its still pictures are in none: nothing judges them.

    Args:
        clips: `video`, `video_sha256`, `group`, `start_s`, `end_s`, `clip_id`, `num_frames`, `kept`,
            `cluster` and `shot`; rows with `clip_id` null stay null. Rejected clips get the split of their
            neighbours but do not count.
        params: `val_share`, `test_share`, `test_videos`, `seed`.
    """
    split = pandas.Series(None, index=clips.index, dtype=object)
    known = clips[clips["clip_id"].notna()]
    named = are_named(known["video"], params)
    judged = known[named & (known["num_frames"] != 1)]
    split[judged.index] = "test"
    has_named = set(judged.loc[judged["kept"], "group"])
    known = known[~named]
    family = _families(known)
    # A family that is both simulated and real is drawn once, with the real ones. Still pictures have hardly
    # any seconds: they have their shares by themselves. Nothing judges them, so what would be test is train.
    group = known["group"].groupby(family).transform("min")
    still = (known["num_frames"] == 1).groupby(family).transform("all")
    for (name, is_still), members in family.groupby([group, still]):
        drawn = _Wanted(0.0 if name in has_named else params.test_share, params.val_share)
        found = _split_group(known.loc[members.index], members, drawn, params.seed)
        split.update(found.where(found != "test", "train") if is_still else found)
    return split


def are_named(videos: pandas.Series, params: CurateParams) -> pandas.Series:
    """Whether `test_videos` names each of these videos."""
    named = {
        video: any(fnmatchcase(str(video), pattern) for pattern in params.test_videos)
        for video in videos.unique()
    }
    return videos.map(named).astype(bool)


def seconds_of_film(clips: pandas.DataFrame) -> pandas.Series:
    """Seconds of its video that each clip shows and no earlier clip does; their sum counts no frame twice."""
    ordered = clips.sort_values(["video_sha256", "start_s", "end_s"])
    video = ordered["video_sha256"]
    until = ordered["end_s"].groupby(video).cummax().groupby(video).shift()
    begin = np.fmax(ordered["start_s"], until)  # the first of a video has none before it
    return (ordered["end_s"] - begin).clip(lower=0.0).astype(np.float64).reindex(clips.index)


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


def _split_group(clips: pandas.DataFrame, family: pandas.Series, drawn: _Wanted, seed: int) -> pandas.Series:
    """Split of each clip of a group; all are train if otherwise none would be."""
    kept = clips[clips["kept"]]
    if kept.empty:
        return pandas.Series("train", index=clips.index, dtype=object)
    own_s = seconds_of_film(kept)
    clip_s = float((kept["end_s"] - kept["start_s"]).max())
    wanted = _share_out(own_s.groupby(family[kept.index]).sum(), clip_s, drawn, seed)
    whole = {name: shares.whole() for name, shares in wanted.items()}
    split = family.map(whole).astype(object)
    split[~family.isin(list(wanted))] = "train"  # nothing of them is kept
    for name in sorted(name for name, is_whole in whole.items() if is_whole is None):
        rows = clips[family == name]
        split[rows.index] = _split_times(rows, own_s, clip_s, wanted[name])
    if (split[kept.index] == "train").any():
        return split
    return pandas.Series("train", index=clips.index, dtype=object)


def _share_out(seconds: pandas.Series, clip_s: float, drawn: _Wanted, seed: int) -> dict[str, _Wanted]:
    """What each source gives to test and val.

    The longest source is never given whole, so that something is left to train on.

    Args:
        seconds: Of each source.
        clip_s: Length of the longest clip.
        drawn: Shares of them all.
        seed: Of their order.
    """
    lengths = {str(name): float(value) for name, value in seconds.items()}
    total_s, least_s = sum(lengths[name] for name in sorted(lengths)), _LEAST_CLIPS * clip_s
    longest = max(lengths, key=lambda name: (lengths[name], name))
    # The place of one source in the order does not depend on the others.
    order = sorted(lengths, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    sources = [_Source(name, lengths[name], name != longest) for name in order]
    test = _take(sources, drawn.test * total_s, least_s)
    # Sources that test has none of come first: two more cuts in one source lose more clips.
    sources = [
        _Source(name, lengths[name] - test.get(name, 0.0), name != longest and name not in test)
        for name in sorted(order, key=lambda name: name in test)
        if (name != longest and name not in test) or lengths[name] - test.get(name, 0.0) >= 2 * least_s
    ]
    val = _take(sources, drawn.val * total_s, least_s)
    return {
        name: _Wanted(test.get(name, 0.0) / length, val.get(name, 0.0) / length)
        for name, length in lengths.items()
    }


def _take(sources: Sequence[_Source], target_s: float, least_s: float) -> dict[str, float]:
    """Seconds that sources give, in their order, until the target is reached as closely as possible.

    None gives more than a quarter of the target, or what all have to give equally if they are few.
    """
    left = np.array([source.left_s for source in sources])
    cap_s = max(least_s, target_s / _PARTS, _level(left, target_s))
    last = [source for source in sources if not source.may_be_whole and source.left_s <= _WHOLE * cap_s]
    missing_s, taken = target_s, dict[str, float]()
    for source in [*(source for source in sources if source not in last), *last]:
        whole = source.may_be_whole and source.left_s <= _WHOLE * cap_s
        given_s = source.left_s if whole else min(cap_s, source.left_s, missing_s)
        too_much = given_s > 2 * missing_s if whole else given_s < min(least_s, target_s)
        if missing_s <= 0 or (taken and too_much):
            break
        taken[source.name] = given_s
        missing_s -= given_s
    return taken


def _level(left: NDArray[np.float64], target_s: float) -> float:
    """The most that each may give so that together they give the target; 0 if they have less."""
    ordered = np.sort(left)
    before = np.concatenate([[0.0], np.cumsum(ordered)[:-1]])
    levels = (target_s - before) / np.arange(len(left), 0, -1)
    fits = levels <= ordered + _EPSILON_S
    return float(levels[fits.argmax()]) if fits.any() else 0.0


def _split_times(
    clips: pandas.DataFrame, own_s: pandas.Series, clip_s: float, wanted: _Wanted
) -> pandas.Series:
    """Split of each clip of a source that is cut in time; its videos are cut in the same proportions."""
    parts = [_split_video(rows, own_s, clip_s, wanted) for _, rows in clips.groupby("video_sha256")]
    split = pandas.concat(parts).reindex(clips.index)
    rank = split.where(clips["kept"]).map(_RANK)
    latest = rank.groupby(clips["cluster"]).transform("max").map({rank: name for name, rank in _RANK.items()})
    return split.where(latest.isna() | (split == latest), None)


def _split_video(
    clips: pandas.DataFrame, own_s: pandas.Series, clip_s: float, wanted: _Wanted
) -> pandas.Series:
    """Split of each clip of one video; one too short for three splits has no val, then no test."""
    kept = clips[clips["kept"]].sort_values(["start_s", "end_s"])
    if kept.empty:
        return pandas.Series("train", index=clips.index, dtype=object)
    # By its own length alone: other videos, which come and go, move its edges but do not renumber its parts.
    parts = min(_PARTS, max(1, int(own_s[kept.index].sum() / _STRETCH_CLIPS / clip_s)))
    tries = [(parts, wanted), (1, wanted), *([(1, _Wanted(wanted.test, 0.0))] if wanted.test else [])]
    for tried, shares in tries:
        edges, names = _edges(kept, own_s[kept.index].to_numpy(), tried, shares)
        first = np.searchsorted(edges, clips["start_s"] + _EPSILON_S, side="right") - 1
        last = np.searchsorted(edges, clips["end_s"] - _EPSILON_S, side="right") - 1
        found = np.array(names, object)[np.maximum(first, 0)]
        split = pandas.Series(np.where(np.maximum(first, 0) == last, found, None), clips.index, dtype=object)
        if set(names) <= set(split[kept.index]):
            return split
    return pandas.Series("train", index=clips.index, dtype=object)


def _edges(
    kept: pandas.DataFrame, own_s: NDArray[np.float64], parts: int, wanted: _Wanted
) -> tuple[NDArray[np.float64], list[str]]:
    """Times at which a split of one video begins, and the name of each split.

    An edge is where the first clip of the later split begins, so that it keeps its clips; after test or val
    it is where the last of theirs ends.

    Args:
        kept: Clips of the video, in their order.
        own_s: Of each, as `seconds_of_film` counts.
        parts: Stretches to cut the video into, each with all splits.
        wanted: Shares of the video.
    """
    starts_s, ends_s = kept["start_s"].to_numpy(np.float64), kept["end_s"].to_numpy(np.float64)
    until_s = np.maximum.accumulate(ends_s)
    # Where each clip begins, and the video ends, in seconds of film from the first kept clip on.
    place_s = np.append(np.cumsum(own_s) - (ends_s - starts_s), own_s.sum())
    scenes = np.append(np.flatnonzero(_begins_scene(kept["shot"])), len(kept))
    stretch_s = own_s.sum() / parts
    held_out = {name: getattr(wanted, name) * stretch_s for name in ("val", "test")}
    held_out = {name: length_s for name, length_s in held_out.items() if length_s > 0}
    edges, names = [-np.inf], ["train"]
    for part in range(parts):
        stretch = part * stretch_s, (part + 1) * stretch_s
        cuts = _between_scenes(place_s, scenes, stretch, list(held_out.values()))
        for name, number in zip(held_out, cuts, strict=False):
            edges.append(starts_s[min(number, len(kept) - 1)])
            names.append(name)
        if cuts[-1] < len(kept):
            edges.append(max(until_s[cuts[-1] - 1], edges[-1]))
            names.append("train")
    return np.maximum.accumulate(edges), names


def _between_scenes(
    place_s: NDArray[np.float64],
    scenes: NDArray[np.intp],
    stretch: tuple[float, float],
    lengths_s: Sequence[float],
) -> list[int]:
    """Numbers of the clips that begin each part and what follows the last, the parts one after the other.

    All are at the beginnings of scenes if some of the stretch make parts of about these lengths, and of those
    the ones whose lengths are best; else the parts are at its end.
    """
    plain_s = stretch[1] - sum(lengths_s)
    inside = scenes[(place_s[scenes] > stretch[0]) & (place_s[scenes] <= stretch[1] + min(lengths_s) / 2)]
    if len(inside) > len(lengths_s):
        places = np.maximum.accumulate(place_s[inside])
        # All beginnings at once: of each what follows, and how far its parts are from their lengths.
        steps, off_s = [np.arange(len(inside))], 0.1 * np.abs(places - plain_s)
        for length_s in lengths_s:
            steps.append(_nearest(places, places[steps[-1]] + length_s))
            away_s = np.abs(places[steps[-1]] - places[steps[-2]] - length_s)
            off_s += np.where(away_s <= length_s / 4, away_s, np.inf)
        best = int(off_s.argmin())
        if np.isfinite(off_s[best]):
            return [int(inside[step[best]]) for step in steps]
    marks_s = stretch[1] - np.cumsum([0.0, *reversed(lengths_s)])[::-1]
    cuts = [int(np.abs(place_s[:-1] - mark_s).argmin()) for mark_s in marks_s]
    return cuts if stretch[1] < place_s[-1] - _EPSILON_S else [*cuts[:-1], len(place_s) - 1]


def _begins_scene(shots: pandas.Series) -> NDArray[np.bool_]:
    """Which clips begin a scene: no shot goes on, or comes back, from before them."""
    numbers = pandas.Series(np.arange(len(shots)))
    until = numbers.groupby(pandas.factorize(shots)[0]).transform("max").cummax().shift(fill_value=-1)
    return (numbers > until).to_numpy()


def _nearest(places: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.intp]:
    """Number of the nearest of some sorted places, two or more, to each of those wanted."""
    after = np.clip(np.searchsorted(places, wanted), 1, len(places) - 1)
    return after - (wanted - places[after - 1] <= places[after] - wanted)

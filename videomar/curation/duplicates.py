"""Near-duplicates: a perceptual fingerprint of each clip, and clusters of equal or nearly equal clips.

A fingerprint is 168 bytes: 64 bits of the coarse pattern of light and dark (a DCT) of the first, middle and
last frame, then the same frames as 4 x 4 colours. The pattern finds the neighbours fast; the colours tell a
red body from a blue one at the same place.

Axes: F frames, H W rows and columns in pixels, n clips, m pairs of clips.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from videomar.config import CurateParams

if TYPE_CHECKING:
    import pandas

_PATTERN_PX = 32  # side of the picture that the DCT sees
_PATTERN_BITS = 3 * 64
_PATTERN_BYTES = _PATTERN_BITS // 8
_COLOUR_PX = 4
FINGERPRINT_BYTES = _PATTERN_BYTES + 3 * _COLOUR_PX * _COLOUR_PX * 3
_SHOT_BITS, _SHOT_COLOUR = 16, 8
"""Two frames of one camera position differ in at most so many of 64 bits, and by so much in the mean of their
colours, of 255. In "Big Buck Bunny" these join the shots that alternate; of simulated clips, 0.2 %."""
_SHOTS_LATER, _SHOT_GAP_S = 16, 60.0
_BLOCK = 2048  # clips of one bucket compared at once with as many others


def fingerprint(clip: NDArray[np.uint8]) -> bytes:
    """Return the fingerprint of a clip (F, H, W, 3), 168 bytes; nearly equal clips differ in few bits."""
    shown = clip[[0, len(clip) // 2, -1]]
    colours = [cv2.resize(frame, (_COLOUR_PX, _COLOUR_PX), interpolation=cv2.INTER_AREA) for frame in shown]
    return np.packbits(np.stack([_pattern(frame) for frame in shown])).tobytes() + np.stack(colours).tobytes()


def find_clusters(clips: "pandas.DataFrame", params: CurateParams) -> "pandas.Series":
    """Return the cluster of each row, named by its first `clip_id`; null where there is no fingerprint.

    Two clips of *different* videos are joined if their fingerprints differ in at most `max_duplicate_bits` of
    192 bits and no colour in more than `max_duplicate_colour`; a cluster is a connected component. Clips of
    one video, where neighbours overlap and are alike, are joined only if equal, or through another's clip.

    Args:
        clips: Columns `clip_id`, `video_sha256`, `fingerprint`.
        params: The two limits.
    """
    # Imported here: the processes that read videos compute fingerprints, and need neither.
    import pandas
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    known = clips[clips["fingerprint"].notna()]
    names = known["clip_id"].to_numpy(object)
    videos = pandas.factorize(known["video_sha256"])[0]
    marks = np.frombuffer(b"".join(known["fingerprint"]), np.uint8).reshape(len(known), FINGERPRINT_BYTES)
    # Equal fingerprints are compared once: thousands of copies would be millions of pairs.
    looks, look_of = np.unique(marks, axis=0, return_inverse=True)
    owners = pandas.Series(videos).groupby(look_of).agg(["min", "max"]).to_numpy(np.int64).reshape(-1, 2)
    shared = owners[:, 0] != owners[:, 1]
    owner = np.where(shared, -1 - np.arange(len(looks)), owners[:, 0])
    pairs = np.concatenate([np.empty((0, 2), np.int64), *_near_pairs(looks, owner, params)])
    links = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(len(looks),) * 2)
    labels = connected_components(links, directed=False)[1][look_of] if len(known) else look_of
    first = pandas.Series(names).groupby(labels).transform("min")
    return pandas.Series(first.to_numpy(object), index=known.index, dtype=object).reindex(clips.index)


def join_shots(clips: "pandas.DataFrame") -> "pandas.Series":
    """Return the shot of each row, named by the first `clip_id` of its clips; null for rows without one.

    Shots of one video are one where a later one begins or ends with a frame that looks like one at the ends
    of the former, as when a film cuts back and forth, or where both hold clips of one cluster. The
    16 next shots within a minute are compared.

    Args:
        clips: Columns `clip_id`, `video_sha256`, `start_s`, `end_s`, `shot_s`, `fingerprint`, `cluster`.
    """
    import pandas
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    known = clips[clips["clip_id"].notna()].sort_values(["video_sha256", "start_s", "end_s"])
    begin_s = known["shot_s"].astype(np.float64).fillna(known["start_s"])
    shot = known.groupby([known["video_sha256"], begin_s], sort=False).ngroup().to_numpy()
    links = [_alike_shots(known, shot)]
    clustered = known["cluster"].notna().to_numpy()
    first_of = pandas.Series(shot[clustered]).groupby(
        [known["video_sha256"].to_numpy()[clustered], known["cluster"].to_numpy()[clustered]]
    )
    links.append(np.stack([shot[clustered], first_of.transform("first").to_numpy(np.int64)], axis=1))
    pairs = np.concatenate(links)
    size = int(shot.max(initial=-1)) + 1
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(size, size))
    labels = connected_components(graph, directed=False)[1][shot] if size else shot
    first = known["clip_id"].groupby(labels).transform("first")
    return first.astype(object).reindex(clips.index)


def _alike_shots(clips: "pandas.DataFrame", shot: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs (m, 2) of numbers of shots of one video that look alike at one of their ends.

    Args:
        clips: In the order of their videos and times.
        shot: Number of the shot of each.
    """
    import pandas

    seen = clips["fingerprint"].notna().to_numpy()
    rows = pandas.DataFrame(
        {
            "shot": shot[seen],
            "video": pandas.factorize(clips["video_sha256"])[0][seen],
            "start_s": clips["start_s"].to_numpy(np.float64)[seen],
            "end_s": clips["end_s"].to_numpy(np.float64)[seen],
            "row": np.arange(seen.sum()),
        }
    )
    shots = rows.groupby("shot", sort=False).agg(
        video=("video", "first"), start_s=("start_s", "min"), end_s=("end_s", "max"),
        first=("row", "first"), last=("row", "last"),
    ).reset_index()  # fmt: skip
    marks = np.frombuffer(b"".join(clips["fingerprint"][seen]), np.uint8).reshape(-1, FINGERPRINT_BYTES)
    words = np.ascontiguousarray(marks[:, :_PATTERN_BYTES]).view(np.uint64)
    colours = marks[:, _PATTERN_BYTES:].reshape(len(marks), 3, _COLOUR_PX * _COLOUR_PX * 3)
    # Of each shot the first frame of its first clip, and the last one of its last.
    ends = [(shots["first"].to_numpy(), 0), (shots["last"].to_numpy(), 2)]
    video, start_s, end_s = (shots[name].to_numpy() for name in ("video", "start_s", "end_s"))
    pairs = [np.empty((0, 2), np.int64)]
    for later in range(1, min(_SHOTS_LATER, len(shots) - 1) + 1):
        one = np.arange(len(shots) - later)
        one = one[(video[one] == video[one + later]) & (start_s[one + later] - end_s[one] <= _SHOT_GAP_S)]
        alike = np.zeros(len(one), bool)
        for row, frame in ends:
            for other_row, other_frame in ends:
                left, right = row[one], other_row[one + later]
                bits = np.bitwise_count(words[left, frame] ^ words[right, other_frame])
                near = np.flatnonzero((bits <= _SHOT_BITS) & ~alike)
                one_colour = colours[left[near], frame].astype(np.int16)
                apart = np.abs(one_colour - colours[right[near], other_frame]).mean(axis=1)
                alike[near] = apart <= _SHOT_COLOUR
        numbers = shots["shot"].to_numpy(np.int64)
        pairs.append(np.stack([numbers[one[alike]], numbers[one[alike] + later]], axis=1))
    return np.concatenate(pairs)


def _pattern(frame: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which of the 64 slowest waves in the luma of a frame are above their median."""
    luma = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    waves = cv2.dct(cv2.resize(luma, (_PATTERN_PX, _PATTERN_PX), interpolation=cv2.INTER_AREA))[:8, :8]
    # Without the first wave, the mean: by far the largest, it would only move the median.
    return waves.ravel() > np.median(waves.ravel()[1:])


def _near_pairs(
    marks: NDArray[np.uint8], videos: NDArray[np.intp], params: CurateParams
) -> Iterator[NDArray[np.int64]]:
    """Yield pairs (m, 2) of clips of different videos within the limits; a pair may come more than once.

    Two patterns of k + 1 bands that differ in at most k bits are equal in at least one band, so only clips
    that share a band are compared.
    """
    bits = np.unpackbits(marks[:, :_PATTERN_BYTES], axis=1)
    words = np.ascontiguousarray(marks[:, :_PATTERN_BYTES]).view(np.uint64)
    colours = marks[:, _PATTERN_BYTES:].astype(np.int16)
    num_bands = params.max_duplicate_bits + 1
    for band in range(num_bands):
        # Every k-th bit, because neighbours are alike: a run of bits would put half the clips in one bucket.
        keys = np.packbits(bits[:, band::num_bands], axis=1)
        for bucket in _buckets(keys):
            for first, second in _block_pairs(bucket):
                left, right = np.nonzero(videos[first][:, None] < videos[second][None, :])
                one, other = first[left], second[right]
                near = np.bitwise_count(words[one] ^ words[other]).sum(axis=1) <= params.max_duplicate_bits
                one, other = one[near], other[near]
                same = np.abs(colours[one] - colours[other]).max(axis=1, initial=0)
                chosen = same <= params.max_duplicate_colour
                yield np.stack([one[chosen], other[chosen]], axis=1)


def _buckets(keys: NDArray[np.uint8]) -> Iterator[NDArray[np.intp]]:
    """Yield the indices of equal rows of `keys`, for every row that occurs more than once."""
    packed = np.ascontiguousarray(keys).view(np.dtype((np.void, keys.shape[1]))).ravel()
    order = np.argsort(packed, kind="stable")
    edges = np.flatnonzero(np.r_[True, packed[order][1:] != packed[order][:-1], True])
    for start, end in pairwise(edges):
        if end - start > 1:
            yield order[start:end]


def _block_pairs(bucket: NDArray[np.intp]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield all pairs of blocks of a bucket, so that a large one is compared in bounded memory."""
    blocks = [bucket[start : start + _BLOCK] for start in range(0, len(bucket), _BLOCK)]
    for first in blocks:
        for second in blocks:
            yield first, second

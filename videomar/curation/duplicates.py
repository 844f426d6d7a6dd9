"""Near-duplicates: a perceptual fingerprint of each clip, and clusters of equal or nearly equal clips.

A fingerprint is 168 bytes: 64 bits of the coarse pattern of light and dark (a DCT) of the first, middle and
last frame, then the same frames as 4 x 4 colours. The pattern finds the neighbours fast; the colours tell a
red body from a blue one at the same place.

Axes: F frames, H W rows and columns in pixels, n clips, m pairs of clips.
"""

from collections.abc import Iterator
from itertools import pairwise

import cv2
import numpy as np
import pandas
from numpy.typing import NDArray

from videomar.config import CurateParams

_PATTERN_PX = 32  # side of the picture that the DCT sees
_PATTERN_BITS = 3 * 64
_PATTERN_BYTES = _PATTERN_BITS // 8
_COLOUR_PX = 4
FINGERPRINT_BYTES = _PATTERN_BYTES + 3 * _COLOUR_PX * _COLOUR_PX * 3
_BLOCK = 2048  # clips of one bucket compared at once with as many others


def fingerprint(clip: NDArray[np.uint8]) -> bytes:
    """Return the fingerprint of a clip (F, H, W, 3), 168 bytes; nearly equal clips differ in few bits."""
    shown = clip[[0, len(clip) // 2, -1]]
    colours = [cv2.resize(frame, (_COLOUR_PX, _COLOUR_PX), interpolation=cv2.INTER_AREA) for frame in shown]
    return np.packbits(np.stack([_pattern(frame) for frame in shown])).tobytes() + np.stack(colours).tobytes()


def find_clusters(clips: pandas.DataFrame, params: CurateParams) -> pandas.Series:
    """Return the cluster of each row, named by its first `clip_id`; null where there is no fingerprint.

    Two clips of *different* videos are joined if their fingerprints differ in at most `max_duplicate_bits` of
    192 bits and no colour in more than `max_duplicate_colour`; a cluster is a connected component. Clips of
    one video, where neighbours overlap and are alike, are joined only if equal, or through another's clip.

    Args:
        clips: Columns `clip_id`, `video_sha256`, `fingerprint`.
        params: The two limits.
    """
    # Imported here: the processes that read videos compute fingerprints, and need no scipy.
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

"""Which clips make the batch of a step when clips come in several shapes. Pure.

A bucket holds the clips of one shape; every batch comes from one bucket. Buckets take turns in cycles: in a
cycle each has as many batches as show all its clips, in an order drawn anew for every cycle. A bucket smaller
than a batch fills its batch by repeating its clips.

Axes: B batch, C channels, T latent frames, H W latent rows and columns.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]


class Bucket(NamedTuple):
    """Numbers of the clips of one latent shape (C, T, H, W)."""

    shape: tuple[int, ...]
    simulated: Index
    real: Index


class Rota:
    """The batches of all steps. Remembers the buckets and the part of each in a cycle; has no position.

    Where both kinds of clips are there, `simulated_share` holds over a cycle, not in each bucket: a bucket's
    part follows from its clips of either kind, and so does the share of simulated clips in its batches.
    """

    def __init__(self, buckets: Sequence[Bucket], batch_size: int, simulated_share: float, seed: int) -> None:
        self.seed, self.batch_size = seed, batch_size
        sizes = np.array([[len(bucket.simulated), len(bucket.real)] for bucket in buckets])
        totals = sizes.sum(0)
        shares = np.array([simulated_share, 1 - simulated_share]) if totals.all() else np.sign(totals)
        parts = sizes / np.maximum(totals, 1)
        # Batches that show every clip of both kinds once.
        epoch = float((totals / np.maximum(shares, 1e-9) / batch_size)[shares > 0].max())
        self.picks: list[list[tuple[Index, int]]] = []
        repeats = []
        for bucket, part in zip(buckets, parts, strict=True):
            counts = _counts(part, shares, batch_size)
            members = [(index, count) for index, count in zip(bucket[1:], counts, strict=True) if len(index)]
            weight = float(part @ shares)
            needed = [-(-len(index) // count) for index, count in members if count]
            needed.append(math.ceil(weight * epoch - 1e-6))
            self.picks.append(members)
            repeats.append(max(needed) if weight else 0)
        self.repeats = tuple(repeats)

    def index_at(self, step: int) -> Index:
        """Clips of the global batch of a step, (B,).

        Each kind of a bucket is walked through in a new random order every time it has been seen completely.
        """
        cycle, place = divmod(step, sum(self.repeats))
        order, before = _order(self.repeats, self.seed, cycle)
        bucket = int(order[place])
        turn = cycle * self.repeats[bucket] + int(before[place])
        picked = [
            index[_walk(len(index), turn * count, count, self.seed + kind)]
            for kind, (index, count) in enumerate(self.picks[bucket])
        ]
        # Dealt out like cards, so that every worker's part holds both kinds.
        return np.concatenate(picked)[np.random.default_rng([self.seed, step]).permutation(self.batch_size)]


def find_buckets(
    shapes: Sequence[tuple[int, ...]], simulated: NDArray[np.bool_], chosen: Index
) -> list[Bucket]:
    """The chosen clips by their shape, in the order of the shapes."""
    members: dict[tuple[int, ...], list[int]] = {}
    for number in chosen.tolist():
        members.setdefault(shapes[number], []).append(number)
    buckets = []
    for shape in sorted(members):
        numbers = np.array(members[shape], np.int64)
        buckets.append(Bucket(shape, numbers[simulated[numbers]], numbers[~simulated[numbers]]))
    return buckets


def _counts(part: NDArray[np.float64], shares: NDArray[np.float64], batch_size: int) -> tuple[int, int]:
    """Simulated and real clips in a batch of a bucket that holds those parts of all simulated and all real.

    Of a kind that is wanted and there, at least one, or it would be lost.
    """
    weights = part * shares
    # A bucket with equal parts, such as an only one, has the share as it is written, unrounded.
    share = shares[0] if part[0] == part[1] else weights[0] / max(weights.sum(), 1e-300)
    simulated = round(batch_size * float(share))
    if weights.all() and batch_size > 1:
        simulated = min(max(simulated, 1), batch_size - 1)
    return simulated, batch_size - simulated


@lru_cache(maxsize=2)
def _order(repeats: tuple[int, ...], seed: int, cycle: int) -> tuple[Index, Index]:
    """The buckets of a cycle in their order, and how often each was there before in it."""
    order = np.repeat(np.arange(len(repeats)), repeats)
    if len(repeats) > 1:
        order = np.random.default_rng([seed, cycle, len(repeats)]).permutation(order)
    before = np.zeros_like(order)
    for bucket, count in enumerate(repeats):
        before[order == bucket] = np.arange(count)
    return order, before


def _walk(size: int, start: int, count: int, seed: int) -> Index:
    """Places `start` to `start + count` of an endless walk that takes each of `size` items once an epoch."""
    places = np.arange(start, start + count)
    return np.array([_epoch(seed, place // size, size)[place % size] for place in places.tolist()], np.int64)


@lru_cache(maxsize=8)  # both kinds, on both sides of an epoch's end, in two buckets; a million clips: 64 MB
def _epoch(seed: int, epoch: int, size: int) -> Index:
    """The order of an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(size)

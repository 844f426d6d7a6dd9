"""Which clips make the batch of a step when clips have several shapes. Pure.

A bucket contains the clips of one shape, and every batch comes from one bucket. Batches are planned in
cycles. A cycle has as many batches of each bucket as show all of its clips, in a random order that is drawn
again for every cycle. For buckets a, b, c with 3, 2 and 1 batches a cycle:

    step     0 1 2 3 4 5 | 6 7 8 9 10 11 | ...
    bucket   b a a c a b | a c b a  b  a | ...      the order within a cycle: random, by (seed, cycle)
    batch n  0 0 1 0 2 1 | 3 1 2 4  3  5 | ...      counted within its bucket

Batch n of a bucket takes the clips n * count to (n + 1) * count of an endless walk through the bucket, which
is shuffled again in each epoch; simulated and real clips have a walk and a count each.

All of this is a function of (seed, step): a resumed run needs no state, and any step can be computed alone. A
bucket with fewer clips than a batch repeats its clips within the batch.

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


class BatchSchedule:
    """The batches of all steps. Remembers the buckets and their batches in a cycle; has no position.

    With both kinds of clips, `simulated_share` holds over a cycle, not in each bucket. A bucket's weight is
    the share of clips drawn from it, so that every clip of a kind is drawn equally often; the share of
    simulated clips in its batches follows.
    """

    def __init__(self, buckets: Sequence[Bucket], batch_size: int, simulated_share: float, seed: int) -> None:
        self.seed, self.batch_size = seed, batch_size
        sizes = np.array([[len(bucket.simulated), len(bucket.real)] for bucket in buckets])
        totals = sizes.sum(0)
        shares = np.array([simulated_share, 1 - simulated_share]) if totals.all() else np.sign(totals)
        parts = sizes / np.maximum(totals, 1)  # (buckets, 2): of all simulated and of all real clips
        # Batches, of any bucket, until every clip of both kinds has been drawn once: the kind that has more
        # clips for its share decides, and the other one is seen more often.
        epoch = float((totals / np.maximum(shares, 1e-9) / batch_size)[shares > 0].max())
        self.picks: list[list[tuple[Index, int]]] = []
        repeats = []
        for bucket, part in zip(buckets, parts, strict=True):
            counts = _counts(part, shares, batch_size)
            members = [(index, count) for index, count in zip(bucket[1:], counts, strict=True) if len(index)]
            weight = float(part @ shares)
            # Enough batches for every clip of the bucket, and for the bucket's weight.
            needed = [-(-len(index) // count) for index, count in members if count]
            needed.append(math.ceil(weight * epoch - 1e-6))
            self.picks.append(members)
            repeats.append(max(needed) if weight else 0)
        self.repeats = tuple(repeats)

    def index_at(self, step: int) -> Index:
        """Return the clips of the global batch of a step, (B,).

        The clips of a kind in a bucket are shuffled again every time all of them have been seen.
        """
        cycle, position = divmod(step, sum(self.repeats))
        order, before = _order(self.repeats, self.seed, cycle)
        bucket = int(order[position])
        batch = cycle * self.repeats[bucket] + int(before[position])
        picked = [
            index[_walk(len(index), batch * count, count, self.seed + kind)]
            for kind, (index, count) in enumerate(self.picks[bucket])
        ]
        # Mixed, so that the part of every worker has both kinds.
        return np.concatenate(picked)[np.random.default_rng([self.seed, step]).permutation(self.batch_size)]


def find_buckets(
    shapes: Sequence[tuple[int, ...]], simulated: NDArray[np.bool_], chosen: Index
) -> list[Bucket]:
    """Group the chosen clips by shape, in the order of the shapes."""
    members: dict[tuple[int, ...], list[int]] = {}
    for number in chosen.tolist():
        members.setdefault(shapes[number], []).append(number)
    buckets = []
    for shape in sorted(members):
        numbers = np.array(members[shape], np.int64)
        buckets.append(Bucket(shape, numbers[simulated[numbers]], numbers[~simulated[numbers]]))
    return buckets


def _counts(part: NDArray[np.float64], shares: NDArray[np.float64], batch_size: int) -> tuple[int, int]:
    """Return the number of simulated and of real clips in a batch of a bucket.

    At least one of each kind that the bucket has and that has a share: with 0.4 clips a batch rounded to 0,
    those clips would never be seen.

    Args:
        part: of all simulated and of all real clips, the parts that are in the bucket.
        shares: of simulated and real clips in a cycle.
        batch_size: clips in a batch.
    """
    weights = part * shares
    # With equal parts, as in a single bucket, the share is exact: no rounding error of the division.
    share = shares[0] if part[0] == part[1] else weights[0] / max(weights.sum(), 1e-300)
    simulated = round(batch_size * float(share))
    if weights.all() and batch_size > 1:
        simulated = min(max(simulated, 1), batch_size - 1)
    return simulated, batch_size - simulated


@lru_cache(maxsize=2)
def _order(repeats: tuple[int, ...], seed: int, cycle: int) -> tuple[Index, Index]:
    """Return the bucket of each step of a cycle, and the number of its earlier batches in the cycle."""
    order = np.repeat(np.arange(len(repeats)), repeats)
    if len(repeats) > 1:
        order = np.random.default_rng([seed, cycle, len(repeats)]).permutation(order)
    before = np.zeros_like(order)
    for bucket, count in enumerate(repeats):
        before[order == bucket] = np.arange(count)
    return order, before


def _walk(size: int, start: int, count: int, seed: int) -> Index:
    """Return items `start` to `start + count` of an endless walk that shuffles `size` items every epoch."""
    items = [_epoch(seed, number // size, size)[number % size] for number in range(start, start + count)]
    return np.array(items, np.int64)


@lru_cache(maxsize=8)  # two buckets of two kinds, before and after an epoch ends; a million clips: 64 MB
def _epoch(seed: int, epoch: int, size: int) -> Index:
    """Return the order of the items in an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(size)

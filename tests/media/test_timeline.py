"""The laws of times, whatever a container says: over random streams."""

import math
import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from videomar.media.timeline import Clock, FrameCounts, Placed, Stamp, Timeline, lay_out

TICK = Fraction(1, 90_000)
STEP = 3750  # ticks: 24 frames a second
CLOCK = Clock(tick=TICK, step_s=1 / 24)
JOINED = Clock(tick=TICK, step_s=1 / 24, may_restart=True)
RATE = 24


def stream(shown: Sequence[int], reorder: int, seed: int) -> tuple[list[Stamp], list[int]]:
    """Packets of frames that are on show from these times on, and the packet of each frame.

    Groups of up to `reorder` + 1 frames are stored last frame first, as P before its B-frames.
    """
    generator = random.Random(seed)
    decoded: list[int] = []
    while len(decoded) < len(shown):
        group = list(range(len(decoded), min(len(shown), len(decoded) + generator.randint(1, reorder + 1))))
        decoded += [group[-1], *group[:-1]]
    ordered = sorted(shown)
    slots = [ordered[0] - early * STEP for early in range(reorder, 0, -1)] + ordered
    packets = [
        Stamp(shown[frame], slots[place], STEP, is_key=place == 0) for place, frame in enumerate(decoded)
    ]
    place_of = {frame: place for place, frame in enumerate(decoded)}
    return packets, [place_of[frame] for frame in range(len(shown))]


def uneven(num_frames: int, seed: int, first: int = 0) -> list[int]:
    """Times with steps from a millisecond to two seconds."""
    steps = np.random.default_rng(seed).choice([90, STEP, STEP, 3003, 9000, 180_000], num_frames)
    return [first + int(time) for time in np.cumsum(steps)]


def times_of(places: Sequence[Placed]) -> list[float]:
    return [place.time_s for place in places]


def cuts_of(places: Sequence[Placed]) -> list[int]:
    return [index for index, place in enumerate(places) if place.is_cut]


@pytest.mark.parametrize("seed", range(20))
def test_every_frame_has_a_time_that_rises_from_0_whatever_the_container_says(seed: int) -> None:
    generator = random.Random(seed)
    wild = [None, 0, 1, STEP, -STEP, 2**33, -(2**40), *range(0, 40 * STEP, STEP)]
    count = generator.randint(1, 200)
    packets = [
        Stamp(generator.choice(wild), generator.choice(wild), generator.choice([0, 1, STEP, 2**40]))
        for _ in range(count)
    ]
    order = generator.sample(range(count), generator.randint(1, count))
    clock = generator.choice([CLOCK, JOINED, Clock(tick=Fraction(1, 24), step_s=1 / 24, has_times=False)])
    places, counts = lay_out(packets, order, clock)
    assert len(places) == len(order)
    assert places[0] == Placed(0.0, False)
    assert all(after > before for before, after in pairwise(times_of(places)))
    assert 0 <= counts.retimed <= len(order)
    assert 0 <= counts.lost <= count - len(order)
    assert counts.invented == 0


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("first", [0, -12_345, 2**33])
@pytest.mark.parametrize("reorder", [0, 2, 16])
def test_times_that_rise_stay_as_they_are(seed: int, first: int, reorder: int) -> None:
    shown = uneven(300, seed, first)
    packets, order = stream(shown, reorder, seed)
    places, counts = lay_out(packets, order, CLOCK)
    assert times_of(places) == [float(time) / 90_000 - float(shown[0]) / 90_000 for time in shown]
    assert not cuts_of(places)
    assert counts == FrameCounts()


@pytest.mark.parametrize("seed", range(10))
def test_permuted_times_are_sorted(seed: int) -> None:
    """As in AVI: each packet has the time of its place in the file."""
    packets, order = stream([index * STEP for index in range(200)], 4, seed)
    by_place = [stamp._replace(pts=place * STEP) for place, stamp in enumerate(packets)]
    places, counts = lay_out(by_place, order, CLOCK)
    np.testing.assert_allclose(times_of(places), np.arange(200) / RATE, atol=1e-9)
    assert not cuts_of(places)
    assert counts.retimed == sum(place != frame for frame, place in enumerate(order))
    assert counts.lost == counts.invented == 0


@pytest.mark.parametrize("clock", [CLOCK, JOINED, Clock(tick=TICK, step_s=1 / 24, has_times=False)])
def test_frames_without_times_come_one_step_after_another(clock: Clock) -> None:
    packets = [Stamp(None, None, STEP)] * 100
    places, counts = lay_out(packets, range(100), clock)
    np.testing.assert_allclose(times_of(places), np.arange(100) / RATE, atol=1e-9)
    assert counts == FrameCounts(retimed=100)


def test_frames_that_lack_a_time_among_others_come_between_them() -> None:
    """As in an MPEG program stream, which has a time for some frames."""
    packets = [Stamp(index * STEP if index % 12 == 0 else None, None, 0) for index in range(120)]
    places, counts = lay_out(packets, range(120), CLOCK)
    np.testing.assert_allclose(times_of(places), np.arange(120) / RATE, atol=1e-3)
    assert counts == FrameCounts(retimed=110)


@pytest.mark.parametrize("repeats", [2, 3, 24, 100])
@pytest.mark.parametrize("tick", [0, 1])
def test_repeated_times_share_the_span_to_the_next(repeats: int, tick: int) -> None:
    """Or differ by a tick, where a muxer may not write the same time twice."""
    packets = [
        Stamp((index - index % repeats) * STEP + index % repeats * tick, None, 0) for index in range(300)
    ]
    places, counts = lay_out(packets, range(300), CLOCK)
    np.testing.assert_allclose(times_of(places), np.arange(300) / RATE, atol=2e-3)
    assert counts.retimed == 300 - math.ceil(300 / repeats)
    assert not cuts_of(places)


JUMPS: list[Callable[[int], int]] = [
    lambda time: time + 3600 * 90_000,
    lambda time: time + 22 * 3600 * 90_000,
    lambda time: time - 100 * STEP,
    lambda time: time - 3600 * 90_000,
]


@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("reorder", [0, 3])
@pytest.mark.parametrize("clock", [CLOCK, JOINED])
def test_jump_is_one_cut_and_takes_no_time(jump: Callable[[int], int], reorder: int, clock: Clock) -> None:
    first, order = stream([index * STEP for index in range(100)], reorder, 0)
    second, order_2 = stream([jump(index * STEP) for index in range(100, 200)], reorder, 1)
    third, order_3 = stream([jump(jump(index * STEP)) for index in range(200, 240)], reorder, 2)
    packets = first + second + third
    frames = order + [100 + place for place in order_2] + [200 + place for place in order_3]
    places, counts = lay_out(packets, frames, clock)
    np.testing.assert_allclose(times_of(places), np.arange(240) / RATE, atol=1e-6)
    assert cuts_of(places) == [100, 200]
    assert counts == FrameCounts(retimed=140)


def test_long_hold_is_a_jump_only_in_streams_that_may_be_joined() -> None:
    shown = [index * STEP + (60 * 90_000 if index >= 50 else 0) for index in range(100)]
    packets, order = stream(shown, 0, 0)
    places, counts = lay_out(packets, order, CLOCK)
    assert places[50].time_s == pytest.approx(60 + 50 / RATE)
    assert not cuts_of(places)
    assert counts == FrameCounts()
    places, counts = lay_out(packets, order, JOINED)
    assert places[50].time_s == pytest.approx(50 / RATE)
    assert cuts_of(places) == [50]
    assert counts == FrameCounts(retimed=50)


def test_slow_stream_has_no_jumps() -> None:
    """Steps of 15 seconds: a time lapse. One of a minute is a hold, one of a day a jump."""
    shown = [index * 15 * 90_000 for index in range(100)]
    slow = Clock(tick=TICK, step_s=15.0, may_restart=True)
    places, _ = lay_out(*stream(shown, 0, 0), slow)
    assert times_of(places) == [15.0 * index for index in range(100)]
    longer = [
        time + (index >= 40) * 60 * 90_000 + (index >= 70) * 86_400 * 90_000
        for index, time in enumerate(shown)
    ]
    places, _ = lay_out(*stream(longer, 0, 0), slow)
    assert cuts_of(places) == [70]
    assert places[70].time_s == 70 * 15.0 + 60


def test_one_wrong_time_is_no_new_part() -> None:
    packets, order = stream([index * STEP for index in range(100)], 0, 0)
    packets[50] = packets[50]._replace(pts=45 * STEP + 9, dts=45 * STEP + 9)
    places, counts = lay_out(packets, order, CLOCK)
    assert not cuts_of(places)
    assert abs(times_of(places)[99] - 99 / RATE) < 1e-9
    assert counts.retimed <= 6


@pytest.mark.parametrize("seed", range(5))
def test_packets_without_a_frame_are_lost_where_their_place_stays_empty(seed: int) -> None:
    packets, order = stream([index * STEP for index in range(200)], 3, seed)
    missing = {0, 1, 50, 120, 121, 199}
    places, counts = lay_out(
        packets, [place for frame, place in enumerate(order) if frame not in missing], CLOCK
    )
    assert counts == FrameCounts(lost=len(missing))
    assert len(places) == 194
    # A hidden reference, the second field of a frame, a place holder, a frame before an edit list begins.
    others = [Stamp(100 * STEP + 90, None), Stamp(None, None), Stamp(50 * STEP, None, size=7)]
    others += [Stamp(-STEP, None, is_hidden=True)]
    _, counts = lay_out(
        [*packets, *others], [place for frame, place in enumerate(order) if frame != 50], CLOCK
    )
    assert counts == FrameCounts(lost=1)


def test_frames_without_a_packet_are_invented() -> None:
    packets, order = stream([index * STEP for index in range(10)], 0, 0)
    places, counts = lay_out(packets, [*order[:5], 4, *order[5:]], CLOCK)
    assert len(places) == 11
    assert counts.invented == 1


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("kind", "most"), [("in order", 12), ("permuted", 24), ("some lost", 24)])
def test_places_come_soon_and_do_not_change(seed: int, kind: str, most: int) -> None:
    """Frame by frame as at once, and at most as many frames later as a decoder may reorder."""
    packets, order = stream(uneven(300, seed), 5, seed)
    if kind == "permuted":
        packets = [stamp._replace(pts=stamp.dts) for stamp in packets]
    if kind == "some lost":
        order = [number for number in order if number % 40 != 39]
    timeline = Timeline(CLOCK)
    soon: list[Placed] = []
    sent = 0
    for count, number in enumerate(order, 1):
        while sent <= number:
            assert timeline.sent(packets[sent]) == sent
            sent += 1
        soon += timeline.shown(number, packets[number].pts)
        assert count - len(soon) <= most
    soon += timeline.finish()
    assert (soon, timeline.counts) == lay_out(packets, order, CLOCK)


@pytest.mark.parametrize("count", [12, 20])
def test_times_that_a_muxer_pushed_on_by_ticks_become_steps(count: int) -> None:
    """Where a clock fell, and the copy must not: a second of film had the length of one frame."""
    pushed = [100 * STEP + index for index in range(count)]
    packets = [Stamp(time, None, 0) for time in [*range(0, 100 * STEP, STEP), *pushed]]
    packets += [Stamp((101 + index) * STEP, None, 0) for index in range(30)]
    places, _ = lay_out(packets, range(len(packets)), CLOCK)
    np.testing.assert_allclose(np.diff(times_of(places)), 1 / RATE, atol=1e-3)
    assert cuts_of(places) == [100, 100 + count]


@pytest.mark.parametrize("count", [1, 5, 20])
def test_frames_without_a_time_at_the_beginning_come_before_the_first_that_has_one(count: int) -> None:
    packets = [Stamp(None, None, STEP)] * count + [Stamp(index * STEP, None, STEP) for index in range(40)]
    places, counts = lay_out(packets, range(len(packets)), CLOCK)
    np.testing.assert_allclose(times_of(places), np.arange(count + 40) / RATE, atol=1e-9)
    assert cuts_of(places) == []
    assert counts.retimed == count

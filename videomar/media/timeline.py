"""When each frame of a video is on show: from what the container says about it, whatever that is worth.

A decoder returns frames in the order of presentation, which the pictures themselves give. The times come from
the container: they may be missing, repeated or permuted, or jump where recordings were joined. So frames keep
their order, and the times are dealt out to them in order:

    in the file       I0   P3   B1   B2   P6   B4   B5 | I7   P9   B8
    their times        1    2    3    4    5    6    7 | 70   71   72    (this container knows no B-frames)
    presented         I0   B1   B2   P3   B4   B5   P6 | I7   B8   P9
    their times        1    3    4    2    6    7    5 | 70   72   71    (as each frame brought it)
    our times          0    1    2    3    4    5    6 |  7    8    9    (sorted, from 0, the jump closed)

The laws, whatever a container says:

1. Every frame that the decoder returns has a time; the times begin at 0 and rise.
2. Times that rise in the order of presentation stay as they are, but for the first, which becomes 0.
3. Times out of order within the reach of a decoder are the same times, sorted.
4. Frames with one time share the span up to the next, if they fit there; a frame without a time comes one
   usual step later, or before the first that has one.
5. Where the times jump or fall, the next frame comes one usual step later and is a cut: no clip goes across.

Axes: F frames.
"""

import bisect
import heapq
import math
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_REACH = 24  # frames that a decoder may hold back to reorder them, and more: H.264 and H.265 allow 16
_RECENT = 48  # steps whose median is the usual one
_SAME_S = 0.001  # times this near are the same: some containers round to the millisecond
_TIE_S = 0.0005  # from one frame to the next: muxers that must not repeat a time add a tick to it
_MOST_IN_A_STEP = 4  # frames of one time, in a usual step: more do not belong there
_NO_PICTURE = 8  # bytes: a packet up to this size says that nothing changes, or stands for one before it
# A longer step is a jump: by the limit of ffmpeg in streams that may be joined from parts with own clocks;
# elsewhere one picture may be on show for minutes, as a slide or in a screen recording.
_JUMP_S, _HOLD_S = 10.0, 600.0
_SLOW = 10  # usual steps that are no jump, however long they are: a time lapse


class Stamp(NamedTuple):
    """What a container says about one packet, in ticks of its clock."""

    pts: int | None
    """When its frame is to be shown."""
    dts: int | None
    """When it is to be decoded: rises in the order of the file."""
    duration: int = 0
    """How long the frame is on show; 0 if unknown."""
    size: int = 1000
    """Bytes."""
    is_key: bool = False
    """Whether decoding can begin with it."""
    is_hidden: bool = False
    """Whether it is decoded only for others: an edit list begins behind it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clock:
    """What the times of a stream mean."""

    tick: Fraction
    """Seconds."""
    step_s: float
    """Usual time from frame to frame, by the header."""
    has_times: bool = True
    """False for a bare stream of pictures (.h264, .m1v), whose times FFmpeg makes up."""
    may_restart: bool = False
    """Whether parts with clocks of their own may follow each other, as in .ts and .mpg."""


class Placed(NamedTuple):
    """The place of a frame."""

    time_s: float
    """Seconds from the first frame."""
    is_cut: bool
    """Whether the stream's times jump or fall before it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameCounts:
    """What had to be changed in one video, as far as it has been read."""

    lost: int = 0
    """Frames that the file has and the decoder did not return, where their place in time stays empty."""
    invented: int = 0
    """Frames that the decoder returned and the file has no packet for."""
    retimed: int = 0
    """Frames whose time from the first on is not the one that the file gives them, or that have none."""


class Timeline:
    """Remembers the packets that no frame has come of, and the frames whose times are not final.

    `sent` is called for each packet in the order of the file, `shown` for each frame in the order of
    presentation. The places that `shown` and `finish` return are those of all frames, in their order, each as
    soon as it is final.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.counts = FrameCounts()
        self._parts = _Parts(clock)
        self._waiting: dict[int, tuple[Stamp, int]] = {}  # by number: packets and their parts
        self._expected: dict[int, list[tuple[int, int]]] = {}  # of parts: times and numbers, as heaps
        self._keys_of_parts: dict[int, array[int]] = {}  # times of the frames that were shown
        self._first_number: int | None = None
        self._part = 0  # of the last frame
        self._own: deque[int | None] = deque()  # times that came with the frames without a place
        self._keys: list[int] = []  # the same, sorted, none missing
        self._last_in: int | None = None  # key of the last frame that came
        self._last_duration = 0
        self._last_out: int | None = None  # key of the last frame that got a place
        self._last_s = -math.inf
        self._origin: int | None = None  # key of the first frame of all
        self._begin: tuple[float, int] | None = None  # a place and its key, from which others count
        self._steps: deque[float] = deque(maxlen=_RECENT)
        self._share_s = 0.0  # from frame to frame of one key

    def sent(self, stamp: Stamp) -> int:
        """Note the next packet of the file; return its number, counted from 0."""
        part = self._parts.add(stamp)
        number = self._parts.num_packets - 1
        if not stamp.is_hidden:
            self._waiting[number] = stamp, part
            if stamp.pts is not None:
                heapq.heappush(self._expected.setdefault(part, []), (stamp.pts, number))
        return number

    def shown(self, number: int | None, pts: int | None) -> list[Placed]:
        """Note the next frame, made of a packet, and its time; return the places that are now final."""
        stamp, part = self._waiting.pop(number if number is not None else -1, (None, self._part))
        if stamp is None:
            self._count(invented=1)
        elif self._first_number is None:
            self._first_number = number
        placed = []
        if part > self._part:
            placed = self._drain()
            self._part, self._begin, self._last_in = part, None, None
        # A frame that a part left behind: its time is by another clock.
        own = pts if self.clock.has_times and part == self._part else None
        key = own if own is not None else self._next_key()
        if own is not None and self._begin is None and all(other is None for other in self._own):
            # Frames without a time that begin a part come before the first that has one.
            early = self._next_key() - own if self._own else 0
            self._keys = [other - early for other in self._keys]
        self._last_in, self._last_duration = key, stamp.duration if stamp else 0
        self._own.append(own)
        bisect.insort(self._keys, key)
        self._keys_of_parts.setdefault(part, array("q")).append(key)
        while len(self._keys) > _REACH or self._is_final():
            placed.append(self._place())
        return placed

    def finish(self) -> list[Placed]:
        """Return the places of the last frames; `counts` are then final."""
        placed = self._drain()
        self._count(lost=self._count_lost())
        return placed

    def _is_final(self) -> bool:
        """Whether no frame can come whose time is before, or the same as, the smallest that is there.

        Frames are held only as long as this is open: a few where times are in order, which saves memory.
        """
        if not self.clock.has_times:
            return bool(self._keys)
        if not self._keys or None in self._own or not self._parts.is_in_order:
            return False
        beyond = self._keys[0] + _TIE_S / self.clock.tick
        expected = self._expected.get(self._part, [])
        # What is not in its place yet, or never comes: then its time has passed.
        passed = self._last_out if self._begin is not None and self._last_out is not None else -math.inf
        while expected and (expected[0][1] not in self._waiting or expected[0][0] < passed):
            heapq.heappop(expected)
        return bool(
            (not expected or expected[0][0] > beyond)
            and (len(self._keys) == 1 or self._keys[1] > beyond)
            and self._parts.last is not None
            and self._parts.last > beyond  # no packet to come is shown before it is decoded
        )

    def _drain(self) -> list[Placed]:
        return [self._place() for _ in range(len(self._keys))]

    def _place(self) -> Placed:
        """The place of the oldest frame without one: it gets the smallest key."""
        key, own = self._keys.pop(0), self._own.popleft()
        is_cut = False
        last = self._last_out
        is_tie = self._begin is not None and last is not None and self._is_tie(key, last)
        if self._begin is None:
            is_cut = last is not None
            time_s = self._start(key)
        elif is_tie:
            time_s = self._last_s + self._share_s
        else:
            time_s = self._begin[0] + self._seconds(key) - self._seconds(self._begin[1])
            step_s = time_s - self._last_s
            if step_s <= 0 or self._is_jump(step_s):
                is_cut, time_s = True, self._start(key)
            else:
                self._steps.append(step_s)
        if not is_tie:
            self._share_s, is_pushed = self._share(key)
            is_cut = is_cut or is_pushed
        self._last_out, self._last_s = key, time_s
        if self._origin is None:
            self._origin = key
        if own is None or abs(self._seconds(own) - self._seconds(self._origin) - time_s) > _SAME_S:
            self._count(retimed=1)
        return Placed(time_s, is_cut)

    def _start(self, key: int) -> float:
        """Count from here; the time of this frame."""
        time_s = 0.0 if self._last_out is None else self._last_s + self._usual_s()
        self._begin = time_s, key
        return time_s

    def _is_jump(self, step_s: float) -> bool:
        """Whether a step is too long for a frame that stays on show."""
        longest_s = _JUMP_S if self.clock.may_restart else _HOLD_S
        return step_s > longest_s and step_s > _SLOW * self._usual_s()

    def _is_tie(self, key: int, before: int) -> bool:
        """Whether a time only repeats the one before."""
        gap_s = self._seconds(key - before)
        return gap_s < _TIE_S and gap_s < self._usual_s() / 2

    def _share(self, key: int) -> tuple[float, bool]:
        """From frame to frame of this key, the first of which has been taken from the list.

        Also whether there are more than fit: a clock fell, and a muxer pushed its times forward by ticks.
        """
        before = key
        for others, after in enumerate(self._keys, 1):
            if not self._is_tie(after, before):
                share_s = self._seconds(after - key) / others
                is_pushed = others > _MOST_IN_A_STEP and share_s < self._usual_s() / _MOST_IN_A_STEP
                return self._usual_s() if is_pushed else min(self._usual_s(), share_s), is_pushed
            before = after
        return self._usual_s(), False  # as far as is known

    def _next_key(self) -> int:
        """For a frame without a time."""
        if self._last_in is None:
            return 0
        step = self._last_duration or round(self._usual_s() / self.clock.tick)
        return self._last_in + max(1, step)

    def _usual_s(self) -> float:
        return float(np.median(self._steps)) if self._steps else self.clock.step_s

    def _seconds(self, ticks: int) -> float:
        # As PyAV computes it: ids of clips depend on the last bits.
        return float(ticks) * self.clock.tick.numerator / self.clock.tick.denominator

    def _count(self, lost: int = 0, invented: int = 0, retimed: int = 0) -> None:
        own = self.counts
        self.counts = replace(
            own, lost=own.lost + lost, invented=own.invented + invented, retimed=own.retimed + retimed
        )

    def _count_lost(self) -> int:
        """Packets no frame came of, and whose place is empty: others hold no picture of their own."""
        waiting = [(*item, number) for number, item in self._waiting.items() if item[0].size > _NO_PICTURE]
        if not self.clock.has_times:
            first = self._first_number or 0
            return sum(number < first for *_, number in waiting)
        keys = {part: np.unique(np.array(times)) for part, times in self._keys_of_parts.items()}
        nothing = np.empty(0, np.int64)
        return sum(_is_hole(keys.get(part, nothing), stamp.pts) for stamp, part, _ in waiting)


class _Parts:
    """Remembers the time of decoding, which falls where a part with a clock of its own begins."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.num_packets = 0
        self.part = 0
        self.last: int | None = None
        self.is_in_order = True  # no packet is shown before it is decoded

    def add(self, stamp: Stamp) -> int:
        """The part that the next packet belongs to, counted from 0."""
        self.num_packets += 1
        if stamp.dts is not None and stamp.pts is not None and stamp.pts < stamp.dts:
            self.is_in_order = False
        if stamp.dts is not None and self.clock.has_times:
            last = self.last if self.last is not None else stamp.dts
            step_s = float((stamp.dts - last) * self.clock.tick)
            # A few frames back, in the middle of pictures: one wrong time, not a new part.
            if step_s < 0 and (stamp.is_key or step_s < -_REACH * self.clock.step_s):
                self.part += 1
            self.last = stamp.dts
        return self.part


def _is_hole(shown: NDArray[np.int64], pts: int | None) -> bool:
    """Whether the frames around a time leave room for one more.

    A packet without a picture to show (the second field of a frame, a hidden reference of VP8) leaves none.
    """
    if pts is None:
        return False
    if len(shown) < 2:
        return pts not in shown
    usual = float(np.median(np.diff(shown)))
    index = int(np.searchsorted(shown, pts))
    before = shown[index - 1] if index else -math.inf
    after = shown[index] if index < len(shown) else math.inf
    return bool(after - before > 1.5 * usual and min(pts - before, after - pts) > 0.5 * usual)


def lay_out(packets: Sequence[Stamp], order: Sequence[int], clock: Clock) -> tuple[list[Placed], FrameCounts]:
    """Places of all frames of a stream, and what had to be changed.

    Args:
        packets: In the order of the file.
        order: The packet of each frame, in the order of presentation.
        clock: What the times mean.
    """
    timeline = Timeline(clock)
    for stamp in packets:
        timeline.sent(stamp)
    placed = [place for number in order for place in timeline.shown(number, packets[number].pts)]
    return placed + timeline.finish(), timeline.counts

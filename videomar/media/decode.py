"""Every frame of a video file, in order: scaled, upright, 8-bit BT.709. No other module knows the decoders.

decord reads first because it is fast; PyAV reads what decord refuses or would show otherwise than a player:

    decord                  mov/mp4, matroska, avi; 8 and 10 bits
    PyAV                    every other container; turned or mirrored pictures; another stream than the one
                            that FFmpeg would choose; times that do not rise; long or large videos, of
                            which decord may hold every frame
    PyAV and bwdif          fields, joined to frames (one frame for two fields)
    PyAV and the tone map   HDR and BT.2020, mapped to BT.709 (the perceptual intent of FFmpeg's scaler:
                            it compresses highlights, and takes some seconds a video for its table)
    PyAV and black          transparent pixels

A file that breaks off, or whose stream is damaged, is refused as a whole: decoders return garbled pictures
after the damage, and nobody would notice them in a training set. Formats without an index (.ts, .mkv) that
break off between two packets look complete: of these, the part that exists is read.

Axes: F frames, H W rows and columns in pixels.
"""

from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import av
import numpy as np
from av.format import Flags
from numpy.typing import NDArray

from videomar.media.decord_library import decord
from videomar.media.picture_files import CONTAINER, PictureError, read_frames
from videomar.media.probe import UnreadableError, VideoInfo, refuse_our_faults
from videomar.media.streams import open_container, video_stream
from videomar.media.timeline import Clock, FrameCounts, Placed, Stamp, Timeline, lay_out


class FrameBlock(NamedTuple):
    """Some frames of a video, in order.

    times    0.0   0.1   0.2 | 0.3   0.4
    cuts                       3          the stream's own clock jumped here
    """

    frames: NDArray[np.uint8]
    """(F, H, W, 3)."""
    times: NDArray[np.float64]
    """Seconds (F,) from the first frame of the video, rising over all blocks."""
    cuts: tuple[int, ...] = ()
    """Indices of the frames that do not go on from the frame before, however alike they look: there the times
    of the stream jump or start again, and no clip may go across."""
    counts: FrameCounts = FrameCounts()
    """Of the video up to the end of this block; those of the last block are the video's."""


_EMPTY_PACKETS = 3  # headers count them as frames: coders of AVI write some for frames that come later
_BLOCK = 64  # frames in a block at most
_BLOCK_BYTES = 32_000_000  # of a block; one of a single frame may have more
# Of all frames of a video: decord decodes ahead of a slower reader without end, so in the worst case it holds
# them all. Enough for nine minutes at 24 frames a second of the frames that clips of 32 pixels are cut from.
_DECORD_BYTES = 300_000_000
_STEADY_S = 1.0  # a decoder that takes longer for a block hands out what it has: progress shows
_TICK_S = 0.001  # shorter than any frame is on show
_MAX_FPS = 1000  # a header with more speaks of ticks, not of frames
# Formats with an index. In others decord lands beside the frame it seeks, silently: of an MPEG program stream
# it returned 178 of 190 frames, the first 12 missing and the last repeated, with times that rise.
_DECORD_CONTAINERS = ("mov", "matroska", "avi")
_TONE_MAP = "out_transfer=bt709:out_primaries=bt709:out_color_matrix=bt709:out_range=tv:intent=perceptual"


class _DecoderError(Exception):
    """This decoder cannot read this file."""


def open_video(
    path: Path,
    info: VideoInfo,
    height_px: int,
    until_s: float | None = None,
    from_s: float | None = None,
) -> Iterator[FrameBlock]:
    """Yield the frames of a video in blocks, in order.

    Where decord fails on the way, PyAV reads the file once more and goes on behind the last frame:

        decord   0 .. 63 | 64 .. 127 | error
        PyAV     (0 .. 127 read again)      128 .. 191 | ...

    So a file that decord alone cannot read is not lost, and one that PyAV refuses, too, is refused as a whole
    by an error after some blocks. (Of 400 damaged files decord failed on the way in 25, and PyAV refused all
    of these: two decoders in one video, whose pixels differ in their last bits, are the exception.)

    Args:
        path: The file.
        info: Its header, from `probe`.
        height_px: Height of the frames, pixels; a smaller video keeps its own.
        until_s: Frames that begin later are not needed; they may come nevertheless.
        from_s: The file is read from a key frame before this time on, as far as its index is right: check
            that enough frames come. Times then count from the first of them, and nothing is known of the
            frames before.

    Yields:
        Frames (F, H, W, 3) and their times (F,), which rise from 0 over all blocks.

    Raises:
        UnreadableError: `unreadable: ...` or `damaged: ...`; some damage shows only after the last block.
    """
    height = min(height_px, info.height)
    size = max(1, round(info.width * height / info.height)), height
    if from_s is not None:
        yield from _pyav_blocks(path, info, size, from_s)
        return
    last_s = -np.inf
    try:
        for block in _decord_blocks(path, info, size, until_s):
            last_s = block.times[-1]
            yield block
        return
    except _DecoderError:
        pass
    for block in _pyav_blocks(path, info, size):
        # The decoders round the same time differently, by less than a tick.
        first = int(np.searchsorted(block.times, last_s + _TICK_S, side="right"))
        if first < len(block.times):
            cuts = tuple(cut - first for cut in block.cuts if cut >= first)
            yield block._replace(frames=block.frames[first:], times=block.times[first:], cuts=cuts)


def _decord_blocks(
    path: Path, info: VideoInfo, size: tuple[int, int], until_s: float | None = None
) -> Iterator[FrameBlock]:
    """Frames by decord, up to the one on show at `until_s`; size is (width, height).

    Raises:
        _DecoderError: decord cannot read the file, or would return wrong frames or times.
        UnreadableError: see `_check_complete`.
    """
    if not any(name in info.container for name in _DECORD_CONTAINERS):
        raise _DecoderError(f"decord seeks wrongly in {info.container}")
    if info.rotation or info.mirrored:
        raise _DecoderError("decord scales a turned video as if it were not turned")
    if not info.ffmpeg_choice:
        raise _DecoderError("decord would read another stream")
    if info.interlaced or info.wide_colour or info.has_alpha:
        raise _DecoderError("decord does not deinterlace, map tones or blend")
    try:
        reader = decord.VideoReader(str(path.absolute()), width=size[0], height=size[1], num_threads=1)
        times = np.asarray(reader.get_frame_timestamp(range(len(reader))), np.float64)[:, 0]
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise _DecoderError(str(error)) from None
    # A time below 0 marks frames that an edit list hides; decord returns others in their place.
    if times[0] < 0 or not (np.diff(times) > 0).all():
        raise _DecoderError("timestamps that do not rise from 0")
    if len(times) * 3 * size[0] * size[1] > _DECORD_BYTES:
        raise _DecoderError("frames that would not fit into memory")
    times = times - times[0]
    _check_times(path, info, times)
    end = len(times) if until_s is None else max(1, int(np.searchsorted(times, until_s, side="right")))
    # At a few widths (16, 24, 32, 48, 96) decord fails with the first frame: it copies rows of 64 bytes.
    # Every frame in order: where decord seeks or skips it may return other pictures without an error.
    first, count, most = 0, _block_frames(size), _block_frames(size)
    while first < end:
        last, began_s = min(first + count, end), monotonic()
        try:
            block = reader.get_batch(range(first, last)).asnumpy()
        except (decord.DECORDError, RuntimeError, ValueError) as error:
            raise _DecoderError(str(error)) from None
        count = max(1, count // 2) if monotonic() - began_s > _STEADY_S else min(2 * count, most)
        yield FrameBlock(block, times[first:last])
        first = last
    _check_complete(path, info, times)


def _check_times(path: Path, info: VideoInfo, times: NDArray[np.float64]) -> None:
    """Refuse times (F,) that are not those of the stream, and streams whose times need a change.

    Raises:
        _DecoderError: decord would not return each frame in its place.
    """
    try:
        with open_container(path) as container:
            stream = video_stream(container, info.stream_index)
            packets = [_stamp(packet) for packet in container.demux(stream) if packet.size]
            clock = _clock(container, stream)
    except (av.FFmpegError, ValueError) as error:
        raise _DecoderError(str(error)) from None
    shown = [(stamp.pts, number) for number, stamp in enumerate(packets) if stamp.pts is not None]
    places, counts = lay_out(packets, [number for _, number in sorted(shown)], clock)
    if len(packets) != len(places) or counts != FrameCounts() or any(stamp.is_hidden for stamp in packets):
        raise _DecoderError("times that need a change")
    if len(times) != len(places) or any(place.is_cut for place in places):
        raise _DecoderError("frames that are missing, or a jump between them")
    # decord's times have 24 bits.
    if not np.allclose(times, [place.time_s for place in places], rtol=1e-6, atol=_TICK_S):
        raise _DecoderError("other times than those of the stream")


def _pyav_blocks(
    path: Path, info: VideoInfo, size: tuple[int, int], from_s: float | None = None
) -> Iterator[FrameBlock]:
    """Frames by PyAV, all or from about a time on; size is (width, height).

    Raises:
        UnreadableError: `unreadable: ...`, `damaged: ...`.
    """
    pending: list[NDArray[np.uint8]] = []
    places: list[Placed] = []
    times: list[float] = []
    count, most, began_s, counts = 0, _block_frames(size), monotonic(), FrameCounts()
    try:
        for frame, placed, counts in _placed_frames(path, info, size, from_s):
            pending += frame
            places += placed
            times += [place.time_s for place in placed]
            count += len(frame)
            while len(places) >= most or (places and monotonic() - began_s > _STEADY_S):
                num = min(most, len(places))
                yield _block(pending[:num], places[:num], counts)
                del pending[:num], places[:num]
                began_s = monotonic()
    except (av.FFmpegError, ValueError, PictureError) as error:
        refuse_our_faults(error, path)
        message = getattr(error, "strerror", None) or str(error)
        state = f"damaged: {message} after {count} frames" if count else f"unreadable: {message}"
        raise UnreadableError(state, path) from None
    if not count:
        raise UnreadableError("unreadable: not one frame", path)
    if places:
        yield _block(pending, places, counts)
    if from_s is None:
        _check_complete(path, info, np.array(times))


def _block_frames(size: tuple[int, int]) -> int:
    """Most frames in a block: fewer of large ones, so that a block takes the same memory."""
    return max(1, min(_BLOCK, _BLOCK_BYTES // (3 * size[0] * size[1])))


def _block(frames: list[NDArray[np.uint8]], places: list[Placed], counts: FrameCounts) -> FrameBlock:
    cuts = tuple(index for index, place in enumerate(places) if place.is_cut)
    return FrameBlock(np.stack(frames), np.array([place.time_s for place in places]), cuts, counts)


def _check_complete(path: Path, info: VideoInfo, times: NDArray[np.float64]) -> None:
    """Refuse a video that ends long before the end that its header promises.

    Raises:
        UnreadableError: `damaged: ...`.
    """
    frame_s = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    missing = (info.num_frames or 0) - len(times)
    count_short = info.num_frames is not None and missing > max(_EMPTY_PACKETS, 0.05 * info.num_frames)
    if count_short and times[-1] + frame_s < 0.95 * info.duration_s:
        raise UnreadableError(f"damaged: {len(times)} of {info.num_frames} frames", path)


_Frame = tuple[list[NDArray[np.uint8]], list[Placed], FrameCounts]
"""Pixels of the next frame, or none; places of the next frames, which come later; counts so far."""


def _placed_frames(
    path: Path, info: VideoInfo, size: tuple[int, int], from_s: float | None
) -> Iterator[_Frame]:
    """Frames of a file, by PyAV, or by Pillow for some pictures."""
    if info.container == CONTAINER:
        for time_s, pixels in read_frames(path, info.num_frames or 1, size):
            yield [pixels], [Placed(time_s, False)], FrameCounts()
        return
    with open_container(path) as container:
        stream = video_stream(container, info.stream_index)
        if from_s is not None and stream.time_base:
            container.seek(round(from_s / stream.time_base) + (stream.start_time or 0), stream=stream)
        yield from _decode_pyav(container, stream, info, size)


def _decode_pyav(
    container: av.container.InputContainer, stream: av.VideoStream, info: VideoInfo, size: tuple[int, int]
) -> Iterator[_Frame]:
    """Every frame, scaled and turned."""
    turns = info.rotation // 90
    width, height = size if turns % 2 == 0 else size[::-1]
    kind = "rgba" if info.has_alpha else "rgb24"
    filters = _filters(info, width, height, kind)
    stamped = _StampedFrames(container, stream)
    for frame in _filtered(iter(stamped), stream, filters) if filters else stamped:
        small = frame.reformat(width=width, height=height, format=kind, interpolation="BICUBIC")
        placed = stamped.place_next()
        yield [_upright(_on_black(small.to_ndarray()), info)], placed, stamped.timeline.counts
    placed = stamped.timeline.finish()
    yield [], placed, stamped.timeline.counts


class _StampedFrames:
    """The frames of a stream. Remembers the packet that each frame comes of, while filters hold the frame."""

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream) -> None:
        self.container, self.stream = container, stream
        stream.codec_context.thread_count = 1
        stream.codec_context.copy_opaque = True
        self.timeline = Timeline(_clock(container, stream))
        self.origins: deque[tuple[int | None, int | None]] = deque()

    def __iter__(self) -> Iterator[av.VideoFrame]:
        for packet in self.container.demux(self.stream):
            if packet.size:
                packet.opaque = self.timeline.sent(_stamp(packet))
            for frame in packet.decode():
                if not isinstance(frame, av.VideoFrame):
                    continue
                if frame.is_corrupt:
                    raise ValueError("a corrupt frame")
                number = frame.opaque
                self.origins.append((number if isinstance(number, int) else None, frame.pts))
                yield frame

    def place_next(self) -> list[Placed]:
        """Note the next frame that has left the filters; return the places that are now final."""
        return self.timeline.shown(*self.origins.popleft())


def _stamp(packet: "av.Packet[av.VideoStream]") -> Stamp:
    return Stamp(
        packet.pts,
        packet.dts,
        packet.duration or 0,
        packet.size,
        is_key=packet.is_keyframe,
        is_hidden=packet.is_discard,
    )


def _clock(container: av.container.InputContainer, stream: av.VideoStream) -> Clock:
    flags = Flags(container.format.flags)
    rates = [rate for rate in (stream.average_rate, stream.base_rate) if rate and rate < _MAX_FPS]
    return Clock(
        tick=stream.time_base or Fraction(1, 90_000),
        step_s=float(1 / rates[0]) if rates else 1 / 25,
        has_times=Flags.no_timestamps not in flags,
        may_restart=Flags.ts_discont in flags,
    )


def _upright(pixels: NDArray[np.uint8], info: VideoInfo) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) as stored, mirrored and turned as a player does."""
    return np.rot90(pixels[:, ::-1] if info.mirrored else pixels, k=-(info.rotation // 90))


def _filters(info: VideoInfo, width: int, height: int, kind: str) -> list[tuple[str, str]]:
    """Names and arguments of the FFmpeg filters that the video needs, in order."""
    filters = [("bwdif", "mode=send_frame:deint=interlaced")] if info.interlaced else []
    if info.wide_colour:
        # Small first: the tone map takes more per pixel than the decoder.
        filters += [("scale", f"{width}:{height}:flags=bicubic"), ("scale", _TONE_MAP), ("format", kind)]
    return filters


def _filtered(
    frames: Iterator[av.VideoFrame], stream: av.VideoStream, filters: list[tuple[str, str]]
) -> Iterator[av.VideoFrame]:
    """Frames through a chain of filters, which is rebuilt where their size or format changes."""
    graph: av.filter.Graph | None = None
    shape = None
    for frame in frames:
        if shape != (frame.width, frame.height, frame.format.name):
            if graph is not None:
                yield from _pull(graph, None)
            graph, shape = av.filter.Graph(), (frame.width, frame.height, frame.format.name)
            source = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=stream.time_base
            )
            graph.link_nodes(
                source, *(graph.add(*each) for each in filters), graph.add("buffersink")
            ).configure()
        if graph is not None:
            yield from _pull(graph, frame)
    if graph is not None:
        yield from _pull(graph, None)


def _pull(graph: av.filter.Graph, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
    """What comes out of the chain after one more frame; after the last, with None."""
    graph.vpush(frame)
    while True:
        try:
            yield graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return


def _on_black(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) of (H, W, 3 or 4), blended by the fourth channel."""
    if pixels.shape[2] == 3:
        return pixels
    opacity = pixels[..., 3:].astype(np.uint16)
    return ((pixels[..., :3] * opacity + 127) // 255).astype(np.uint8)

"""Every frame of a video file, in order: scaled, upright, 8-bit BT.709. No other module knows the decoders.

decord reads first because it is fast; PyAV reads what decord refuses or would show otherwise than a player:

    decord                  mov/mp4, matroska, avi; 8 and 10 bits
    PyAV                    every other container; turned or mirrored pictures; another stream than the one
                            that FFmpeg would choose; times that do not rise
    PyAV and bwdif          fields, joined to frames (one frame for two fields)
    PyAV and the tone map   HDR and BT.2020, mapped to BT.709 (the perceptual intent of FFmpeg's scaler:
                            it compresses highlights, and takes some seconds a video for its table)
    PyAV and black          transparent pixels

A file that breaks off, or whose stream is damaged, is refused as a whole: decoders return garbled pictures
after the damage, and nobody would notice them in a training set. Formats without an index (.ts, .mkv) that
break off between two packets look complete: of these, the part that exists is read.

Axes: F frames, H W rows and columns in pixels.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from videomar.media.picture_files import CONTAINER, PictureError, read_frames
from videomar.media.probe import UnreadableError, VideoInfo
from videomar.media.streams import open_container, video_stream
from videomar.media.timeline import FrameCounts


def _import_decord() -> Any:
    """Import decord, but not the libraries of CUDA that it would load from the packages of torch.

    It would load all of them into the whole process. One, nvblas, then replaces the BLAS of numpy and scipy,
    and without a GPU the process ends with a segmentation fault.
    """
    find_spec = importlib.util.find_spec
    importlib.util.find_spec = lambda name, package=None: (
        None if name == "nvidia" else find_spec(name, package)
    )
    try:
        import decord
    finally:
        importlib.util.find_spec = find_spec
    decord.logging.set_level(decord.logging.FATAL)
    return decord


decord = _import_decord()


class Block(NamedTuple):
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


_BLOCK = 64  # frames in a block at most
_BLOCK_BYTES = 32_000_000  # of a block; one of a single frame may have more
_STEADY_S = 1.0  # a decoder that takes longer for a block hands out what it has: progress shows
_TICK_S = 0.001  # shorter than any frame is on show
# Formats with an index. In others decord lands beside the frame it seeks, silently: of an MPEG program stream
# it returned 178 of 190 frames, the first 12 missing and the last repeated, with times that rise.
_DECORD_CONTAINERS = ("mov", "matroska", "avi")
_TONE_MAP = "out_transfer=bt709:out_primaries=bt709:out_color_matrix=bt709:out_range=tv:intent=perceptual"


class _DecoderError(Exception):
    """This decoder cannot read this file."""


def open_video(path: Path, info: VideoInfo, height_px: int, until_s: float | None = None) -> Iterator[Block]:
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

    Yields:
        Frames (F, H, W, 3) and their times (F,), which rise from 0 over all blocks.

    Raises:
        UnreadableError: `unreadable: ...` or `damaged: ...`; some damage shows only after the last block.
    """
    height = min(height_px, info.height)
    size = max(1, round(info.width * height / info.height)), height
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
) -> Iterator[Block]:
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
    times = times - times[0]
    # An edit list may hide the end, too; of other containers the length is an estimate.
    if "mov" in info.container and 0 < info.duration_s <= times[-1] + _TICK_S:
        raise _DecoderError("frames behind the end of the edit list")
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
        yield Block(block, times[first:last])
        first = last
    _check_complete(path, info, times)


def _pyav_blocks(path: Path, info: VideoInfo, size: tuple[int, int]) -> Iterator[Block]:
    """Frames by PyAV; size is (width, height).

    Raises:
        UnreadableError: `unreadable: ...`, `damaged: ...`.
    """
    pending: list[NDArray[np.uint8]] = []
    times: list[float] = []
    most, began_s = _block_frames(size), monotonic()
    try:
        for time, frame in _decode(path, info, size):
            if times and time <= times[-1]:
                continue  # never on show: another frame begins at the same time
            pending.append(frame)
            times.append(time)
            if len(pending) == most or monotonic() - began_s > _STEADY_S:
                yield Block(np.stack(pending), np.array(times[-len(pending) :]))
                pending.clear()
                began_s = monotonic()
    except (av.FFmpegError, ValueError, PictureError) as error:
        message = getattr(error, "strerror", None) or str(error)
        state = f"damaged: {message} after {len(times)} frames" if times else f"unreadable: {message}"
        raise UnreadableError(state, path) from None
    if not times:
        raise UnreadableError("unreadable: not one frame", path)
    if pending:
        yield Block(np.stack(pending), np.array(times[-len(pending) :]))
    _check_complete(path, info, np.array(times))


def _block_frames(size: tuple[int, int]) -> int:
    """Most frames in a block: fewer of large ones, so that a block takes the same memory."""
    return max(1, min(_BLOCK, _BLOCK_BYTES // (3 * size[0] * size[1])))


def _check_complete(path: Path, info: VideoInfo, times: NDArray[np.float64]) -> None:
    """Refuse a video that ends long before the end that its header promises.

    Raises:
        UnreadableError: `damaged: ...`.
    """
    frame_s = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    count_short = info.num_frames is not None and len(times) < 0.95 * info.num_frames
    if count_short and times[-1] + frame_s < 0.95 * info.duration_s:
        raise UnreadableError(f"damaged: {len(times)} of {info.num_frames} frames", path)


def _decode(path: Path, info: VideoInfo, size: tuple[int, int]) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Time since the first frame and pixels of every frame, by PyAV, or by Pillow for some pictures."""
    if info.container == CONTAINER:
        return read_frames(path, info.num_frames or 1, size)
    return _decode_pyav(path, info, size)


def _decode_pyav(
    path: Path, info: VideoInfo, size: tuple[int, int]
) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Time since the first frame and pixels of every frame, scaled and turned."""
    turns = info.rotation // 90
    width, height = size if turns % 2 == 0 else size[::-1]
    kind = "rgba" if info.has_alpha else "rgb24"
    with open_container(path) as container:
        stream = video_stream(container, info.stream_index)
        stream.codec_context.thread_count = 1
        decoded = _whole_frames(container, stream)
        filters = _filters(info, width, height, kind)
        first = None
        time = 0.0
        for frame in _filtered(decoded, stream, filters) if filters else decoded:
            time = frame.time if frame.time is not None else time + 1 / (info.fps or 25.0)
            first = time if first is None else first
            small = frame.reformat(width=width, height=height, format=kind, interpolation="BICUBIC")
            yield time - first, _upright(_on_black(small.to_ndarray()), info)


def _upright(pixels: NDArray[np.uint8], info: VideoInfo) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) as stored, mirrored and turned as a player does."""
    return np.rot90(pixels[:, ::-1] if info.mirrored else pixels, k=-(info.rotation // 90))


def _whole_frames(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    for frame in container.decode(stream):
        if not isinstance(frame, av.VideoFrame):
            continue
        if frame.is_corrupt:
            raise ValueError("a corrupt frame")
        yield frame


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

"""The decoders behind one interface: blocks of frames in their order, scaled, upright, 8-bit BT.709.

decord converts 8-bit and 10-bit video alike. What it would show otherwise than a player does is left to PyAV:
fields are joined to frames (bwdif, one frame for two fields), HDR and BT.2020 are mapped to BT.709 (the
perceptual intent of FFmpeg's scaler, which compresses highlights and does not clip them; it prepares a table
for some seconds a video), transparent pixels stand on black.

Axes: F frames, H W rows and columns in pixels.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from videomar.media.probe import UnreadableError, VideoInfo


def _import_decord() -> Any:
    """decord, without the libraries of CUDA that it would load from the packages of torch.

    It would load all of them for the whole process to see. One, nvblas, then stands in for the BLAS of numpy
    and scipy, and without a GPU the process ends with a segmentation fault.
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

Block = tuple[NDArray[np.uint8], NDArray[np.float64]]
"""Frames (F, H, W, 3) and the seconds (F,) from the first frame of the video, rising."""

_BLOCK = 64  # frames in a block
# Formats with an index. In others decord lands beside the frame it seeks, silently: of an MPEG program stream
# it returned 178 of 190 frames, the first 12 missing and the last repeated, with times that rise.
_DECORD_CONTAINERS = ("mov", "matroska", "avi")
_TONE_MAP = "out_transfer=bt709:out_primaries=bt709:out_color_matrix=bt709:out_range=tv:intent=perceptual"


class DecoderError(Exception):
    """This decoder cannot read this file."""


def decord_blocks(
    path: Path, info: VideoInfo, size: tuple[int, int], until_s: float | None = None
) -> Iterator[Block]:
    """Frames by decord, up to the one on show at `until_s`; size is (width, height).

    Raises:
        DecoderError: decord cannot read the file, or not rightly.
        UnreadableError: see `check_complete`.
    """
    if not any(name in info.container for name in _DECORD_CONTAINERS):
        raise DecoderError(f"decord seeks wrongly in {info.container}")
    if info.rotation:
        raise DecoderError("decord scales a turned video as if it were not turned")
    if info.interlaced or info.wide_colour or info.has_alpha:
        raise DecoderError("decord does not deinterlace, map tones or blend")
    try:
        reader = decord.VideoReader(str(path.absolute()), width=size[0], height=size[1], num_threads=1)
        times = np.asarray(reader.get_frame_timestamp(range(len(reader))), np.float64)[:, 0]
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise DecoderError(str(error)) from None
    # A time below 0 marks frames that an edit list hides; decord returns others in their place.
    if times[0] < 0 or not (np.diff(times) > 0).all():
        raise DecoderError("timestamps that do not rise from 0")
    times = times - times[0]
    end = len(times) if until_s is None else max(1, int(np.searchsorted(times, until_s, side="right")))
    # Every frame in its order: where decord seeks or skips it may land elsewhere and return other pictures
    # without a word.
    for first in range(0, end, _BLOCK):
        last = min(first + _BLOCK, end)
        try:
            block = reader.get_batch(range(first, last)).asnumpy()
        except (decord.DECORDError, RuntimeError, ValueError) as error:
            raise DecoderError(str(error)) from None
        yield block, times[first:last]
    check_complete(path, info, times)


def pyav_blocks(path: Path, info: VideoInfo, size: tuple[int, int]) -> Iterator[Block]:
    """Frames by PyAV; size is (width, height).

    Raises:
        UnreadableError: `unreadable: ...`, `damaged: ...`.
    """
    pending: list[NDArray[np.uint8]] = []
    times: list[float] = []
    try:
        for time, frame in _decode_pyav(path, info, size):
            if times and time <= times[-1]:
                continue
            pending.append(frame)
            times.append(time)
            if len(pending) == _BLOCK:
                yield np.stack(pending), np.array(times[-_BLOCK:])
                pending.clear()
    except (av.FFmpegError, ValueError) as error:
        said = getattr(error, "strerror", None) or str(error)
        state = f"damaged: {said} after {len(times)} frames" if times else f"unreadable: {said}"
        raise UnreadableError(state, path) from None
    if not times:
        raise UnreadableError("unreadable: not one frame", path)
    if pending:
        yield np.stack(pending), np.array(times[-len(pending) :])
    check_complete(path, info, np.array(times))


def check_complete(path: Path, info: VideoInfo, times: NDArray[np.float64]) -> None:
    """Refuse a video that ends well before its header says.

    Raises:
        UnreadableError: `damaged: ...`.
    """
    frame_s = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    count_short = info.num_frames is not None and len(times) < 0.95 * info.num_frames
    if count_short and times[-1] + frame_s < 0.95 * info.duration_s:
        raise UnreadableError(f"damaged: {len(times)} of {info.num_frames} frames", path)


def _decode_pyav(
    path: Path, info: VideoInfo, size: tuple[int, int]
) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Time since the first frame and pixels of every frame, scaled and turned."""
    turns = info.rotation // 90
    width, height = size if turns % 2 == 0 else size[::-1]
    kind = "rgba" if info.has_alpha else "rgb24"
    with av.open(f"file:{path.absolute()}", options={"protocol_whitelist": "file"}) as container:
        stream = container.streams.best("video")
        if not isinstance(stream, av.VideoStream):
            raise UnreadableError("no_video_stream", path)
        stream.codec_context.thread_count = 1
        decoded = _whole_frames(container, stream)
        filters = _filters(info, width, height, kind)
        first = None
        time = 0.0
        for frame in _filtered(decoded, stream, filters) if filters else decoded:
            time = frame.time if frame.time is not None else time + 1 / (info.fps or 25.0)
            first = time if first is None else first
            small = frame.reformat(width=width, height=height, format=kind, interpolation="BICUBIC")
            yield time - first, np.rot90(_on_black(small.to_ndarray()), k=-turns)


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
    """Frames through a chain of filters, which is made anew where their size or format changes."""
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

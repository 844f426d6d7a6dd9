"""Encode clips of a video to the bytes that are stored, and nothing else: its import closure keys them.

On a processor every array depends on its video and its clip alone, so the bytes are the same for any number
of workers and nodes, and after a worker or a node died. On a GPU clips are encoded in batches, all of the
same size: a kernel's choice, and with it the rounding, does not depend on how many clips there are.

Axes: B clips in a batch, F frames, H W rows and columns in pixels.
"""

import functools
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import Full, Queue
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomar.compute.device import choose_device, device_kind, fetch, send
from videomar.curation.scores import motion
from videomar.encoders.load import load_tokenizer
from videomar.encoders.tokenizer import VideoTokenizer, to_unit_range, with_moments
from videomar.errors import DataError, VideomarError
from videomar.media.clip_reader import map_clips
from videomar.media.shapes import ClipShape, View

_Result = TypeVar("_Result")
_MAX_READERS = 8  # threads that decode videos for one GPU
_CHECK_S = 0.1  # how soon they notice that nobody wants their clips any more


class Video(NamedTuple):
    """Clips of one video and one shape to encode."""

    path: str
    starts_s: list[float]
    keys: list[str]
    shape: ClipShape
    views: tuple[View, ...] = ()
    """How each clip is cut; none = as ingest cuts all."""


class Encoded(NamedTuple):
    """The latents of a clip as they are stored."""

    key: str
    shape: list[int]
    data: bytes
    std: bytes = b""
    """Deviations, of the same shape; empty without `encode.moments`."""
    made_on: str = "cpu"
    """Kind of device, see `device_kind`."""
    motion: float = 0.0
    """Motion score of the clip's pixels; a caption has none."""


class _Arrays(NamedTuple):
    """Shape and bytes of a clip's latents, and the bytes of their deviations."""

    shape: list[int]
    data: bytes
    std: bytes = b""


class ClipEncoder:
    """Encodes with one tokenizer; loads it at the first clip.

    Args:
        tokenizer: its folder.
        dtype: number format of the stored values.
        moments: store deviations, too.
        device: `auto`, `cpu` or `cuda`, on the machine that encodes.
        batch_clips: clips that a GPU encodes at once.
        sharers: encoders that share the processors of this machine.
    """

    def __init__(
        self,
        tokenizer: str,
        dtype: str,
        moments: bool = False,
        device: str = "cpu",
        batch_clips: int = 1,
        sharers: int = 1,
    ) -> None:
        torch.set_num_threads(1)
        self._folder, self._dtype, self._moments = tokenizer, dtype, moments
        self._wanted, self._batch_clips = device, batch_clips
        self._readers = min(_MAX_READERS, max(2, (os.cpu_count() or 1) // sharers))

    @functools.cached_property
    def _tokenizer(self) -> VideoTokenizer:
        device = choose_device(self._wanted, "resources.encode.device")
        _require_on_node(Path(self._folder))
        return load_tokenizer(Path(self._folder), device)

    def encode(self, video: Video) -> list[Encoded]:
        """Encode each clip of a video by itself.

        Raises:
            VideomarError: the video or the tokenizer cannot be read, or do not fit each other.
        """
        made = _map_clips(video, lambda pictures: self._stored(self._start(pictures[None]))[0])
        return _named(video, made, "cpu")

    def encode_all(self, videos: Sequence[Video]) -> Iterator[Encoded | VideomarError]:
        """Encode the clips of videos of one shape; an error in place of the clips of a video."""
        try:
            device = self._tokenizer.device
        except VideomarError as error:
            yield error
            return
        if device.type == "cuda":
            yield from self._encode_in_batches(videos, device_kind(device))
            return
        for video in videos:
            try:
                yield from self.encode(video)
            except VideomarError as error:
                yield error

    def _encode_in_batches(self, videos: Sequence[Video], kind: str) -> Iterator[Encoded | VideomarError]:
        """Encode full batches while threads read the next clips; one thread for each video."""
        waiting = _Waiting(2 * self._batch_clips)

        def read(video: Video) -> list[tuple[Future[_Arrays], float]]:
            try:
                return _map_clips(video, waiting.add)
            finally:
                waiting.end()

        with ThreadPoolExecutor(self._readers) as pool:
            tasks = [pool.submit(read, video) for video in videos]
            try:
                self._work_off(waiting.batches(self._batch_clips, len(videos)))
            except VideomarError as error:
                yield error
                return
            except torch.OutOfMemoryError:
                got = f"{self._batch_clips} clips that do not fit into the GPU's memory"
                yield DataError(f"resources.encode.batch_clips: got {got}, expected fewer; lower it")
                return
            finally:
                waiting.give_up()
        for video, task in zip(videos, tasks, strict=True):
            try:
                made = [(arrays.result(), motion) for arrays, motion in task.result()]
                yield from _named(video, made, kind)
            except VideomarError as error:
                yield error

    def _work_off(self, batches: "Iterator[list[_Clip]]") -> None:
        """Encode batches; the values of each come back while the next is computed."""
        before: list[_Clip] = []
        values: _Values = []
        for batch in batches:
            pictures = np.stack([clip.pictures for clip in batch])
            fill = np.repeat(pictures[-1:], self._batch_clips - len(batch), 0)
            started = self._start(np.concatenate([pictures, fill]))
            self._finish(before, values)
            before, values = batch, started
        self._finish(before, values)

    def _finish(self, batch: "list[_Clip]", values: "_Values") -> None:
        for clip, arrays in zip(batch, self._stored(values) if batch else [], strict=False):  # then fill
            clip.arrays.set_result(arrays)

    def _start(self, pictures: NDArray[np.uint8]) -> "_Values":
        """Start to encode pictures (B, F, H, W, 3): latents, and deviations if wanted."""
        clips = to_unit_range(send(torch.from_numpy(pictures), self._tokenizer.device))
        if self._moments:
            return [fetch(values) for values in with_moments(self._tokenizer).encode_moments(clips)]
        return [fetch(self._tokenizer.encode(clips))]

    def _stored(self, values: "_Values") -> list[_Arrays]:
        """Wait for what `_start` began."""
        latents, *others = (wait() for wait in values)
        return [
            _Arrays(
                list(clip.shape), *(stored_bytes(part[number], self._dtype) for part in (latents, *others))
            )
            for number, clip in enumerate(latents)
        ]


_Values = list[Callable[[], Tensor]]
"""Tensors (B, ...) on their way from the device: functions that wait for them."""


class _Clip(NamedTuple):
    """A decoded clip, and where its arrays are put."""

    pictures: NDArray[np.uint8]
    arrays: Future[_Arrays]


class _Waiting:
    """Clips between the threads that read them and the one that encodes. Remembers a few."""

    def __init__(self, most: int) -> None:
        self._clips: Queue[_Clip | None] = Queue(most)
        self._given_up = threading.Event()

    def add(self, pictures: NDArray[np.uint8]) -> Future[_Arrays]:
        """Wait for room and add a clip (F, H, W, 3)."""
        clip = _Clip(pictures, Future())
        self._put(clip)
        return clip.arrays

    def end(self) -> None:
        """Say that one video has no more clips."""
        self._put(None)

    def give_up(self) -> None:
        """Let the readers go on without anyone to encode their clips."""
        self._given_up.set()

    def batches(self, size: int, num_videos: int) -> Iterator[list[_Clip]]:
        """Yield clips of all videos, `size` at a time, the last of them fewer."""
        batch: list[_Clip] = []
        ended = 0
        while ended < num_videos:
            clip = self._clips.get()
            if clip is None:
                ended += 1
                continue
            batch.append(clip)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _put(self, item: _Clip | None) -> None:
        while not self._given_up.is_set():
            try:
                return self._clips.put(item, timeout=_CHECK_S)
            except Full:
                continue


def stored_bytes(values: Tensor, dtype: str) -> bytes:
    """Return the bytes of float32 values as `dtype`, rounded to nearest."""
    if dtype == "bfloat16":
        return values.to(torch.bfloat16).contiguous().view(torch.uint16).numpy().tobytes()
    return values.numpy().astype(dtype).tobytes()


def _map_clips(video: Video, use: Callable[[NDArray[np.uint8]], _Result]) -> list[tuple[_Result, float]]:
    """What `use` makes of each clip of a video, and the clip's motion."""
    path = Path(video.path)
    _require_on_node(path)

    def use_and_measure(clip: NDArray[np.uint8]) -> tuple[_Result, float]:
        return use(clip), motion(clip)

    return map_clips(path, video.starts_s, video.shape, use_and_measure, views=video.views)


def _named(video: Video, made: Sequence[tuple[_Arrays, float]], kind: str) -> list[Encoded]:
    """Arrays of a video's clips with their keys, each key once."""
    found = dict(zip(video.keys, made, strict=True))
    return [Encoded(key, *arrays, made_on=kind, motion=of_clip) for key, (arrays, of_clip) in found.items()]


def _require_on_node(path: Path) -> None:
    """Refuse to work on a node that cannot access a path."""
    if not path.exists():
        rule = "it at the same path on every node; put it on a file system that all of them share"
        raise DataError(f"{path}: got no such file on node {socket.gethostname()}, expected {rule}")

"""Clips on disk for training: decoded once, in one pass over each video, and read by number.

Memory holds one clip for each decoding thread. The disk holds only the clips that training draws, which are
known before it starts: that is the smaller of all clips and all draws.

    FOLDER/clips.u8      pictures of the wanted clips, one after the other
    FOLDER/checks.u64    a number for each of them: 0 = not decoded yet, else 1 + CRC-32 of its pictures

A pass that was killed continues: clips whose pictures have their checksum are not decoded again.

Axes: F frames, H W rows and columns in pixels.
"""

import os
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import TracebackType

import numpy as np
import pandas
from numpy.typing import NDArray
from tqdm import tqdm

from videomar.config import IngestParams
from videomar.errors import DataError
from videomar.media.clip_reader import map_clips
from videomar.media.shapes import ClipShape, ledger_shapes

_CLIPS_FILE, _CHECKS_FILE = "clips.u8", "checks.u64"
# Starts of clips are rounded to this.
_TICK_S = 0.001


def visit_clips(
    raw: Path,
    rows: pandas.DataFrame,
    ingest: IngestParams,
    use: Callable[[int, NDArray[np.uint8]], None],
    workers: int,
) -> None:
    """Call `use` with the position of each row and its clip (F, H, W, 3), in one pass over each video.

    One worker calls `use` from this thread, videos in the order of their first rows and clips of a video by
    time; several call it from their threads. Memory holds about one clip for each.

    Args:
        raw: Folder that the column `video` is relative to.
        rows: Rows of the ledger.
        ingest: Section `ingest`.
        use: Takes a clip; it may keep it.
        workers: Videos that are read side by side.

    Raises:
        UnreadableError: see `map_clips`.
    """
    by_video: dict[tuple[str, ClipShape], list[int]] = {}
    for position, key in enumerate(zip(rows["video"], ledger_shapes(rows, ingest), strict=True)):
        by_video.setdefault(key, []).append(position)
    starts: list[float] = rows["start_s"].tolist()
    bar = tqdm(total=len(rows), desc="reading clips", unit="clip", disable=None)

    def read(video: str, shape: ClipShape, positions: list[int]) -> None:
        # In the order of time, because `map_clips` calls back in that order.
        waiting = iter(sorted(positions, key=starts.__getitem__))

        def take(clip: NDArray[np.uint8]) -> None:
            use(next(waiting), clip)
            bar.update()

        until_s = max(starts[each] for each in positions) + (shape.num_frames - 1) / shape.fps + _TICK_S
        map_clips(raw / video, [starts[each] for each in positions], shape, take, until_s)

    if workers == 1:
        with bar:
            for key, positions in by_video.items():
                read(*key, positions)
        return
    with bar, ThreadPoolExecutor(workers) as pool:
        tasks = [pool.submit(read, *key, positions) for key, positions in by_video.items()]
        try:
            for task in as_completed(tasks):
                task.result()
        finally:
            pool.shutdown(cancel_futures=True)  # after an error the other videos need not be read


class ClipStore:
    """Pictures of the wanted clips, on disk. Remembers where each is; a context that closes its files."""

    def __init__(self, folder: Path, rows: pandas.DataFrame, wanted: Sequence[int], ingest: IngestParams):
        self._rows, self._ingest, self._folder = rows.iloc[list(wanted)], ingest, folder
        self._shapes = [
            (shape.num_frames, shape.height_px, shape.width_px, 3)
            for shape in ledger_shapes(self._rows, ingest)
        ]
        sizes = [int(np.prod(shape)) for shape in self._shapes]
        self._offsets: list[int] = [0, *np.cumsum(sizes, dtype=np.int64).tolist()]
        self._places: Mapping[int, int] = {number: place for place, number in enumerate(wanted)}
        self._files: list[int] = []

    def __enter__(self) -> "ClipStore":
        self._folder.mkdir(parents=True, exist_ok=True)
        paths = (self._folder / name for name in (_CLIPS_FILE, _CHECKS_FILE))
        self._files = [os.open(path, os.O_RDWR | os.O_CREAT, 0o644) for path in paths]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            os.close(file)

    def num_bytes(self, number: int) -> int:
        """Bytes of the pictures of a wanted clip."""
        place = self._places[number]
        return self._offsets[place + 1] - self._offsets[place]

    def read(self, number: int) -> NDArray[np.uint8]:
        """Pictures (F, H, W, 3) of a wanted clip, which `fill` has decoded."""
        place = self._places[number]
        return np.frombuffer(self._pictures(place), np.uint8).reshape(self._shapes[place])

    def fill(self, raw: Path) -> None:
        """Decode the wanted clips that are not here yet.

        Raises:
            DataError: the disk has no room for them.
            UnreadableError: see `map_clips`.
        """
        checks = np.frombuffer(self._checks(), np.uint64).tolist()
        missing = [place for place, check in enumerate(checks) if not self._is_whole(place, check)]
        self._require_room(missing)

        def keep(position: int, clip: NDArray[np.uint8]) -> None:
            place = missing[position]
            pictures = clip.tobytes()
            _write(self._files[0], pictures, self._offsets[place])
            _write(self._files[1], _check(pictures).to_bytes(8, "little"), 8 * place)

        visit_clips(raw, self._rows.iloc[missing], self._ingest, keep, self._ingest.num_workers)

    def _require_room(self, missing: Sequence[int]) -> None:
        needed = sum(self._offsets[place + 1] - self._offsets[place] for place in missing)
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            got = f"{free / 1e9:.1f} GB free"
            rule = f"{needed / 1e9:.1f} GB for the {len(missing)} clips that training draws"
            advice = "free some, or lower tokenizer.steps or tokenizer.batch_size"
            raise DataError(f"{self._folder}: got {got}, expected {rule}; {advice}")

    def _checks(self) -> bytes:
        """Contents of the file of checksums, with zeros for what it lacks."""
        size = 8 * len(self._shapes)
        return os.pread(self._files[1], size, 0).ljust(size, b"\0")

    def _is_whole(self, place: int, check: int) -> bool:
        if not check:
            return False
        pictures = self._pictures(place)
        return len(pictures) == self._offsets[place + 1] - self._offsets[place] and _check(pictures) == check

    def _pictures(self, place: int) -> bytes:
        begin, end = self._offsets[place], self._offsets[place + 1]
        # Read, not mapped: mapped pages would count as memory of this process.
        return os.pread(self._files[0], end - begin, begin)


def _check(pictures: bytes) -> int:
    return 1 + zlib.crc32(pictures)


def _write(file: int, content: bytes, offset: int) -> None:
    """Write all of the content; one call may write less."""
    view = memoryview(content)
    while view:
        done = os.pwrite(file, view, offset)
        view, offset = view[done:], offset + done

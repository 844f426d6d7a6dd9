"""The latent cache while it is brought in line with a list of clips: known latents stay, new ones are added.

The bytes of every array are in a shard or in the journal, memory holds the list of clips. The journal of a
cache in an object store is a local file: the store gets whole shards, at the end.
"""

import contextlib
import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
from filelock import FileLock, Timeout

from videomar.errors import DataError
from videomar.latents.parquet import DTYPES, ByteRange, to_float32
from videomar.latents.shards import intact_shards, open_latents, write_shards
from videomar.storage import Location, parse_location, work_folder

JOURNAL = ".journal"
MADE_ON = "made_on"
"""Metadata of a cache: kinds of the devices that made its clips and its captions."""
_CLIPS, _CAPTIONS = "clips", "captions"
_log = logging.getLogger(__name__)


_CPU = "cpu"


class StoredArray(NamedTuple):
    """An array in a file."""

    shape: list[int]
    data: ByteRange
    made_on: frozenset[str]
    """Kind of device that made it; of an array in a shard, the kinds that made the shard's arrays."""
    motion: float = math.nan
    """Motion score of the pixels, of the latents of a view."""


class Journal:
    """Encoded arrays that are in no shard yet, by key: a killed run does not lose them.

    One file to which records are appended: a line of JSON, then the bytes. Opened again, it is cut behind the
    last whole record. One process at a time has it open.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / JOURNAL
        self.arrays: dict[str, StoredArray] = {}
        # Beside the folder: DVC takes every file in it for a result.
        self._lock = FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0)

    def __enter__(self) -> Self:
        try:
            self._lock.acquire()
        except Timeout:
            rule = "one encode at a time; wait for the other"
            raise DataError(f"{self.path}: got a journal in use, expected {rule}") from None
        self.file = self.path.open("a+b")
        self.file.seek(0)
        end = 0
        while record := _read_record(self.file):
            self._index(record, self.file.tell() - record["bytes"])
            end = self.file.tell()
        self.file.truncate(end)
        self.file.seek(end)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # closing writes once more what a full disk refused
            self.file.close()
        self._lock.release()

    def add(
        self, key: str, shape: list[int], data: bytes, made_on: str = _CPU, motion: float = math.nan
    ) -> None:
        """Append an array.

        Raises:
            DataError: it cannot be written, for example because the disk is full.
        """
        record = {"key": key, "shape": shape, "bytes": len(data), "sum": hashlib.sha256(data).hexdigest()}
        record |= {"made_on": made_on, "motion": motion}
        try:
            self.file.write(json.dumps(record).encode() + b"\n")
            offset = self.file.tell()
            self.file.write(data)
            self.file.flush()
        except OSError as error:
            rule = f"room for {len(data)} bytes more; free some and run again: finished arrays are kept"
            raise DataError(f"{self.path}: got {error.strerror}, expected {rule}") from None
        self._index(record, offset)

    def remove(self) -> None:
        """Delete the file, once all arrays are in shards."""
        self.path.unlink()

    def _index(self, record: dict[str, Any], offset: int) -> None:
        data, made_on = ByteRange(self.path, offset, record["bytes"]), record.get("made_on", _CPU)
        motion = record.get("motion", math.nan)
        self.arrays[record["key"]] = StoredArray(record["shape"], data, frozenset([made_on]), motion)


class LatentCache:
    """A cache while it is brought up to date. Remembers where the bytes of every known key are.

    Used as a context. After a kill at any moment the next run continues, and ends in the same bytes.
    """

    def __init__(self, folder: Location) -> None:
        self.folder = parse_location(folder)
        self._journal = Journal(work_folder(self.folder))

    def __enter__(self) -> Self:
        self._journal.__enter__()
        self._shards, self.damages = intact_shards(self.folder)
        for damage in self.damages:
            _log.warning("%s; its clips are encoded again", damage)
        self._known: dict[str, StoredArray] = {}
        for shard in self._shards:
            clips_on, captions_on = (
                frozenset(shard.metadata.get(MADE_ON, {}).get(name, [_CPU])) for name in (_CLIPS, _CAPTIONS)
            )
            for number, row in enumerate(shard.rows):
                latents, text = shard.byte_range("latents", number), shard.byte_range("text", number)
                self._known[row["key"]] = StoredArray(row["shape"], latents, clips_on, row["motion"])
                if not row["view"]:
                    self._known[row["text_key"]] = StoredArray(row["text_shape"], text, captions_on)
                if "latents_std" in shard.offsets:
                    std = StoredArray(row["shape"], shard.byte_range("latents_std", number), clips_on)
                    self._known[std_key(row["key"])] = std
        self._known |= self._journal.arrays
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.__exit__(*error)

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def motion_of(self, key: str) -> float:
        """Return the motion score of a view, by the key of its latents."""
        return self._known[key].motion

    def add(
        self,
        key: str,
        dtype: str,
        shape: Sequence[int],
        data: bytes,
        made_on: str = _CPU,
        motion: float = math.nan,
    ) -> None:
        """Add the array of a key; from here on a kill does not lose it.

        Raises:
            DataError: it has values that are not finite, or the disk is full.
        """
        if not np.isfinite(to_float32(np.frombuffer(data, DTYPES[dtype]), dtype)).all():
            rule = f"finite {dtype}; train the tokenizer again, or choose a wider encode.dtype"
            raise DataError(f"{key}: got values that are not finite, expected {rule}")
        self._journal.add(key, list(shape), data, made_on, motion)
        self._known[key] = self._journal.arrays[key]

    def write(self, clips: Sequence[Mapping[str, Any]], shard_clips: int, metadata: Mapping[str, Any]) -> int:
        """Make the shards hold exactly `clips`, whose keys must all be known, and delete the journal.

        Args:
            clips: columns of SCHEMA except shapes, dtype and bytes.
            shard_clips: see `write_shards`.
            metadata: what the latents were made with, `dtype` and `moments` among them.

        Returns:
            The number of shards written.

        Raises:
            DataError: the shards do not hold the clips, or the disk is full.
        """
        rows = [self._row(clip, metadata["dtype"], metadata["moments"]) for clip in clips]
        made_on = {
            kind: sorted({device for clip in clips for device in self._known[clip[key]].made_on})
            for kind, key in ((_CLIPS, "key"), (_CAPTIONS, "text_key"))
        }
        metadata = {**metadata, MADE_ON: made_on}
        written = write_shards(self.folder, rows, shard_clips, metadata, self._shards)
        kept = sorted(row["clip_id"] for shard in open_latents(self.folder) for row in shard.rows)
        if kept != sorted(clip["clip_id"] for clip in clips):
            rule = f"the {len(clips)} kept ones of the ledger; delete the folder and run again"
            raise DataError(f"{self.folder}: got {len(kept)} clips, expected {rule}")
        self._journal.remove()
        return written

    def _row(self, clip: Mapping[str, Any], dtype: str, moments: bool) -> dict[str, Any]:
        latents, text = self._known[clip["key"]], self._known[clip["text_key"]]
        values = {"shape": latents.shape, "latents": latents.data, "text_shape": text.shape}
        values |= {"text": text.data}
        if clip["view"]:
            values |= {"text_shape": [0, *text.shape[1:]], "text": b""}
        std = self._known[std_key(clip["key"])].data if moments else None
        return {**clip, **values, "latents_std": std, "dtype": dtype}


def std_key(key: str) -> str:
    """Return the key of the deviations of latents: adding them to a cache keeps the keys of its latents."""
    return f"{key} std"


def _read_record(file: BinaryIO) -> dict[str, Any] | None:
    """Read the next record, and its bytes; None at the end or at a torn one."""
    try:
        record = json.loads(file.readline())
        data = file.read(record["bytes"])
    except (ValueError, LookupError, TypeError):
        return None
    whole = len(data) == record["bytes"] and hashlib.sha256(data).hexdigest() == record["sum"]
    return record if whole else None

"""Bringing the latent cache in line with a list of clips: what is known is taken over, the rest is asked for.

Bytes are in shards or in the journal all the time; memory holds the list of clips. The journal of a cache in
an object store is a local one: the store gets whole shards, at the end.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from videomar.errors import DataError
from videomar.latents.dtypes import DTYPES, to_float32
from videomar.latents.journal import Array, Journal
from videomar.latents.shards import intact_shards, open_latents, write_shards
from videomar.storage import Location, parse_location, work_folder

_log = logging.getLogger(__name__)


class LatentCache:
    """A cache while it is brought up to date. Remembers where the bytes of every known key lie.

    Used as a context. Killed anywhere, it leaves a folder that the next run goes on from, to the same bytes.
    """

    def __init__(self, folder: Location) -> None:
        self.folder = parse_location(folder)
        self._journal = Journal(work_folder(self.folder))

    def __enter__(self) -> Self:
        self._journal.__enter__()
        self._shards, self.damages = intact_shards(self.folder)
        for damage in self.damages:
            _log.warning("%s; its clips are encoded again", damage)
        self._known: dict[str, Array] = {}
        for shard in self._shards:
            for number, row in enumerate(shard.rows):
                self._known[row["key"]] = Array(row["shape"], shard.stored("latents", number))
                self._known[row["text_key"]] = Array(row["text_shape"], shard.stored("text", number))
                if "latents_std" in shard.offsets:
                    std = Array(row["shape"], shard.stored("latents_std", number))
                    self._known[std_key(row["key"])] = std
        self._known |= self._journal.arrays
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.__exit__(*error)

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def add(self, key: str, dtype: str, shape: Sequence[int], data: bytes) -> None:
        """Keep the array of a key; from now on a kill does not lose it.

        Raises:
            DataError: it holds values that are not finite, or the disk is full.
        """
        if not np.isfinite(to_float32(np.frombuffer(data, DTYPES[dtype]), dtype)).all():
            rule = f"finite {dtype}; train the tokenizer again, or choose a wider encode.dtype"
            raise DataError(f"{key}: got values that are not finite, expected {rule}")
        self._journal.add(key, list(shape), data)
        self._known[key] = self._journal.arrays[key]

    def write(self, clips: Sequence[Mapping[str, Any]], shard_clips: int, facts: Mapping[str, Any]) -> int:
        """Make the shards hold exactly `clips`, all of whose keys are known, and end the journal.

        Args:
            clips: columns of SCHEMA but for shapes, dtype and bytes.
            shard_clips: see `write_shards`.
            facts: what the latents were made with, `dtype` and `moments` among them.

        Returns:
            How many shards were written.

        Raises:
            DataError: the shards do not hold the clips, or the disk is full.
        """
        rows = [self._row(clip, facts["dtype"], facts["moments"]) for clip in clips]
        written = write_shards(self.folder, rows, shard_clips, facts, self._shards)
        kept = sorted(row["clip_id"] for shard in open_latents(self.folder) for row in shard.rows)
        if kept != sorted(clip["clip_id"] for clip in clips):
            rule = f"the {len(clips)} kept ones of the ledger; delete the folder and run again"
            raise DataError(f"{self.folder}: got {len(kept)} clips, expected {rule}")
        self._journal.remove()
        return written

    def _row(self, clip: Mapping[str, Any], dtype: str, moments: bool) -> dict[str, Any]:
        latents, text = self._known[clip["key"]], self._known[clip["text_key"]]
        values = {"shape": latents.shape, "latents": latents.stored, "text_shape": text.shape}
        std = self._known[std_key(clip["key"])].stored if moments else None
        return {**clip, **values, "latents_std": std, "text": text.stored, "dtype": dtype}


def std_key(key: str) -> str:
    """Key of the deviations of the latents of a key: latents are the same with and without them."""
    return f"{key} std"

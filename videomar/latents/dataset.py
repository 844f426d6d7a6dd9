"""Batches of latents as a function of the step: nothing to save, nothing to lose.

Axes: B batch, C channels, T latent frames, H W latent rows and columns, M caption tokens, E caption channels.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from videomar.checkpoint.manifest import ModelShape
from videomar.config import Params
from videomar.errors import DataError
from videomar.latents.buckets import BatchSchedule, find_buckets
from videomar.latents.keys import check_metadata, expected_metadata
from videomar.latents.parquet import to_float32
from videomar.latents.reader import StoredColumn
from videomar.latents.shards import CONDITIONS, open_latents
from videomar.storage import Location

_log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """Latents (B, C, T, H, W), caption states (B, M, E), real caption tokens (B, M), conditions (B,), ids."""

    latents: NDArray[np.float32]
    text: NDArray[np.float32]
    text_mask: NDArray[np.bool_]
    conditions: dict[str, NDArray[np.float32]]
    clip_ids: list[str]
    latents_std: NDArray[np.float32] | None = None
    """Deviations of the latents, of the same shape, if `BatchSpec.moments`."""
    simulated: NDArray[np.bool_] | None = None
    """Whether each clip is simulated (B,)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSpec:
    """Which clips batches consist of, and in which order."""

    batch_size: int
    """Clips of the global batch, B."""
    simulated_share: float
    """Share of simulated clips, if the cache has both kinds."""
    seed: int
    num_latent_frames: int = 0
    """Clips are cut to so many, and shorter ones left out; 0 = whole clips. Only 1 draws still pictures."""
    size_px: int = 0
    """Base size that the clips were encoded at; 0 = the largest."""
    moments: bool = False
    """Batches contain the deviations of the latents, too."""


class LatentDataset:
    """The clips of one split. Remembers where their latents and captions are stored; has no position.

    Bytes are read when a batch is made, and a row group is verified when the first of its clips is read: the
    cache may be larger than memory. Rows are numbered in the order of their clips' ids; a clip encoded at
    several sizes has a row for each, and so has each of its views.
    """

    def __init__(
        self, folder: Location, split: str, max_text_tokens: int, expected: Mapping[str, Any] | None = None
    ) -> None:
        """Open a cache.

        Args:
            folder: of the cache.
            split: `train`, `val` or `test`.
            max_text_tokens: length that captions are padded to.
            expected: metadata that the cache must have, see `expected_metadata`; None accepts any.

        Raises:
            DataError: the cache is missing, damaged or another, or the split is empty.
        """
        shards = open_latents(folder)
        check_metadata(folder, shards[0].metadata, expected or {})
        rows = [
            (shard, number)
            for shard in shards
            for number, row in enumerate(shard.rows)
            if row["split"] == split
        ]
        if not rows:
            raise DataError(f"{folder}: got no clip in split {split}, expected some; run `dvc repro encode`")
        rows.sort(key=lambda row: [row[0].rows[row[1]][name] for name in ("clip_id", "key")])
        table = [shard.rows[number] for shard, number in rows]
        self.metadata = shards[0].metadata
        self.clip_ids = [row["clip_id"] for row in table]
        self.conditions = {name: np.array([row[name] for row in table], np.float32) for name in CONDITIONS}
        self.max_text_tokens = max_text_tokens
        self._latents = StoredColumn("latents", rows)
        # Views take the caption states of their clip's row.
        of_caption = {
            row["text_key"]: place for row, place in zip(table, rows, strict=True) if not row["view"]
        }
        texts = [
            of_caption[row["text_key"]] if row["view"] else place
            for row, place in zip(table, rows, strict=True)
        ]
        self._text = StoredColumn("text", texts)
        has_moments = all("latents_std" in shard.offsets for shard in shards)
        self._std = StoredColumn("latents_std", rows) if has_moments else None
        _refuse_long(self._text, max_text_tokens)
        self.sizes_px = np.array([row["size_px"] for row in table])
        self.views = np.array([row["view"] for row in table])
        self.lengths = np.array([shape[1] for shape in self._latents.shapes])
        self.simulated = np.array([row["group"] == "simulated" for row in table])
        self._schedules: dict[BatchSpec, BatchSchedule] = {}
        conditions = [{name: row[name] for name in CONDITIONS} for row in table]
        keys = sorted(
            f"{row['key']} {row['text_key']} {values}" for row, values in zip(table, conditions, strict=True)
        )
        self.content_hash = hashlib.sha256("\n".join(keys).encode()).hexdigest()

    @property
    def latent_channels(self) -> int:
        """Channels of the latents, C."""
        return self._latents.shapes[0][0]

    @property
    def latent_shapes(self) -> list[tuple[int, ...]]:
        """Shape (C, T, H, W) of each row's latents."""
        return self._latents.shapes

    @property
    def text_channels(self) -> int:
        """Channels of the caption states, E."""
        return self._text.shapes[0][1]

    def __len__(self) -> int:
        return len(self.clip_ids)

    @property
    def largest(self) -> dict[str, int]:
        """Row of each clip at the largest size, and of none of its views, by the clip's id."""
        numbers = np.flatnonzero((self.sizes_px == self.sizes_px.max()) & (self.views == 0)).tolist()
        return {self.clip_ids[number]: number for number in numbers}

    def batch_at(self, step: int, spec: BatchSpec, rank: int = 0, world_size: int = 1) -> Batch:
        """Return a worker's part of the global batch of a step, all of one shape.

        Parts are dealt in turn: put together in turn, they are the same batch for any number of workers.

        Raises:
            DataError: no clip fits `spec`, it asks for deviations that the cache lacks, and see `rows`.
        """
        index = self._schedule(spec).index_at(step)[rank::world_size]
        batch = self.rows(index, spec.num_latent_frames)
        return batch._replace(latents_std=self._deviations(index, spec)) if spec.moments else batch

    def index_at(self, step: int, batch_size: int, simulated_share: float, seed: int) -> NDArray[np.int64]:
        """Rows of the global batch of a step, (B,), whole clips of the largest size: see `BatchSchedule`."""
        spec = BatchSpec(batch_size=batch_size, simulated_share=simulated_share, seed=seed)
        return self._schedule(spec).index_at(step)

    def rows(self, index: Sequence[int] | NDArray[np.int64], num_latent_frames: int = 0) -> Batch:
        """Read the clips at `index`, cut to their first `num_latent_frames` (0 = all).

        Raises:
            DataError: the clips differ in shape, their bytes are damaged, or a latent is not finite.
        """
        clip_ids = [self.clip_ids[i] for i in index]
        latents = _cut(*self.stored_latents(index), num_latent_frames)
        _refuse_non_finite(latents, clip_ids)
        text, mask = _pad(self._text.read_each(index), self.max_text_tokens)
        conditions = {name: values[index] for name, values in self.conditions.items()}
        return Batch(latents, text, mask, conditions, clip_ids, simulated=self.simulated[index])

    def usable(self, num_latent_frames: int, size_px: int = 0) -> NDArray[np.int64]:
        """Rows of one base size that a stage of so many latent frames may learn from, whatever their length.

        Still pictures, clips of one latent frame, are for stages of one latent frame alone: elsewhere a
        folder of a million of them would leave no step for the videos.
        """
        sized = self.sizes_px == (size_px or self.sizes_px.max())
        return np.flatnonzero(sized & ((self.lengths > 1) | (num_latent_frames == 1)))

    def fitting(self, num_latent_frames: int, size_px: int = 0) -> NDArray[np.int64]:
        """Those of `usable` that are long enough.

        Raises:
            DataError: no clip has the size, or none is long enough.
        """
        if size_px and size_px not in self.sizes_px:
            rule = f"one of {sorted(set(self.sizes_px.tolist()))}; see encode.smaller_sizes_px"
            raise DataError(f"size_px: got {size_px}, expected {rule}")
        usable = self.usable(num_latent_frames, size_px)
        fitting = usable[self.lengths[usable] >= num_latent_frames]
        if not len(fitting):
            rule = "1, because all clips are still pictures; add videos"
            if len(usable):
                rule = f"at most {self.lengths[usable].max()}, the longest clips' length"
            raise DataError(f"num_latent_frames: got {num_latent_frames}, expected {rule}")
        return fitting

    def _deviations(self, index: NDArray[np.int64], spec: BatchSpec) -> NDArray[np.float32]:
        if self._std is None:
            rule = "the deviations too; set encode.moments to true and run `dvc repro encode`"
            raise DataError(f"train.draw_latents: got a cache of latents alone, expected {rule}")
        return _cut(*self._std.read_batch(index), spec.num_latent_frames)

    def _schedule(self, spec: BatchSpec) -> BatchSchedule:
        """Return the schedule of batches, made once per spec.

        Raises:
            DataError: no clip has its size, or none is long enough.
        """
        if spec not in self._schedules:
            fitting = self.fitting(spec.num_latent_frames, spec.size_px)
            buckets = find_buckets(self._latents.shapes, self.simulated, fitting)
            self._schedules[spec] = BatchSchedule(buckets, spec.batch_size, spec.simulated_share, spec.seed)
        return self._schedules[spec]

    def stored_latents(self, index: Sequence[int] | NDArray[np.int64]) -> tuple[NDArray[Any], str]:
        """Read latents (B, C, T, H, W) as they are stored, bfloat16 as uint16, and the name of their type.

        Raises:
            DataError: the clips differ in shape or type, or their bytes are damaged.
        """
        return self._latents.read_batch(index)


def _cut(stored: NDArray[Any], dtype: str, num_latent_frames: int) -> NDArray[np.float32]:
    """The first latent frames (0 = all) of stored values (B, C, T, H, W)."""
    return to_float32(stored[:, :, :num_latent_frames] if num_latent_frames else stored, dtype)


def _refuse_non_finite(latents: NDArray[np.float32], clip_ids: list[str]) -> None:
    # One fast pass: a sum is not finite if a term is not. It may also overflow, so look again.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(latents.sum()):
            return
    bad = np.array([not np.isfinite(clip).all() for clip in latents])
    if bad.any():
        raise DataError(
            f"{clip_ids[int(bad.argmax())]}: got latents that are not finite, expected finite ones; "
            "train the tokenizer again and run `dvc repro encode`"
        )


class Splits(NamedTuple):
    """Training clips, and held-out ones for validation; None if there are none."""

    train: LatentDataset
    val: LatentDataset | None = None


def read_splits(latents: Location, params: Params) -> Splits:
    """Return the clips of a latent cache that was made with these parameters.

    Raises:
        DataError: the cache was made with other parameters, is missing or damaged, or has no training clip.
    """
    facts = expected_metadata(params)
    val = _val_split(params, latents, facts) if params.train.validate_every else None
    return Splits(LatentDataset(latents, "train", params.text.max_tokens, facts), val)


def _val_split(params: Params, latents: Location, facts: dict[str, Any]) -> LatentDataset | None:
    """Return the held-out clips, or None if the cache has none, as with a user's few clips."""
    if all(row["split"] != "val" for shard in open_latents(latents) for row in shard.rows):
        _log.warning("%s: no clip in split val: this run has no validation loss", latents)
        return None
    return LatentDataset(latents, "val", params.text.max_tokens, facts)


def shape_of(dataset: LatentDataset, params: Params) -> ModelShape:
    """Return the shape of the network: section `model`, with the channels of the cache."""
    return ModelShape(params.model, dataset.latent_channels, dataset.text_channels, params.text.max_tokens)


def _refuse_long(text: StoredColumn, max_tokens: int) -> None:
    longest = max(shape[0] for shape in text.shapes)
    if longest > max_tokens:
        rule = f"at most text.max_tokens {max_tokens}"
        raise DataError(f"caption: got {longest} tokens, expected {rule}; run `dvc repro encode`")


def _pad(states: list[NDArray[np.float32]], max_tokens: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Caption states (M, E) as (B, max_tokens, E) and the mask (B, max_tokens) of real tokens."""
    text = np.zeros((len(states), max_tokens, states[0].shape[1]), np.float32)
    mask = np.zeros((len(states), max_tokens), np.bool_)
    for row, state in enumerate(states):
        text[row, : len(state)] = state
        mask[row, : len(state)] = True
    return text, mask

"""Batches of latents as a function of the step: nothing to save, nothing to lose.

Axes: B batch, C channels, T latent frames, H W latent rows and columns, M caption tokens, E caption channels.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from videomar.data.latents import CONDITIONS, read_latents
from videomar.errors import DataError


class Batch(NamedTuple):
    """Latents (B, C, T, H, W), caption states (B, M, E), real caption tokens (B, M), conditions (B,), ids."""

    latents: NDArray[np.float32]
    text: NDArray[np.float32]
    text_mask: NDArray[np.bool_]
    conditions: dict[str, NDArray[np.float32]]
    clip_ids: list[str]


class LatentDataset:
    """The clips of one split, in memory. Remembers latents and captions; has no position."""

    def __init__(self, folder: Path, split: str, max_text_tokens: int) -> None:
        table = read_latents(folder)
        rows = [row for row, value in enumerate(table.split) if value == split]
        if not rows:
            raise DataError(f"{folder}: got no clip in split {split}, expected some; run `dvc repro encode`")
        self.clip_ids = [table.clip_ids[row] for row in rows]
        self.latents = np.stack([table.latents[row] for row in rows])
        _refuse_non_finite(folder, self.latents, self.clip_ids)
        told = [table.conditions[row] for row in rows]
        self.conditions = {name: np.array([clip[name] for clip in told], np.float32) for name in CONDITIONS}
        self.text, self.text_mask = _pad([table.text[row] for row in rows], max_text_tokens)
        simulated = np.array([table.group[row] == "simulated" for row in rows])
        self.groups = [
            indices for indices in (np.flatnonzero(simulated), np.flatnonzero(~simulated)) if len(indices)
        ]
        self.has_both_groups = len(self.groups) == 2
        keys = sorted(f"{table.keys[row]} {table.text_keys[row]} {table.conditions[row]}" for row in rows)
        self.content_hash = hashlib.sha256("\n".join(keys).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.clip_ids)

    def index_at(self, step: int, batch_size: int, simulated_share: float, seed: int) -> NDArray[np.int64]:
        """Clips of the global batch of a step, (B,); the same for any number of workers.

        Each group is walked through in a new random order every time it has been seen completely.
        """
        counts = [batch_size]
        if self.has_both_groups:
            simulated = round(batch_size * simulated_share)
            counts = [simulated, batch_size - simulated]
        picked = [
            indices[_walk(len(indices), step * count, count, seed + group)]
            for group, (indices, count) in enumerate(zip(self.groups, counts, strict=True))
        ]
        # Dealt out like cards, so that every worker's part holds both groups.
        return np.concatenate(picked)[np.random.default_rng([seed, step]).permutation(batch_size)]

    def rows(self, index: NDArray[np.int64], num_latent_frames: int = 0) -> Batch:
        """The clips at `index`, cut to their first `num_latent_frames` (0 = all)."""
        latents = self.latents[index]
        if num_latent_frames:
            latents = latents[:, :, :num_latent_frames]
        conditions = {name: values[index] for name, values in self.conditions.items()}
        clip_ids = [self.clip_ids[i] for i in index]
        return Batch(latents, self.text[index], self.text_mask[index], conditions, clip_ids)


def _walk(size: int, start: int, count: int, seed: int) -> NDArray[np.int64]:
    """Places `start` to `start + count` of an endless walk that takes each of `size` items once an epoch."""
    places = np.arange(start, start + count)
    epochs = np.unique(places // size).tolist()
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(size) for epoch in epochs}
    return np.array([orders[place // size][place % size] for place in places], dtype=np.int64)


def _refuse_non_finite(folder: Path, latents: NDArray[np.float32], clip_ids: list[str]) -> None:
    bad = np.array([not np.isfinite(clip).all() for clip in latents])
    if bad.any():
        first = clip_ids[int(bad.argmax())]
        raise DataError(
            f"{folder}: got {bad.sum()} clips of {len(bad)} with latents that are not finite, {first} among "
            "them, expected none; train the tokenizer again and run `dvc repro encode`"
        )


def _pad(states: list[NDArray[np.float32]], max_tokens: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Caption states (M, E) as (B, max_tokens, E) and the mask (B, max_tokens) of real tokens."""
    channels = states[0].shape[1]
    text = np.zeros((len(states), max_tokens, channels), np.float32)
    mask = np.zeros((len(states), max_tokens), np.bool_)
    for row, state in enumerate(states):
        if len(state) > max_tokens:
            rule = f"at most text.max_tokens {max_tokens}"
            raise DataError(f"caption: got {len(state)} tokens, expected {rule}; run `dvc repro encode`")
        text[row, : len(state)] = state
        mask[row, : len(state)] = True
    return text, mask

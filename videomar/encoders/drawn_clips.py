"""Which clips the tokenizer's training draws, a function of (seed, step) alone, and their batches.

Axes: b clips of one shape, F frames, H W rows and columns in pixels.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pandas
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomar.compute.device import send
from videomar.compute.seeding import step_generator
from videomar.config import TokenizerParams
from videomar.encoders.clip_store import ClipStore
from videomar.encoders.tokenizer import to_unit_range

PCA_CLIPS = 512
STATISTICS_BATCHES, STATISTICS_BATCH = 8, 64
# Streams of draws that no step uses.
_PCA_STEP, _STATISTICS_STEP = -1, -2


class Draw(NamedTuple):
    """A drawn clip: its row, and whether it is mirrored."""

    row: int
    mirrored: bool


class TokenizerBatch(NamedTuple):
    """What one training step needs."""

    step: int
    parts: list[Tensor]
    """Clips in parts of one shape each, (b, 3, F, H, W) in [-1, 1]."""
    generator: torch.Generator
    """For noise, on the device of the clips."""


class Draws:
    """All draws of a run from rows of the ledger. Remembers the rows of each group; one may be empty."""

    def __init__(self, rows: pandas.DataFrame, params: TokenizerParams) -> None:
        simulated = (rows["group"] == "simulated").to_numpy()
        self._groups = np.flatnonzero(simulated), np.flatnonzero(~simulated)
        self._params = params

    def at_step(self, step: int) -> tuple[list[Draw], torch.Generator]:
        """Return the draws of a training step, and its generator after them."""
        generator = step_generator(self._params.seed, step)
        return self._draw(self._params.batch_size, generator), generator

    def for_pca(self) -> list[Draw]:
        """Return the draws of the linear start."""
        return self._draw(PCA_CLIPS, step_generator(self._params.seed, _PCA_STEP))

    def for_statistics(self) -> list[list[Draw]]:
        """Return the draws of the latents' statistics, in batches."""
        generator = step_generator(self._params.seed, _STATISTICS_STEP)
        return [self._draw(STATISTICS_BATCH, generator) for _ in range(STATISTICS_BATCHES)]

    def all_rows(self) -> list[int]:
        """Return every row that the run draws, sorted."""
        batches = [self.for_pca(), *self.for_statistics()]
        batches += [self.at_step(step)[0] for step in range(self._params.steps)]
        return sorted({draw.row for batch in batches for draw in batch})

    def _draw(self, size: int, generator: torch.Generator) -> list[Draw]:
        """Draw rows of both groups; half of them are mirrored. If a group is empty, all are of the other."""
        simulated, real = self._groups
        share = self._params.simulated_share if len(simulated) and len(real) else float(len(simulated) > 0)
        count = round(size * share)
        rows = [
            int(group[number])
            for group, part in ((simulated, count), (real, size - count))
            if part
            for number in torch.randint(len(group), (part,), generator=generator).tolist()
        ]
        mirrored = (torch.rand(len(rows), generator=generator) < 0.5).tolist()
        return [Draw(*each) for each in zip(rows, mirrored, strict=True)]


def load_clips(store: ClipStore, draws: Sequence[Draw]) -> list[Tensor]:
    """Return drawn clips as uint8 pictures in parts (b, F, H, W, 3) of one shape each."""
    clips = [(store.read(row), mirrored) for row, mirrored in draws]
    return by_shape([clip[:, :, ::-1] if mirrored else clip for clip, mirrored in clips])


def by_shape(clips: Sequence[NDArray[np.uint8]]) -> list[Tensor]:
    """Stack clips (F, H, W, 3) of equal shape to (b, F, H, W, 3), in the order of their first clips."""
    parts: dict[tuple[int, ...], list[NDArray[np.uint8]]] = {}
    for clip in clips:
        parts.setdefault(clip.shape, []).append(clip)
    return [torch.from_numpy(np.stack(part)) for part in parts.values()]


def load_videos(store: ClipStore, draws: Sequence[Draw], device: torch.device) -> list[Tensor]:
    """Return drawn clips in parts (b, 3, F, H, W) of one shape each, in [-1, 1]."""
    return [to_unit_range(part.to(device)) for part in load_clips(store, draws)]


def batches(
    draws: Draws, store: ClipStore, params: TokenizerParams, first_step: int, device: torch.device
) -> Iterator[TokenizerBatch]:
    """Yield the batches from a step to the last one; a thread reads the next while the device computes."""

    def read(step: int) -> tuple[list[Tensor], torch.Generator]:
        drawn, generator = draws.at_step(step)
        return load_clips(store, drawn), generator

    with ThreadPoolExecutor(1) as reader:
        steps = range(first_step, params.steps)
        ahead = [reader.submit(read, step) for step in steps[:1]]
        for step in steps:
            parts, generator = ahead.pop().result()
            if step + 1 in steps:
                ahead.append(reader.submit(read, step + 1))
            if device.type != "cpu":  # noise is drawn where it is used
                generator = step_generator(params.seed, step, device=device)
            yield TokenizerBatch(step, [to_unit_range(send(part, device)) for part in parts], generator)

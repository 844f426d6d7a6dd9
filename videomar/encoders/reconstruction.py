"""How well tokenizers reconstruct held-out clips, measured in one pass over their videos.

Axes: B batch, F frames, H W rows and columns in pixels.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomar.config import IngestParams
from videomar.encoders.clip_store import visit_clips
from videomar.encoders.tokenizer import VideoTokenizer, to_unit_range

# Clips measured at once: few, because a pretrained tokenizer is large.
_BATCH = 8
_SMALLEST_ERROR = 1e-6


class _Pending(NamedTuple):
    """Clips of one group and shape that wait until they fill a batch."""

    clips: list[NDArray[np.uint8]]
    group: str


class ReconstructionErrors:
    """Remembers the squared error of the reconstruction of each clip, by group and name of the tokenizer."""

    def __init__(self, tokenizers: Mapping[str, VideoTokenizer], device: torch.device) -> None:
        self._tokenizers, self._device = tokenizers, device
        self._pending: dict[tuple[str, tuple[int, ...]], _Pending] = {}
        self._errors: dict[tuple[str, str], list[float]] = {}

    def add(self, group: str, clip: NDArray[np.uint8]) -> None:
        """Measure a clip (F, H, W, 3), as soon as there are enough of its group and shape."""
        pending = self._pending.setdefault((group, clip.shape), _Pending([], group))
        pending.clips.append(clip)
        if len(pending.clips) == _BATCH:
            self._measure(pending)

    def by_group(self) -> dict[tuple[str, str], Tensor]:
        """Errors (clips,) by group and name, of all clips that were added."""
        for pending in self._pending.values():
            if pending.clips:
                self._measure(pending)
        return {key: torch.tensor(errors) for key, errors in self._errors.items()}

    def _measure(self, pending: _Pending) -> None:
        video = to_unit_range(torch.from_numpy(np.stack(pending.clips)).to(self._device))
        pending.clips.clear()
        for name, tokenizer in self._tokenizers.items():
            output = tokenizer.decode(tokenizer.encode(video))
            errors = (output - video).square().mean((1, 2, 3, 4))
            # Numbers, because small tensors kept between large ones keep the allocator from reusing memory.
            self._errors.setdefault((pending.group, name), []).extend(errors.tolist())


def reconstruction_errors(
    raw: Path,
    rows: pandas.DataFrame,
    ingest: IngestParams,
    tokenizers: Mapping[str, VideoTokenizer],
    device: torch.device,
) -> dict[tuple[str, str], Tensor]:
    """Mean squared errors (clips,) of the reconstruction of clips of the ledger.

    Args:
        raw: folder that the column `video` is relative to.
        rows: rows of the ledger.
        ingest: section `ingest`.
        tokenizers: by name, on `device`.
        device: where they compute.

    Returns:
        Errors by group, `sim` or `real`, and name of the tokenizer.

    Raises:
        DataError: a tokenizer's strides do not divide a clip.
    """
    groups = ["sim" if group == "simulated" else "real" for group in rows["group"]]
    errors = ReconstructionErrors(tokenizers, device)
    # One worker: which clips make a batch must not depend on timing.
    visit_clips(raw, rows, ingest, lambda row, clip: errors.add(groups[row], clip), workers=1)
    return errors.by_group()


def psnr_db(errors: Tensor) -> float:
    """Mean over clips of the PSNR, decibels, from squared errors (clips,) of values in [-1, 1]."""
    return (10 * torch.log10(4 / errors.clamp_min(_SMALLEST_ERROR))).mean().item()


def decibels(error: float) -> float:
    """Decibels of one mean squared error of values in [-1, 1]."""
    return 10 * math.log10(4 / max(error, _SMALLEST_ERROR))

"""Held-out clips in memory: which clips, their truth, and a wrong prompt for each.

Axes: F frames, H W rows and columns in pixels, C channels, T latent frames.
"""

import hashlib
import json
import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas
import torch
from torch import Tensor

from videomar.config import Params, SuiteParams
from videomar.config.layout import SEEN
from videomar.curation.ledger import kept_clips, read_ledger
from videomar.errors import DataError
from videomar.latents.dataset import LatentDataset
from videomar.media.clip_reader import read_ledger_clips
from videomar.sampling.worlds import World, worlds_of

SPLIT = "test"
# A part of a video, in seconds, as registry/ancestors.py writes it.
_PART = re.compile(r"(\d+\.?\d*)-(\d+\.?\d*)")


class HeldOut(NamedTuple):
    """Held-out clips in memory. `pictures` (F, H, W, 3) and `latents` (C, T, h, w) have many shapes."""

    rows: pandas.DataFrame
    pictures: list[Tensor]
    latents: list[Tensor]
    text: Tensor
    text_mask: Tensor
    wrong: list[int]
    """For each clip the index of another clip, whose caption is a wrong prompt for this one."""
    extra: list[int]
    """Indices of the few clips that are generated in further ways."""
    num_seen: int
    """Clips of the split left out because a model that training started from was trained on their videos."""
    worlds: Mapping[int, World] = {}
    """Scenes by the index of the clip: those of the simulated clips that get a longer and a larger truth."""


def read_held_out(paths: Any, params: Params) -> HeldOut:
    """The clips that section `suite` asks for, from the test split.

    Clips of videos that an ancestor of the model was trained on are no held-out clips, and left out; of a
    video that is split in time here, those that overlap with what the ancestor was trained on. So are still
    pictures, which have nothing to continue.

    Args:
        paths: `raw`, `ledger`, `latents`; and `named`, the listing of these videos, which may be missing.
        params: section `suite` chooses.

    Raises:
        DataError: the split is empty, or an ancestor saw all of it.
    """
    kept = kept_clips(read_ledger(paths.ledger))
    everything = kept[(kept["split"] == SPLIT) & (kept["num_frames"] > 1)].reset_index(drop=True)
    in_part = set(kept.loc[kept["split"] == "train", "video_sha256"])
    unseen = everything[~_are_seen(everything, read_seen(getattr(paths, "named", None)), in_part)]
    rows = choose_clips(unseen, params.suite)
    if rows.empty and len(everything):
        raise DataError(
            f"{paths.ledger}: got {len(everything)} clips in split {SPLIT}, all of videos that the model of "
            "train.start_from was trained on, expected others; add videos, or start from other weights"
        )
    if rows.empty:
        got = f"no clip of a video in split {SPLIT}"
        raise DataError(f"{paths.ledger}: got {got}, expected some; add videos or relax curate")
    cache = LatentDataset(paths.latents, SPLIT, params.text.max_tokens)
    index = cache.largest
    stored = [cache.rows([index[clip_id]]) for clip_id in rows["clip_id"]]
    pictures = [torch.from_numpy(clip) for clip in read_ledger_clips(paths.raw, rows, params.ingest)]
    latents = [torch.from_numpy(clip.latents[0]) for clip in stored]
    text, text_mask = (
        torch.from_numpy(np.concatenate(arrays))
        for arrays in ([clip.text for clip in stored], [clip.text_mask for clip in stored])
    )
    extra = spread(rows, params.suite.extra_clips)
    num_seen = len(everything) - len(unseen)
    worlds = worlds_of(rows, pictures, paths.raw, params.ingest.fps, params.suite.long_clips)
    return HeldOut(rows, pictures, latents, text, text_mask, wrong_prompts(rows), extra, num_seen, worlds)


def read_seen(named: Path | None) -> dict[str, str]:
    """Read which parts of videos ancestors were trained on, by the video's sha256; none without a listing."""
    if named is None or not named.is_file():
        return {}
    return dict(sorted(json.loads(named.read_text("utf-8")).get(SEEN, {}).items()))


def seen_input(named: Path) -> dict[str, str]:
    """Return what generated clips are compared by because of `read_seen`; empty if there is nothing."""
    seen = read_seen(named)
    return {"seen": hashlib.sha256(json.dumps(seen).encode()).hexdigest()} if seen else {}


def _are_seen(rows: pandas.DataFrame, seen: Mapping[str, str], in_part: Container[str]) -> pandas.Series:
    """Whether an ancestor was trained on each clip, or, but for videos that are split in time, on its video.

    Args:
        rows: Clips of the test split.
        seen: By the video's sha256, its parts in seconds, as `0.000-12.500 20.000-31.000`; words mean all.
        in_part: Hashes of the videos of which another part is trained on here.
    """

    def is_seen(clip: Any) -> bool:
        if clip.video_sha256 not in seen:
            return False
        parts = _PART.findall(seen[clip.video_sha256])
        if clip.video_sha256 not in in_part or not parts:
            return True
        return any(float(start) < clip.end_s and float(end) > clip.start_s for start, end in parts)

    return pandas.Series([is_seen(clip) for clip in rows.itertuples()], index=rows.index, dtype=bool)


def batches_of_one_shape(
    latents: Sequence[Tensor], batch_size: int, numbers: Sequence[int] | None = None
) -> list[Tensor]:
    """Indices (b,) of the clips in batches; the latents (C, T, h, w) of a batch have one shape.

    Args:
        latents: Those of all clips.
        batch_size: Maximum number of clips in a batch.
        numbers: Indices of the clips to batch; None = all.
    """
    members: dict[torch.Size, list[int]] = {}
    for number in range(len(latents)) if numbers is None else numbers:
        members.setdefault(latents[number].shape, []).append(number)
    return [batch for numbers in members.values() for batch in torch.tensor(numbers).split(batch_size)]


def choose_clips(rows: pandas.DataFrame, suite: SuiteParams) -> pandas.DataFrame:
    """Up to the stated number of clips of each group, drawn with the suite's seed, in a fixed order.

    No shot gives a second clip before each has given one: intervals are over shots.
    """
    chosen = []
    for group, count in (("simulated", suite.simulated_clips), ("real", suite.real_clips)):
        members = rows[rows["group"] == group].sort_values("clip_id")
        drawn = members.iloc[np.random.default_rng(suite.seed).permutation(len(members))]
        turn = drawn.groupby("shot", dropna=False).cumcount()
        chosen.append(drawn.loc[turn.sort_values(kind="stable").index[:count]].sort_values("clip_id"))
    return pandas.concat(chosen, ignore_index=True)


def wrong_prompts(rows: pandas.DataFrame) -> list[int]:
    """For each clip the index of the next one of its group with another caption, or its own if none has."""
    wrong = []
    for number, row in enumerate(rows.itertuples()):
        later = [*range(number + 1, len(rows)), *range(number)]
        others = (n for n in later if rows["group"][n] == row.group and rows["caption"][n] != row.caption)
        wrong.append(next(others, number))
    return wrong


def spread(rows: pandas.DataFrame, count: int) -> list[int]:
    """Indices of up to `count` clips of each group, evenly spread over its rows."""
    numbers: list[int] = []
    for _, members in rows.groupby("group", sort=False):
        at = np.linspace(0, len(members) - 1, min(count, len(members))).round().astype(int)
        numbers += members.index[np.unique(at)].tolist()
    return numbers

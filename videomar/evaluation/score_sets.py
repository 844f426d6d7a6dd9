"""Metrics of sets of clips: Fréchet distance, diversity over seeds, and effect of the prompt."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from videomar.errors import DataError
from videomar.evaluation.generated import GROUPS, ClipKinds
from videomar.evaluation.metrics import BACKBONE
from videomar.evaluation.metrics.backbone import Backbone
from videomar.evaluation.metrics.behaviour import diversity, text_effect
from videomar.evaluation.metrics.extractors import (
    BackboneClips,
    Extractor,
    RandomClips,
    frechet_of_clips,
    load_extractor,
)
from videomar.evaluation.metrics.frechet import FrechetScore
from videomar.sampling.tasks import of_seed

_KINDS = {"": "continuation", "i2v_": "image"}


def named_extractor(name: str, backbone: Backbone | None, device: torch.device) -> Extractor:
    """The extractor that section `suite` names.

    Raises:
        DataError: its weights are missing.
    """
    if name == "random":
        return RandomClips(device=device)
    if name != "backbone":
        return load_extractor(Path(name), device)
    if backbone is None:
        raise DataError(f"frechet: got no weights of {BACKBONE}, expected its packages; take `random`")
    return BackboneClips(backbone)


def frechet_results(
    clips: Sequence[ClipKinds], extractor: Extractor, seed: int, skipped: dict[str, str]
) -> dict[str, FrechetScore]:
    """Fréchet distances by metric: `sim_frechet` of continuations, `sim_i2v_frechet` from one picture."""
    results = {}
    cached = _CachedExtractor(extractor)
    for group, prefix in GROUPS.items():
        for name, kind in _KINDS.items():
            chosen = [kinds for kinds in clips if kinds["truth"].group == group and kind in kinds]
            made, true = ([kinds[which].frames for kinds in chosen] for which in (kind, "truth"))
            if not chosen:
                continue
            shots = [kinds["truth"].shot or kinds["truth"].clip_id for kinds in chosen]
            try:
                results[f"{prefix}_{name}frechet"] = frechet_of_clips(made, true, cached, seed, shots)
            except DataError as error:
                skipped["frechet"] = str(error)
    return results


class _CachedExtractor:
    """Extracts the features of a list of clips once: the truths of a group are used for every kind."""

    def __init__(self, extractor: Extractor) -> None:
        self._extractor, self.name, self.weights_sha256 = extractor, extractor.name, extractor.weights_sha256
        self._seen: dict[tuple[int, ...], NDArray[np.float64]] = {}

    def features(self, clips: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """(N, D), from memory if these very arrays were passed before."""
        key = tuple(map(id, clips))
        if key not in self._seen:
            self._seen[key] = self._extractor.features(clips)
        return self._seen[key]


def seed_metrics(
    clips: Sequence[ClipKinds], backbone: Backbone | None, seeds: int, skipped: dict[str, str]
) -> dict[str, float]:
    """Means over the few clips that were generated with both prompts from every seed, keyed by group."""
    reason = ""
    if backbone is None:
        reason = f"got no weights of {BACKBONE}, expected its packages"
    elif seeds < 2:
        reason = f"got {seeds} seed, expected two or more; raise suite.seeds"
    if backbone is None or reason:
        skipped.update({key: f"{key}: {reason}" for key in ("diversity", "text_effect")})
        return {}
    metrics: dict[str, float] = {}
    for group, prefix in GROUPS.items():
        fitting = [k for k in clips if k["truth"].group == group and _has_seeds(k, seeds)]
        values = [_of_clip(kinds, backbone, seeds) for kinds in fitting]
        for key in ("diversity", "text_effect"):
            found = [value[key] for value in values if key in value]
            if found:
                metrics[f"{prefix}_{key}"] = float(np.mean(found))
            elif any(kinds["truth"].group == group for kinds in clips):
                skipped[f"{prefix}_{key}"] = f"{key}: got no {group} clip with it, expected extra clips"
    return metrics


def _of_clip(kinds: ClipKinds, backbone: Backbone, seeds: int) -> dict[str, float]:
    right, wrong = (
        [kinds[of_seed(kind, seed)] for seed in range(seeds)] for kind in ("image", "image_wrong_prompt")
    )
    start = right[0].context_frames
    frames: list[Any] = [clip.frames for clip in right]
    values = {"diversity": diversity(frames, backbone, start)}
    if right[0].prompt != wrong[0].prompt:  # the only caption of its group has no other prompt
        values["text_effect"] = text_effect(frames, [clip.frames for clip in wrong], backbone, start)
    return values


def _has_seeds(kinds: ClipKinds, seeds: int) -> bool:
    names = [of_seed(kind, seed) for seed in range(seeds) for kind in ("image", "image_wrong_prompt")]
    return set(names) <= set(kinds)

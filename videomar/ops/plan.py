"""From what was counted and measured to what each stage of the pipeline would cost."""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from videomar.checkpoint.manifest import ModelShape
from videomar.config import Params
from videomar.config.layout import Layout
from videomar.config.params import variants_of
from videomar.encoders.load import load_tokenizer
from videomar.encoders.text import load_text_encoder
from videomar.errors import DataError, VideomarError
from videomar.ops.plan_counts import (
    Clips,
    LatentShape,
    Strides,
    Videos,
    cached_shapes,
    find_clips,
    latent_bytes,
    read_headers,
    tokens_of,
)
from videomar.ops.plan_probe import REFUSED, Subject, measure, spread
from videomar.ops.plan_training import HOUR_S, Cost, training_costs
from videomar.sampling.tasks import tasks_of

LIMIT_S = 45.0
"""The probe's; what it does not reach is told as unknown."""


class Plan(NamedTuple):
    """All stages, and what was taken for granted."""

    costs: list[Cost]
    assumptions: list[str]


def plan(params: Params, layout: Layout) -> Plan:
    """What the next run costs, by stage.

    Raises:
        VideomarError: there are neither clips nor videos to count, or the probe met what a run would refuse.
    """
    _say("counting clips")
    videos = read_headers(layout.raw)
    clips = find_clips(layout.ledger, videos, params)
    if not clips.shapes:
        raise DataError("plan: got no clip, expected some; see `videomar ledger show` for what was rejected")
    strides, tokenizer = _strides(params, layout)
    shapes = cached_shapes(clips, params, strides)
    subject = _subject(params, clips, shapes, tokenizer, videos)
    messages: list[tuple[Any, ...]] = []
    said = ""
    for message in measure(subject, LIMIT_S):
        if message[0] == REFUSED:
            raise VideomarError(message[1])
        messages.append(message)
        what = f"curriculum stage {message[1]}" if message[0] == "row" else message[0]
        if what != said:
            _say(f"measured: {what}")
        said = what
    figures = {message[0]: message[1:] for message in messages if message[0] != "row"}
    costs = [
        _ingest(videos, clips, params, figures),
        _encode(shapes, params, figures),
        *training_costs(subject, messages),
        _sample(params, shapes, figures),
    ]
    return Plan(costs, _assumptions(params, clips, videos, tokenizer is None, costs))


def _ingest(videos: Videos, clips: Clips, params: Params, figures: Mapping[str, Any]) -> Cost:
    rate = figures.get("decode", (None,))[0]
    hours = videos.frames / rate / params.ingest.num_workers / HOUR_S if rate else None
    return Cost("ingest", len(clips.shapes), None, None, None, hours)


def _encode(shapes: Sequence[tuple[int, LatentShape]], params: Params, figures: Mapping[str, Any]) -> Cost:
    seconds, peak = figures.get("encode", (None, None))
    tokens = sum(tokens_of(shape, params.model.patch_size) for _, shape in shapes)
    hours = len(shapes) * seconds / params.encode.num_workers / HOUR_S if seconds else None
    return Cost("encode", len(shapes), tokens, latent_bytes(shapes, params), peak, hours)


def _sample(params: Params, shapes: Sequence[tuple[int, LatentShape]], figures: Mapping[str, Any]) -> Cost:
    seconds, peak = figures.get("sample", (None, None))
    suite = params.suite
    tasks = [task for task in tasks_of(suite) if task.maker != "linear"]
    judged = suite.simulated_clips + suite.real_clips
    counts = [suite.extra_clips if task.extra else judged for task in tasks]
    batches, count = sum(math.ceil(clips / suite.batch_size) for clips in counts), sum(counts)
    largest = max((shape for _, shape in shapes), key=math.prod)
    tokens = count * tokens_of(largest, params.model.patch_size)
    return Cost("sample", count, tokens, None, peak, batches * seconds / HOUR_S if seconds else None)


def _subject(
    params: Params,
    clips: Clips,
    shapes: Sequence[tuple[int, LatentShape]],
    tokenizer: Path | None,
    videos: Videos,
) -> Subject:
    text = load_text_encoder(params.text).encode(["a clip"])[0]
    model = ModelShape(params.model, shapes[0][1][0], text.shape[-1], params.text.max_tokens)
    val_clips = round(params.curate.val_share * len(clips.shapes))
    video = max(videos.read, key=lambda item: item[1].duration_s, default=None)
    largest = max(clips.shapes, key=lambda shape: shape.height_px * shape.width_px * shape.num_frames)
    some = spread(shapes, 256)
    return Subject(replace(params), model, some, val_clips, largest, tokenizer, video)


def _strides(params: Params, layout: Layout) -> tuple[Strides, Path | None]:
    """What the tokenizer makes of pixels, and its folder, if it is there."""
    if layout.tokenizer.is_dir():
        loaded = load_tokenizer(layout.tokenizer)
        return Strides(loaded.channels, loaded.time_stride, loaded.space_stride), layout.tokenizer
    own = params.tokenizer
    return Strides(own.channels, own.time_stride, own.space_stride), None


def _assumptions(
    params: Params, clips: Clips, videos: Videos, no_tokenizer: bool, costs: Sequence[Cost]
) -> list[str]:
    runs = len(variants_of(params))
    said = [
        "everything is done anew: what the caches hold already costs nothing again",
        f"times are of this machine as busy as it is now (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} "
        f"cores), from a probe of at most {LIMIT_S:.0f} s",
        "ingest: decoding only, at the speed of the longest video; captions and scores come on top",
        "encode: the tokenizer only; reading the clips comes on top",
        "train: clips of noise, without previews and the start of Ray; no stage reaches a target_loss before",
        "train: a curriculum stage that the probe did not reach is as fast by its operations as one it did",
        "sample: every batch takes what one of clips continued from two latent frames takes",
        "samples, train_tokenizer, curate and evaluate are not counted",
    ]
    if not clips.counted:
        said.append("clips: as many as fit into the videos, none rejected, no cut between shots")
    if videos.total > len(videos.read):
        said.append(f"videos: {videos.total}, of which {len(videos.read)} headers stand for all")
    if no_tokenizer:
        said.append("no tokenizer yet: strides and channels are those of section tokenizer")
    if runs:
        said.append(f"train: {runs} runs, each as long as one of section train, one after the other")
    unknown = [cost.stage for cost in costs if cost.hours is None]
    if unknown:
        said.append(f"not measured within the time, or nothing to measure with: {'; '.join(unknown)}")
    return said


def _say(what: str) -> None:
    sys.stderr.write(f"plan: {what}\n")

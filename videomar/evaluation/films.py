"""Clips for the report: which ones to show, and each as one picture strip that the page plays.

All frames of a clip lie side by side in one lossless WebP inside the page; the page's style moves the strip
by one frame at a time, so that clips beside each other cannot drift apart.

Axes: F frames, H W rows and columns in pixels.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from videomar.evaluation.metrics import ClipKinds, psnr_db, repeat_last

_MAX_SIDE_PX = 128
_MAX_STRIP_PX = 16_000  # WebP holds 16,383


@dataclass(frozen=True, slots=True)
class Film:
    """One playing clip of the page."""

    label: str
    look: str
    """CSS class: whose film it is."""
    strip: str
    """data: address of the strip."""
    last: int
    """Number of the last frame."""
    given: float
    """Share of the frames that the model was given."""
    aspect: float
    """Width over height of a frame."""
    psnr_db: float | None


@dataclass(frozen=True, slots=True)
class Card:
    """One held-out clip with its films side by side."""

    rank: str
    """`best`, `median` or `worst`."""
    score_db: float
    clip_id: str
    prompt: str
    wrong_prompt: str
    films: Sequence[Film]


@dataclass(frozen=True, slots=True)
class Reel:
    """A row of cards that play in step."""

    title: str
    explanation: str
    num_clips: int
    num_frames: int
    fps: float
    cards: Sequence[Card]


@dataclass(frozen=True, slots=True)
class ReelPlan:
    """What a reel shows: of which group, ranked by which kind, with which films in which order."""

    title: str
    explanation: str
    group: str
    kind: str
    """Kind of generated clip that ranks the cards: by gain over repeat-last, or for `tokenizer` by PSNR."""
    others: tuple[str, ...] = ()
    repeat: bool = True


LABELS = {
    "truth": "truth",
    "tokenizer": "through the tokenizer",
    "continuation": "model",
    "continuation_untrained": "untrained model",
    "image": "model",
    "image_wrong_prompt": "wrong prompt",
    "repeat": "repeat last",
}


def make_reel(clips: Sequence[ClipKinds], plan: ReelPlan) -> Reel | None:
    """The best, median and worst clips of a plan; None if no clip fits it."""
    fitting = {
        kinds["truth"].clip_id: kinds
        for kinds in clips
        if kinds["truth"].group == plan.group and plan.kind in kinds
    }
    if not fitting:
        return None
    scores = {clip_id: _score(kinds, plan) for clip_id, kinds in fitting.items()}
    chosen = pick_examples(scores)
    cards = [_card(rank, scores[clip_id], fitting[clip_id], plan) for rank, clip_id in chosen]
    truths = [fitting[clip_id]["truth"] for _, clip_id in chosen]
    num_frames = max(len(clip.frames) for clip in truths)
    return Reel(plan.title, plan.explanation, len(fitting), num_frames, truths[0].fps, cards)


def pick_examples(scores: Mapping[str, float], each: int = 2) -> list[tuple[str, str]]:
    """(rank, clip_id) of the best, the middle and the worst `each`, none twice."""
    ranked = sorted(scores, key=lambda clip_id: (-scores[clip_id], clip_id))
    middle = max(0, (len(ranked) - each) // 2)
    wanted = [
        *(("best", clip_id) for clip_id in ranked[:each]),
        *(("median", clip_id) for clip_id in ranked[middle : middle + each]),
        *(("worst", clip_id) for clip_id in ranked[-each:]),
    ]
    first = {clip_id: rank for rank, clip_id in reversed(wanted)}
    return [(rank, clip_id) for clip_id, rank in reversed(first.items())]


def film_strip(frames: NDArray[np.uint8]) -> str:
    """All frames side by side, scaled down if large, as a data: address of a WebP; (F, H, W, 3) uint8."""
    num_frames, height, width, _ = frames.shape
    scale = min(1.0, _MAX_SIDE_PX / max(height, width), _MAX_STRIP_PX / (width * num_frames))
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    pictures = [Image.fromarray(frame).resize(size, Image.Resampling.BOX) for frame in frames]
    strip = Image.new("RGB", (size[0] * num_frames, size[1]))
    for index, picture in enumerate(pictures):
        strip.paste(picture, (index * size[0], 0))
    file = io.BytesIO()
    strip.save(file, "WEBP", lossless=True, quality=60)
    return data_address(file.getvalue(), "image/webp")


def data_address(content: bytes, kind: str) -> str:
    """A file inside the page: `data:` address of its bytes."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _score(kinds: ClipKinds, plan: ReelPlan) -> float:
    """What the plan ranks by, decibels."""
    truth, clip = kinds["truth"].frames, kinds[plan.kind]
    if plan.kind == "tokenizer":
        return psnr_db(clip.frames, truth)
    start = clip.context_frames
    repeated = repeat_last(truth, start)
    return psnr_db(clip.frames[start:], truth[start:]) - psnr_db(repeated[start:], truth[start:])


def _card(rank: str, score: float, kinds: ClipKinds, plan: ReelPlan) -> Card:
    truth, clip = kinds["truth"], kinds[plan.kind]
    start = 0 if plan.kind == "tokenizer" else clip.context_frames
    films = [
        _film("truth", truth.frames, truth.frames, 0),
        _film(plan.kind, clip.frames, truth.frames, start),
    ]
    films += [_film(kind, kinds[kind].frames, truth.frames, start) for kind in plan.others if kind in kinds]
    if plan.repeat:
        films.append(_film("repeat", repeat_last(truth.frames, start), truth.frames, start))
    wrong = [kinds[kind].prompt for kind in plan.others if kind == "image_wrong_prompt" and kind in kinds]
    return Card(rank, score, truth.clip_id, clip.prompt or truth.caption, "".join(wrong), films)


def _film(kind: str, frames: NDArray[np.uint8], truth: NDArray[np.uint8], start: int) -> Film:
    quality = None if kind == "truth" else psnr_db(frames[start:], truth[start:])
    return Film(
        LABELS[kind],
        kind,
        film_strip(frames),
        last=max(1, len(frames) - 1),
        given=start / len(frames),
        aspect=frames.shape[2] / frames.shape[1],
        psnr_db=quality,
    )

"""Clips for the report: which ones to show, and each as one picture strip that the page plays.

All frames of a clip lie side by side in one lossless WebP inside the page; the page's style moves the strip
by one frame at a time, so that clips beside each other cannot drift apart.

Axes: F frames, H W rows and columns in pixels.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from videomar.evaluation.generated import Clip, ClipKinds, psnr_db, repeat_last

_MAX_SIDE_PX = 128
_MAX_STRIP_PX = 16_000  # WebP holds 16,383
_MOST_BYTES = 40_000
"""Of a film in the page: some 200 of them keep it below 15 MB, whatever the size of the clips."""


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
    value: str
    """What stands beside the label, such as "26.1 dB"; may be empty."""


@dataclass(frozen=True, slots=True)
class Card:
    """One held-out clip with its films side by side."""

    rank: str
    """`best`, `median` or `worst`, or where the clip is from."""
    score: str
    """What it is ranked by, with its unit."""
    clip_id: str
    prompt: str
    wrong_prompt: str
    films: Sequence[Film]


@dataclass(frozen=True, slots=True)
class Reel:
    """A row of cards that play in step."""

    title: str
    explanation: str
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
    each: int = 2
    """Cards of each rank."""
    needs: tuple[str, ...] = ()
    """Kinds that a clip must have to be shown."""


LABELS = {
    "continuation": "model",
    "image": "model",
    "wrong_prompt": "wrong prompt",
    "repeat": "repeat last",
    "linear": "straight line",
    "seed1": "second seed",
    "seed2": "third seed",
    "longer": "2× as long",
    "larger": "1.5× as large",
}
"""Of the kinds that are not their own best name."""


def label_of(kind: str) -> str:
    """A kind in words for a reader; that of the model's own clips is `model`."""
    part = part_of(kind)
    return LABELS.get(part, part.replace("_", " "))


def part_of(kind: str) -> str:
    """What a kind is beyond its task: `continuation_untrained` -> `untrained`; also its look in the page."""
    for task in ("continuation", "image"):
        if kind.startswith(f"{task}_"):
            return kind.removeprefix(f"{task}_")
    return kind


def make_reel(clips: Sequence[ClipKinds], plan: ReelPlan) -> Reel | None:
    """The best, median and worst clips of a plan; None if no clip fits it."""
    fitting = {
        kinds["truth"].clip_id: kinds
        for kinds in clips
        if kinds["truth"].group == plan.group and {plan.kind, *plan.needs} <= set(kinds)
    }
    if not fitting:
        return None
    scores = {clip_id: _score(kinds, plan) for clip_id, kinds in fitting.items()}
    style = "{:.1f} dB" if plan.kind == "tokenizer" else "{:+.1f} dB"
    chosen = pick_examples(scores, plan.each)
    cards = [
        make_card(rank, style.format(scores[clip_id]).replace("-", "−"), fitting[clip_id], plan)
        for rank, clip_id in chosen
    ]
    explanation = f"{plan.explanation} Best, median and worst of {len(fitting)}."
    return reel_of(
        plan.title, explanation.strip(), [fitting[clip_id]["truth"] for _, clip_id in chosen], cards
    )


def reel_of(title: str, explanation: str, truths: Sequence[Clip], cards: Sequence[Card]) -> Reel:
    """Cards as one reel, as long as the longest of their clips."""
    return Reel(title, explanation, max(len(clip.frames) for clip in truths), truths[0].fps, cards)


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
    return _address(frames.shape, frames.tobytes())


@lru_cache(maxsize=512)
def _address(shape: tuple[int, ...], content: bytes) -> str:
    """The same by value, because the truth of a clip stands in many reels."""
    return data_address(
        strip_bytes(np.frombuffer(content, np.uint8).reshape(shape), _MOST_BYTES), "image/webp"
    )


def strip_bytes(frames: NDArray[np.uint8], most_bytes: int) -> bytes:
    """The same as a file: without loss if it keeps to `most_bytes`, else as much worse as it must be."""
    num_frames, height, width, _ = frames.shape
    scale = min(1.0, _MAX_SIDE_PX / max(height, width), _MAX_STRIP_PX / (width * num_frames))
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    pictures = [Image.fromarray(frame).resize(size, Image.Resampling.BOX) for frame in frames]
    strip = Image.new("RGB", (size[0] * num_frames, size[1]))
    for index, picture in enumerate(pictures):
        strip.paste(picture, (index * size[0], 0))
    content = b""
    for options in (
        {"lossless": True, "quality": 60},
        {"quality": 90},
        {"quality": 60},
        {"quality": 20},
        {"quality": 1},
    ):
        file = io.BytesIO()
        strip.save(file, "WEBP", **options)
        content = file.getvalue()
        if len(content) <= most_bytes:
            break
    return content


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


def make_card(rank: str, score: str, kinds: ClipKinds, plan: ReelPlan) -> Card:
    """A card of the truth, the plan's kind, its others where the clip has them, and repeat-last if wanted."""
    truth, clip = kinds["truth"].frames, kinds[plan.kind]
    start = 0 if plan.kind == "tokenizer" else clip.context_frames
    shown = {kind: kinds[kind].frames for kind in (plan.kind, *plan.others) if kind in kinds}
    if plan.repeat:
        shown["repeat"] = repeat_last(truth, start)
    films = [make_film("truth", truth, 0, "")]
    films += [
        make_film(kind, frames, start, _likeness(frames[start:], truth[start:]))
        for kind, frames in shown.items()
    ]
    wrong = [kinds[kind].prompt for kind in plan.others if kind == "image_wrong_prompt" and kind in kinds]
    return Card(rank, score, clip.clip_id, clip.prompt or clip.caption, "".join(wrong), films)


def make_film(kind: str, frames: NDArray[np.uint8], given: int, value: str) -> Film:
    """A film of a kind whose first `given` frames were given, with what stands beside its label."""
    return Film(
        label_of(kind),
        part_of(kind),
        film_strip(frames),
        last=max(1, len(frames) - 1),
        given=given / len(frames),
        aspect=frames.shape[2] / frames.shape[1],
        value=value,
    )


def _likeness(frames: NDArray[np.uint8], truth: NDArray[np.uint8]) -> str:
    """PSNR as text; nothing for a clip longer or larger than the truth."""
    return f"{psnr_db(frames, truth):.1f} dB" if frames.shape == truth.shape else ""

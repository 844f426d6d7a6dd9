"""Which clips the report shows: examples of each task, the model beside its rival, and the failures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from videomar.evaluation.generated import Clip, ClipKinds, psnr_db, repeat_last
from videomar.evaluation.metrics.catalogue import METRICS, Metric
from videomar.report.compare import pairs_of
from videomar.report.kept_clips import read_kept_clips, truth_sha256
from videomar.report.new_clips import ClipsSince
from videomar.report.score_table import CHIEF, TASKS, number
from videomar.report.strips import Strip, make_strip


@dataclass(frozen=True, slots=True)
class Card:
    """One held-out clip with its strips side by side."""

    rank: str
    """`best`, `median` or `worst`, or where the clip is from."""
    score: str
    """The value that ranks it, with its unit."""
    clip_id: str
    prompt: str
    wrong_prompt: str
    strips: Sequence[Strip]


@dataclass(frozen=True, slots=True)
class Gallery:
    """Cards that play in step."""

    title: str
    explanation: str
    num_frames: int
    fps: float
    cards: Sequence[Card]


@dataclass(frozen=True, slots=True)
class GalleryPlan:
    """What a gallery shows: clips of which group, ranked by which kind, with which strips in which order."""

    title: str
    explanation: str
    group: str
    kind: str
    """Kind that ranks the cards: by its gain over repeat-last, or for `tokenizer` by its PSNR."""
    others: tuple[str, ...] = ()
    repeat: bool = True
    """Whether repeat-last is shown, too."""
    each: int = 2
    """Cards of each rank."""
    needs: tuple[str, ...] = ()
    """Further kinds that a clip must have to be shown."""


@dataclass(frozen=True, slots=True)
class Opponent:
    """The champion that the candidate met, from its evidence."""

    name: str
    rows: pd.DataFrame
    """Its evaluation.parquet."""
    kept_clips: Path
    """The clips that it kept; may be missing."""
    details: Path
    """Its evaluation.json; may be missing."""
    since: ClipsSince | None = None
    """The clips of both models; None = not known."""


_CEILING = "Tokenizer: what it leaves of the truth, the ceiling for what a model draws."
PLANS = (
    GalleryPlan(
        "Continuing a real clip",
        f"The model is given two latent frames (5 pixel frames). {_CEILING}",
        "real",
        "continuation",
        ("tokenizer", "tokenizer_carry"),
    ),
    GalleryPlan(
        "One picture, real",
        f"One picture and the clip's caption, if it has one. {_CEILING}",
        "real",
        "image",
        ("tokenizer", "image_tokenizer_carry"),
    ),
    GalleryPlan(
        "Continuing a simulated clip",
        "The model is given two latent frames (5 pixel frames).",
        "simulated",
        "continuation",
    ),
    GalleryPlan(
        "One picture and a prompt, simulated",
        "The prompt decides how the picture moves. Beside it, the same picture with a wrong prompt.",
        "simulated",
        "image",
        ("image_wrong_prompt",),
    ),
    GalleryPlan(
        "One picture and a prompt, several seeds",
        "The same picture and prompt with three seeds.",
        "simulated",
        "image",
        ("image_seed1", "image_seed2"),
        repeat=False,
        each=1,
        needs=("image_seed1",),
    ),
)
TOKENIZER_PLANS = tuple(
    GalleryPlan(f"{name} clips", "", group, "tokenizer", repeat=False)
    for name, group in (("Simulated", "simulated"), ("Real", "real"))
)
_STRETCHED = ("image_longer", "image_larger")
_WORLDS = ("truth_long", "image_long", "truth_large", "image_large")
_MOST_WORLDS = 4
_FAILURES_PER_TASK = 2


def example_galleries(clips: Sequence[ClipKinds], plans: Sequence[GalleryPlan]) -> list[Gallery]:
    """Best, median and worst clips of each plan that some clip fits."""
    made = (make_gallery(clips, plan) for plan in plans)
    return [gallery for gallery in made if gallery is not None]


def make_gallery(clips: Sequence[ClipKinds], plan: GalleryPlan) -> Gallery | None:
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
        _card(rank, style.format(scores[clip_id]).replace("-", "−"), fitting[clip_id], plan)
        for rank, clip_id in chosen
    ]
    explanation = f"{plan.explanation} Best, median and worst of {len(fitting)}.".strip()
    return _gallery(plan.title, explanation, [fitting[clip_id]["truth"] for _, clip_id in chosen], cards)


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


def stretched_galleries(clips: Sequence[ClipKinds]) -> list[Gallery]:
    """Clips longer and larger than the model was trained on, which have no truth to be judged by."""
    return _plain_gallery(
        "Beyond training", "Longer and larger than any clip seen in training.", clips, ("truth",), _STRETCHED
    )


def world_galleries(clips: Sequence[ClipKinds]) -> list[Gallery]:
    """A few simulated clips far longer and larger than trained, beside what the simulator draws."""
    known = [kinds for kinds in clips if set(_WORLDS) <= set(kinds)][:_MOST_WORLDS]
    text = "Four times as long and 1.5 times as large as any clip seen in training, beside the simulator's."
    return _plain_gallery("Worlds that go on", text, known, (), _WORLDS)


def _plain_gallery(
    title: str,
    explanation: str,
    clips: Sequence[ClipKinds],
    before: Sequence[str],
    wanted: Sequence[str],
) -> list[Gallery]:
    """One gallery of the clips that have a wanted kind, without scores; none if there is no such clip."""
    cards, longest = [], []
    for kinds in clips:
        present = [kinds[kind] for kind in wanted if kind in kinds]
        if present:
            shown = [*(kinds[kind] for kind in before), *present]
            strips = [make_strip(clip.kind, clip.frames, clip.context_frames, "") for clip in shown]
            first = present[0]
            cards.append(Card(first.group, "", first.clip_id, first.prompt, "", strips))
            longest.append(max(present, key=lambda clip: len(clip.frames)))
    return [_gallery(title, explanation, longest, cards)] if cards else []


def baseline_galleries(clips: Sequence[ClipKinds]) -> list[Gallery]:
    """The model's continuations beside the baselines that are decoded from latents."""
    plans = [
        GalleryPlan(
            title,
            "Ranked by the gain over repeating the last frame.",
            group,
            kind,
            tuple(f"{kind}_{name}" for name in ("linear", "untrained")),
            each=1,
        )
        for title, (group, kind) in TASKS.items()
        if kind == "continuation"
    ]
    return example_galleries(clips, plans)


def failure_galleries(clips: Sequence[ClipKinds], scores: pd.DataFrame) -> list[tuple[Metric, Gallery]]:
    """Each chief metric with a gallery of the worst clips of each task."""
    by_id = {kinds["truth"].clip_id: kinds for kinds in clips}
    own = scores[scores["look"] == "model"].set_index("clip_id")
    galleries = []
    for metric in (metric for metric in METRICS if metric.key in CHIEF):
        cards = []
        for title, (group, kind) in TASKS.items():
            values = own[(own["metric"] == metric.key) & (own["task"] == title)]["value"]
            worst = metric.goodness(values).sort_values(kind="stable").index
            cards += [
                _card(
                    title.lower(),
                    f"{number(values[clip_id])} {metric.unit}",
                    by_id[clip_id],
                    GalleryPlan("", "", group, kind),
                )
                for clip_id in [clip_id for clip_id in worst if clip_id in by_id][:_FAILURES_PER_TASK]
            ]
        if cards:
            truths = [by_id[card.clip_id]["truth"] for card in cards]
            galleries.append((metric, _gallery(f"Worst by {metric.name}", "", truths, cards)))
    return galleries


def duel_galleries(
    clips: Sequence[ClipKinds], scores: pd.DataFrame, champion: pd.DataFrame, opponent: Opponent
) -> list[Gallery]:
    """By task champion and challenger side by side, on clips that the champion kept and of the same truth.

    Args:
        clips: Of the challenger.
        scores: Long table of the challenger.
        champion: Long table of the champion, of clips of the same truth.
        opponent: The champion's name and files.
    """
    kept = read_kept_clips(opponent.kept_clips)
    galleries = []
    for title, (_, kind) in TASKS.items():
        psnr = pairs_of(scores, champion, title, "psnr")
        fitting: dict[str, tuple[ClipKinds, NDArray[np.uint8]]] = {}
        for kinds in clips:
            truth = kinds["truth"]
            theirs = kept.get((truth.clip_id, kind))
            if theirs is None or kind not in kinds or truth.clip_id not in psnr.index:
                continue
            if theirs.truth_sha256 == truth_sha256(truth):
                fitting[truth.clip_id] = kinds, theirs.frames
        psnr = psnr[psnr.index.isin(list(fitting))]
        chosen = pick_examples((psnr["model"] - psnr["champion"]).to_dict(), each=1)
        cards = [_duel_card(rank, kind, *fitting[clip_id], psnr.loc[clip_id]) for rank, clip_id in chosen]
        if cards:
            count = f"{len(fitting)} clips that {opponent.name} kept"
            explanation = f"Ranked by the difference in PSNR, of {count}."
            truths = [fitting[clip_id][0]["truth"] for _, clip_id in chosen]
            galleries.append(_gallery(title, explanation, truths, cards))
    return galleries


def _duel_card(rank: str, kind: str, kinds: ClipKinds, champion: NDArray[np.uint8], psnr: pd.Series) -> Card:
    """Truth, champion, challenger, repeat-last."""
    truth, clip = kinds["truth"].frames, kinds[kind]
    context = clip.context_frames
    strips = [
        make_strip("truth", truth, 0, ""),
        make_strip("champion", champion, context, f"{psnr['champion']:.1f} dB"),
        make_strip("challenger", clip.frames, context, f"{psnr['model']:.1f} dB"),
        make_strip("repeat", repeat_last(truth, context), context, ""),
    ]
    rank = {"best": "challenger's best", "worst": "challenger's worst"}.get(rank, rank)
    score = f"{number(psnr['model'] - psnr['champion'], signed=True)} dB"
    return Card(rank, score, clip.clip_id, clip.prompt or clip.caption, "", strips)


def _card(rank: str, score: str, kinds: ClipKinds, plan: GalleryPlan) -> Card:
    """Truth, the plan's kind, those of its others that the clip has, and repeat-last if the plan says so."""
    truth, clip = kinds["truth"].frames, kinds[plan.kind]
    context = 0 if plan.kind == "tokenizer" else clip.context_frames
    shown = {kind: kinds[kind].frames for kind in (plan.kind, *plan.others) if kind in kinds}
    if plan.repeat:
        shown["repeat"] = repeat_last(truth, context)
    strips = [make_strip("truth", truth, 0, "")]
    strips += [
        make_strip(kind, frames, context, _psnr_text(frames[context:], truth[context:]))
        for kind, frames in shown.items()
    ]
    wrong = [kinds[kind].prompt for kind in plan.others if kind == "image_wrong_prompt" and kind in kinds]
    return Card(rank, score, clip.clip_id, clip.prompt or clip.caption, "".join(wrong), strips)


def _gallery(title: str, explanation: str, truths: Sequence[Clip], cards: Sequence[Card]) -> Gallery:
    """A gallery that plays as long as the longest of its clips."""
    return Gallery(title, explanation, max(len(clip.frames) for clip in truths), truths[0].fps, cards)


def _score(kinds: ClipKinds, plan: GalleryPlan) -> float:
    """The value that ranks a clip, decibels."""
    if plan.kind == "tokenizer":
        return psnr_db(kinds["tokenizer"].frames, kinds["truth"].frames)
    return gain_over_repeat(kinds, plan.kind)


def gain_over_repeat(kinds: ClipKinds, kind: str) -> float:
    """How much closer to the truth the generated frames are than the last given one repeated, decibels."""
    truth, start = kinds["truth"].frames, kinds[kind].context_frames
    repeated = repeat_last(truth, start)
    return psnr_db(kinds[kind].frames[start:], truth[start:]) - psnr_db(repeated[start:], truth[start:])


def _psnr_text(frames: NDArray[np.uint8], truth: NDArray[np.uint8]) -> str:
    """PSNR as text; empty for a clip longer or larger than the truth."""
    return f"{psnr_db(frames, truth):.1f} dB" if frames.shape == truth.shape else ""

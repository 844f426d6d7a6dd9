"""Which reels the report shows: examples of each task, the model beside its rival, and the failures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from videomar.evaluation.generated import ClipKinds, repeat_last
from videomar.report.compare import psnr_differences
from videomar.report.kept_clips import ShownClip, read_shown, truth_sha256
from videomar.report.score_table import (
    CHIEF,
    Task,
    badness,
    kinds_of,
    metrics_of,
    number,
    tasks_of,
    values_of,
)
from videomar.report.strips import (
    Card,
    Reel,
    ReelPlan,
    make_card,
    make_film,
    make_reel,
    pick_examples,
    reel_of,
)

PLANS = (
    ReelPlan(
        "Continuing a simulated clip",
        "Two latent frames (5 pixel frames) given.",
        "simulated",
        "continuation",
    ),
    ReelPlan(
        "One picture and a prompt, simulated",
        "The prompt decides how the picture moves. Beside it, the same picture with a wrong prompt.",
        "simulated",
        "image",
        ("image_wrong_prompt",),
    ),
    ReelPlan(
        "One picture and a prompt, several seeds",
        "The same question, asked three times.",
        "simulated",
        "image",
        ("image_seed1", "image_seed2"),
        repeat=False,
        each=1,
        needs=("image_seed1",),
    ),
    ReelPlan("Continuing a real clip", "Two latent frames (5 pixel frames) given.", "real", "continuation"),
    ReelPlan("One picture, real", "One picture and the clip's caption, if it has one.", "real", "image"),
)
TOKENIZER_PLANS = tuple(
    ReelPlan(f"{name} clips", "", group, "tokenizer", repeat=False)
    for name, group in (("Simulated", "simulated"), ("Real", "real"))
)
_STRETCHED = ("image_longer", "image_larger")
_FAILURES_PER_TASK = 2


@dataclass(frozen=True, slots=True)
class Opponent:
    """The champion that the candidate met, as its evidence tells."""

    name: str
    rows: pd.DataFrame
    """Of its evaluation.parquet."""
    shown: Path
    """The clips that it kept; may be missing."""
    facts: Path
    """Its evaluation.json; may be missing."""


@dataclass(frozen=True, slots=True)
class Failures:
    """The worst clips by one metric."""

    metric: str
    explanation: str
    reel: Reel


def example_reels(clips: Sequence[ClipKinds], plans: Sequence[ReelPlan]) -> list[Reel]:
    """Best, median and worst clips of each plan that some clip fits."""
    made = (make_reel(clips, plan) for plan in plans)
    return [reel for reel in made if reel is not None]


def stretched_reels(clips: Sequence[ClipKinds]) -> list[Reel]:
    """Clips longer and larger than the model was trained on; there is no truth to judge them by."""
    fitting = [kinds for kinds in clips if any(kind in kinds for kind in _STRETCHED)]
    if not fitting:
        return []
    cards, longest = [], []
    for kinds in fitting:
        there = [kinds[kind] for kind in _STRETCHED if kind in kinds]
        films = [make_film("truth", kinds["truth"].frames, 0, "")]
        films += [make_film(clip.kind, clip.frames, clip.context_frames, "") for clip in there]
        cards.append(Card(there[0].group, "", there[0].clip_id, there[0].prompt, "", films))
        longest.append(max(there, key=lambda clip: len(clip.frames)))
    return [reel_of("Beyond training", "Longer and larger than any clip seen in training.", longest, cards)]


def baseline_reels(clips: Sequence[ClipKinds], rows: pd.DataFrame) -> list[Reel]:
    """Of each task the model beside the baselines that are made by a network."""
    told = "By the gain over repeating the last frame."
    plans = [
        ReelPlan(
            task.title,
            told,
            task.group,
            task.kind,
            tuple(f"{task.kind}_{name}" for name in ("linear", "untrained")),
            each=1,
        )
        for task in tasks_of(rows)
        if task.kind == "continuation"
    ]
    return example_reels(clips, plans)


def duel_reels(clips: Sequence[ClipKinds], rows: pd.DataFrame, opponent: Opponent) -> list[Reel]:
    """Champion and challenger side by side, where the champion kept the clip and the truth is the same."""
    kept = read_shown(opponent.shown)
    reels = (_duel_reel(clips, rows, opponent, kept, task) for task in tasks_of(rows))
    return [reel for reel in reels if reel is not None]


def failure_reels(clips: Sequence[ClipKinds], rows: pd.DataFrame) -> list[Failures]:
    """For each chief metric the clips that it likes least, of each task some."""
    by_id = {kinds["truth"].clip_id: kinds for kinds in clips}
    found = []
    for metric in (metric for metric in metrics_of(rows) if metric.key in CHIEF):
        cards = []
        for task in tasks_of(rows):
            values = values_of(next(kinds_of(rows, task))[1], metric)
            worst = badness(values, metric).sort_values(ascending=False, kind="stable").index
            there = [clip_id for clip_id in worst if clip_id in by_id][:_FAILURES_PER_TASK]
            plan = ReelPlan("", "", task.group, task.kind)
            cards += [
                make_card(task.title.lower(), f"{number(values[each])} {metric.unit}", by_id[each], plan)
                for each in there
            ]
        if cards:
            title = f"Worst by {metric.name}"
            truths = [by_id[card.clip_id]["truth"] for card in cards]
            found.append(Failures(metric.name, metric.explanation, reel_of(title, "", truths, cards)))
    return found


def _duel_reel(
    clips: Sequence[ClipKinds],
    rows: pd.DataFrame,
    opponent: Opponent,
    kept: Mapping[tuple[str, str], ShownClip],
    task: Task,
) -> Reel | None:
    """None where the champion kept no clip of the task."""
    judged = psnr_differences(rows, opponent.rows, task.group, task.kind)
    fitting = {}
    for kinds in clips:
        truth = kinds["truth"]
        shown = kept.get((truth.clip_id, task.kind))
        if shown is None or task.kind not in kinds or truth.clip_id not in judged:
            continue
        if shown.truth_sha256 == truth_sha256(truth):
            fitting[truth.clip_id] = (kinds, shown)
    if not fitting:
        return None
    gains = {clip_id: judged[clip_id][0] - judged[clip_id][1] for clip_id in fitting}
    ranks = {"best": "challenger's best", "median": "median", "worst": "challenger's worst"}
    cards = [
        _duel_card((ranks[rank], task.kind), *fitting[clip_id], judged[clip_id])
        for rank, clip_id in pick_examples(gains, each=1)
    ]
    told = f"By the difference in PSNR, of {len(fitting)} clips that {opponent.name} kept."
    return reel_of(task.title, told, [fitting[card.clip_id][0]["truth"] for card in cards], cards)


def _duel_card(
    where: tuple[str, str], kinds: ClipKinds, shown: ShownClip, psnr_db: tuple[float, float]
) -> Card:
    """Truth, champion, challenger, repeat-last."""
    rank, kind = where
    truth, clip = kinds["truth"].frames, kinds[kind]
    start, (own, theirs) = clip.context_frames, psnr_db
    films = [
        make_film("truth", truth, 0, ""),
        make_film("champion", shown.frames, start, f"{theirs:.1f} dB"),
        make_film("challenger", clip.frames, start, f"{own:.1f} dB"),
        make_film("repeat", repeat_last(truth, start), start, ""),
    ]
    score = f"{number(own - theirs, signed=True)} dB"
    return Card(rank, score, clip.clip_id, clip.prompt or clip.caption, "", films)

"""What a user reads at the end of `make run`: what came out, where to look, what to try next."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from videomar.config import Params, load_own_params
from videomar.config.layout import Layout
from videomar.curation.ledger import kept_clips, read_ledger
from videomar.report.ledger_sheet import LedgerSummary, summarise_ledger
from videomar.report.score_table import number_of
from videomar.report.tables import read_metrics

_REASONS = 3
_MOST_LETTERS = 80
"""Of a caption in the example: a command fits into a line or two."""
_RIVALS = {
    "repeat-last": "repeating the last picture",
    "the untrained model": "the untrained model",
    "a straight line": "going on in a straight line",
    "the champion": "the champion",
}
"""What the gate compares with, by its name in the gate's figures."""
_SHEET, _CLIP = "ledger.png", "clip.mp4"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What the release made of a version."""

    number: str
    """Of the version."""
    decision: Mapping[str, Any]
    """The gate's: `promote`, `reasons`, `figures`."""
    champion: str | None
    """Number of the champion; None if there is none."""
    changed: Sequence[str] = ()
    """What new clips changed since the champion before, see `NewClips.lines`."""


def closing_words(layout: Layout, outcome: Outcome) -> list[str]:
    """Return the lines, each with its subject in front.

    Args:
        layout: Has ledger, metrics and params.yaml.
        outcome: Of the release.
    """
    params, summary = load_own_params(layout.params), summarise_ledger(layout.ledger)
    metrics = read_metrics(layout.metrics)
    return [
        f"clips: {_clips(summary)}",
        *(f"split: {line}" for line in summary.by_video.warnings),
        *(f"words: {line}" for line in _words(summary, metrics.get("encode", {}))),
        *(f"start: {line}" for line in _start(params, metrics.get("sample", {}))),
        f"quality: {_quality(outcome.decision, metrics.get('evaluate', {}))}",
        f"verdict: {_verdict(outcome)}",
        *(f"new clips: {line}" for line in outcome.changed),
        f"look: {command()} ledger show --sheet {_SHEET}   (which clips were kept, and why others were not)",
        f"try: {_example(layout, outcome)}",
        f"better: {_advice(outcome, params, summary, metrics)}",
    ]


def command() -> str:
    """How this installation's `videomar` is called from the working folder."""
    program = Path(sys.executable).with_name("videomar")
    if not program.is_file():
        return "videomar"
    return str(program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program)


def _clips(summary: LedgerSummary) -> str:
    """How many were kept, where they are, and why others were not."""
    kept = sum(verdict.count for verdict in summary.kept)
    counts: dict[str, int] = {}
    for _, split, count in summary.splits:
        counts[split] = counts.get(split, 0) + count
    splits = ", ".join(f"{counts[name]} {name}" for name in ("train", "val", "test") if name in counts)
    text = f"{kept} of {summary.num_clips} kept, from {number_of(summary.num_videos, 'file')} ({splits})"
    reasons = [f"{each.count} {each.name.replace('_', ' ')}" for each in summary.rejected[:_REASONS]]
    if summary.rejected:
        text += f"; not kept: {', '.join(reasons)}{', ...' if len(summary.rejected) > _REASONS else ''}"
    if summary.num_unreadable:
        text += f"; {number_of(summary.num_unreadable, 'file')} could not be read"
    return text


def _words(summary: LedgerSummary, of_encode: Mapping[str, float]) -> list[str]:
    """Clips without words, captions that were not used, and those that the text encoder does not read."""
    captions, lines = summary.captions, []
    if captions.num_without:
        where = "; docs/guide/clips.md says where captions are looked for" if not captions.sources else ""
        lines.append(f"{captions.num_without} of {captions.num_clips} kept clips have none{where}")
    if unused := sum(kind.number for kind in captions.unused):
        were = "caption was" if unused == 1 else "captions were"
        lines.append(f"{unused} {were} not used: `{command()} ledger show` names some")
    counts = {"cannot read": "captions_unreadable", "cuts short": "captions_cut"}
    found = [f"{what} {int(of_encode[key])}" for what, key in counts.items() if of_encode.get(key)]
    if found:
        total = int(of_encode["captions"])
        lines.append(f"of {total} captions the text encoder {' and '.join(found)}; the report names some")
    return lines


def _start(params: Params, of_sample: Mapping[str, float]) -> list[str]:
    """What training started from, if not from random weights, and which clips are not judged for that."""
    if (name := params.train.start_from) is None:
        return []
    source = "the model of the package" if name == "shipped" else str(name)
    seen = int(of_sample.get("clips_left_out_as_seen", 0))
    was = "clip was" if seen == 1 else "clips were"
    return [f"from {source}" + (f"; {seen} held-out {was} left out, as it has seen them" if seen else "")]


def _quality(decision: Mapping[str, Any], of_evaluate: Mapping[str, float]) -> str:
    """The figure that decides, in words."""
    figure = next((each for each in decision["figures"] if "over repeat-last" in each["name"]), None)
    what = "repeating the last picture, continuing held-out {} clips"
    if figure is None:  # too few clips for an interval
        group = "sim" if "sim_psnr_gain_db" in of_evaluate else "real"
        gain, about = of_evaluate.get(f"{group}_psnr_gain_db"), "too few for an interval"
        group = "simulated" if group == "sim" else group
    else:
        group, gain = str(figure["name"]).partition(" ")[0], float(figure["value"])
        of_shots = f" of {number_of(figure['shots'], 'shot')}" if figure.get("shots") else ""
        about = f"interval {figure['low']:+.1f} to {figure['high']:+.1f}, {figure['n']} clips{of_shots}"
    if gain is None:
        return "nothing was judged"
    word = "better" if gain > 0 else "worse"
    return f"{abs(gain):.1f} dB {word} than {what.format(group)} ({about})"


def _verdict(outcome: Outcome) -> str:
    """Whether the version became champion, and the one sentence that decided."""
    reasons: Sequence[str] = outcome.decision["reasons"]
    if outcome.decision["promote"]:
        decisive = next((each for each in reasons if "over the champion" in each), reasons[0])
        return f"version {outcome.number} is promoted. {decisive}"
    stays = f"version {outcome.champion} stays champion" if outcome.champion else "there is no champion yet"
    failed = [
        _RIVALS[rival]
        for each in outcome.decision["figures"]
        if each["low"] <= each["limit"] == 0
        and (rival := str(each["name"]).partition(" over ")[2]) in _RIVALS
    ]
    why = reasons[0]
    if failed and why.startswith("Not shown to be better"):
        why = f"It is not shown to be better than {' or '.join(failed)}."
    return f"version {outcome.number} is not promoted, {stays}. {why}"


def _example(layout: Layout, outcome: Outcome) -> str:
    """A command that continues a held-out video with its own caption."""
    clips = kept_clips(read_ledger(layout.ledger, thumbnails=False))
    order = {"test": 0, "val": 1}
    captioned = clips["caption"].fillna("").astype(str).str.strip().ne("")
    clips = clips.assign(rank=clips["split"].map(order).fillna(2), silent=~captioned)
    row = clips.sort_values(["rank", "silent", "group", "video", "start_s"]).iloc[0]
    caption = "" if pd.isna(row["caption"]) else " ".join(str(row["caption"]).split())
    if len(caption) > _MOST_LETTERS:
        caption = caption[:_MOST_LETTERS].rpartition(" ")[0] or caption[:_MOST_LETTERS]
    given = shlex.quote((layout.raw / str(row["video"])).as_posix())
    # Where the gate kept another champion, the model that was just made goes by its number.
    model = "" if outcome.champion in (None, outcome.number) else f" --model {outcome.number}"
    return f"{command()} generate {given} --prompt {shlex.quote(caption)} --out {_CLIP}{model}"


def _advice(
    outcome: Outcome, params: Params, summary: LedgerSummary, metrics: Mapping[str, Mapping[str, float]]
) -> str:
    """What would most likely help, the simplest first."""
    judged, least = metrics.get("evaluate", {}), params.gate.min_clips
    most = max((int(judged.get(f"{group}_clips", 0)) for group in ("sim", "real")), default=0)
    few = f": the gate compares at least {least} held-out clips, and has {most}" if most < least else ""
    tips = [f"more videos{few}"]
    if summary.captions.num_without:
        tips.append("words for the clips without")
    steps = sum(stage.steps for stage in params.train.curriculum)
    took = metrics.get("train", {}).get("seconds")
    spent = f" took {took / 60:.0f} min" if took is not None and took >= 60 else ""
    tips.append(f"longer training: train.curriculum in params.yaml, whose {steps:,} steps{spent}")
    if not outcome.decision["promote"] and params.train.start_from is None:
        tips.append(
            f"training on from the champion: {command()} use-preset finetune"
            if outcome.champion
            else "training on from the model of the package: "
            f"{command()} use-clips {shlex.quote(params.samples.source)} --start-from shipped"
        )
    return "; ".join(tips)

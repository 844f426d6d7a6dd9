"""The report's tables, each as rows for the page: headlines, the gate's intervals, sets, costs, versions."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videomar.config import load_own_params
from videomar.config.layout import Layout
from videomar.curation.ledger import kept_clips, read_ledger
from videomar.errors import VideomarError
from videomar.evaluation.generated import GROUPS
from videomar.evaluation.metrics.catalogue import METRICS
from videomar.report.score_table import clips_of_shots, number

_HEADLINES = {
    "psnr_gain_db": (
        "Continuation, gain",
        "given 2 latent frames: how much closer to the truth than repeating the last of them",
    ),
    "i2v_psnr_gain_db": (
        "Picture and prompt, gain",
        "given 1 picture and the prompt: how much closer to the truth than repeating the picture",
    ),
    "prompt_margin_db": (
        "Prompt margin",
        "how much closer to the truth with the right prompt than with a wrong one: does the text matter?",
    ),
    "tokenizer_psnr_db": (
        "Tokenizer, PSNR",
        "the truth after encoding and decoding: the upper limit for the model",
    ),
}
"""Keys of metrics/evaluate.json without their group's prefix, with name and meaning."""
_PHASES = {"sampling": "model", "metrics": "tokenizer", "io": "repeat"}
"""Parts of the evaluation's time, and the colours they borrow."""


def read_metrics(folder: Path) -> dict[str, dict[str, float]]:
    """metrics/STAGE.json by stage."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}


def judged_groups(metrics: Mapping[str, float]) -> list[str]:
    """Groups of clips that were evaluated."""
    return [group for group, prefix in GROUPS.items() if f"{prefix}_clips" in metrics]


def judged_clips(metrics: Mapping[str, float]) -> str:
    """A sentence on how many clips of how many shots were judged; empty if shots are not recorded."""
    counts = [
        f"{clips_of_shots(int(metrics[f'{prefix}_clips']), int(metrics[f'{prefix}_shots']))}, {group}"
        for group, prefix in GROUPS.items()
        if f"{prefix}_shots" in metrics
    ]
    return f" Judged: {'; '.join(counts)}." if counts else ""


def headlines(metrics: Mapping[str, float]) -> list[dict[str, str]]:
    """Name, meaning and value of the few metrics on top, and `beside` it the value of the other group.

    The value is that of simulated clips where there are any, else that of real ones; intervals stand beside.
    """

    def text(key: str, group: str, end: str = "") -> str:
        value = metrics.get(f"{GROUPS[group]}_{key}{end}")
        return "" if value is None else number(value, signed="gain" in key or "margin" in key)

    def between(key: str, group: str) -> str:
        low, high = (text(key, group, end) for end in ("_low", "_high"))
        return f"({low} to {high})" if low else ""

    groups = judged_groups(metrics)
    tiles = []
    for key, (name, meaning) in _HEADLINES.items():
        values = {group: text(key, group) for group in groups}
        if groups and values[groups[0]]:
            others = [
                f"{group} {values[group]} {between(key, group)}" for group in groups[1:] if values[group]
            ]
            beside = " ".join(part.strip() for part in [between(key, groups[0]), *others] if part)
            tiles.append({"name": name, "meaning": meaning, "value": values[groups[0]], "beside": beside})
    return tiles


def gate_intervals(decision: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The gate's figures, with their places on a scale in percent from the left.

    Decibels over baselines share one scale that contains zero, those over the champion, which are much
    smaller, another; metrics without a unit have nothing in common and a scale each.
    """
    figures = [{"unit": "dB", "limit": 0.0, **figure} for figure in (decision or {}).get("figures", ())]
    scales = [
        (figure["unit"], figure["name"].endswith("the champion")) if figure["unit"] else figure["name"]
        for figure in figures
    ]
    ends: dict[Any, list[float]] = {scale: [0.0] for scale in scales}
    for scale, figure in zip(scales, figures, strict=True):
        ends[scale] += [figure["low"], figure["high"], figure["limit"]]

    def place(value: float, scale: Any) -> float:
        low, high = min(ends[scale]), max(ends[scale])
        return 3 + 94 * (value - low) / ((high - low) or 1.0)

    intervals = []
    for figure, scale in zip(figures, scales, strict=True):
        text, interval = _value_and_interval(figure, signed=True)
        left, right = place(figure["low"], scale), place(figure["high"], scale)
        intervals.append(
            {
                **{name: figure[name] for name in ("name", "n", "unit")},
                "count": clips_of_shots(figure["n"], figure.get("shots")),
                **{"text": text, "interval": interval, "left": left, "width": right - left},
                **{"dot": place(figure["value"], scale), "limit": place(figure["limit"], scale)},
                "zero": place(0.0, scale),
            }
        )
    return intervals


def set_metrics(metrics: Mapping[str, float], details: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The metrics of whole sets of clips, one row for each group and task that has it."""
    rows: list[dict[str, Any]] = []
    for metric in (metric for metric in METRICS if metric.per == "set"):
        for group, prefix in GROUPS.items():
            for task, words in (("", ", continued"), ("i2v_", ", from one picture")):
                key = f"{prefix}_{task}{metric.key}"
                clips = group.capitalize() + (words if metric.key == "frechet" else "")
                score = details.get("frechet", {}).get(key)
                if score is not None:
                    value, interval = _value_and_interval(score)
                    count = min(score["n_real"], score["n_generated"])
                    notes = [interval, clips_of_shots(count, score.get("shots")), score["extractor"]]
                    too_few = score["too_few_to_rank"]
                elif key in metrics:
                    value, notes, too_few = number(metrics[key]), [], False
                else:
                    continue
                rows.append(
                    {"metric": metric, "clips": clips, "value": value, "notes": notes, "too_few": too_few}
                )
    return rows


def stage_costs(metrics: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Time and memory of each stage that recorded them, with percent of the largest; longest first."""
    costs: list[dict[str, Any]] = [
        {"stage": stage, "seconds": own["seconds"], "memory_gb": own.get("peak_memory_gb", 0.0)}
        for stage, own in metrics.items()
        if "seconds" in own
    ]
    for name in ("seconds", "memory_gb"):
        largest = max((cost[name] for cost in costs), default=1.0) or 1.0
        for cost in costs:
            cost[f"{name}_share"] = 100 * cost[name] / largest
    return sorted(costs, key=lambda cost: -cost["seconds"])


def caption_lines(metrics: Mapping[str, Mapping[str, float]], layout: Layout) -> list[str]:
    """Say which captions the text encoder did not read whole; nothing if it read all.

    The stage that encodes counts them. Their words are named as long as the encoder's files are there.
    """
    counts = metrics.get("encode", {})
    total, unreadable, cut = (int(counts.get(f"captions{key}", 0)) for key in ("", "_unreadable", "_cut"))
    if not unreadable and not cut:
        return []
    from videomar.encoders.text import load_text_encoder  # here: it imports torch
    from videomar.latents.readable_captions import find_losses, read_captions

    captions = sorted(set(kept_clips(read_ledger(layout.ledger, thumbnails=False))["caption"]))
    try:
        text = load_own_params(layout.params).text
        readings = read_captions(load_text_encoder(text, with_weights=False), captions)
    except VideomarError:
        return [f"The text encoder could not read {unreadable} of {total} captions, and cut {cut}."]
    return find_losses(captions, readings, text.max_tokens).lines(text.max_tokens)


def evaluation_phases(details: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Seconds of sampling, metrics, reading and writing, with their shares of the whole in percent."""
    recorded = details.get("seconds") or {}
    seconds = {name: float(recorded[name]) for name in _PHASES if recorded.get(name) is not None}
    whole = sum(seconds.values()) or 1.0
    return [
        {"name": name, "look": _PHASES[name], "seconds": value, "share": 100 * value / whole}
        for name, value in seconds.items()
    ]


def skipped_lines(details: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Metrics that were skipped, and why."""
    skipped = details.get("skipped", {}).items()
    return [(key.replace("_", " "), str(reason).removeprefix(f"{key}: ")) for key, reason in skipped]


def fingerprint_lines(details: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every key of the fingerprint with its value as text; mappings as `key.part`, hashes shortened."""

    def text(value: object) -> str:
        if isinstance(value, list | tuple):
            return " ".join(map(str, value))
        return f"{str(value)[:12]}…" if len(str(value)) == 64 else str(value)

    lines: list[tuple[str, str]] = []
    for key, value in details.get("fingerprint", {}).items():
        parts = value.items() if isinstance(value, Mapping) else [("", value)]
        lines += [(f"{key}.{part}" if part else key, text(of_part)) for part, of_part in parts]
    return lines


def _value_and_interval(figure: Mapping[str, Any], signed: bool = False) -> tuple[str, str]:
    """`value`, and `low` to `high`, with equally many digits."""
    values = tuple(float(figure[name]) for name in ("value", "low", "high"))
    value, low, high = (number(each, signed, beside=values) for each in values)
    return value, f"{low} to {high}"

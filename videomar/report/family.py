"""A fine-tuned model beside the model that it started from, and beside one that started from nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_GROUPS = {"sim": "simulated", "real": "real"}
_FIGURES = {
    "psnr_gain_db": "continuation over repeating the last frame, dB",
    "i2v_psnr_gain_db": "image-to-video over repeating the picture, dB",
    "motion_retained": "motion retained",
    "ssim": "SSIM",
}
"""Shown metrics of an evaluation, by the end of their keys."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Relative:
    """A model to show beside the candidate."""

    name: str
    role: str
    """`parent`, `before the parent`, or how else it stands to the candidate."""
    metrics: Mapping[str, float]
    """Means of its evaluation, as in metrics/evaluate.json; empty if none are known."""
    differing: Sequence[str] = ()
    """Why its figures are not those of the same clips and code; empty if they are."""


def family_table(own: Mapping[str, float], relatives: Sequence[Relative]) -> dict[str, Any]:
    """Return the template's table: `heads`, one for each model, and `rows` of texts; empty without relatives.

    Args:
        own: Metrics of the candidate's evaluation.
        relatives: Models beside it.
    """
    if not relatives:
        return {}
    everyone = [own, *(relative.metrics for relative in relatives)]
    rows = []
    for short, group in _GROUPS.items():
        for end, meaning in _FIGURES.items():
            key = f"{short}_{end}"
            if key in own:
                rows.append({"name": f"{group}: {meaning}", "texts": [_text(each, key) for each in everyone]})
    heads = [{"name": "this model", "role": "", "differing": []}]
    heads += [{"name": each.name, "role": each.role, "differing": list(each.differing)} for each in relatives]
    return {"heads": heads, "rows": rows}


def _text(metrics: Mapping[str, float], key: str) -> str:
    """A figure with its interval, if it has one."""
    if key not in metrics:
        return "–"
    low, high = metrics.get(f"{key}_low"), metrics.get(f"{key}_high")
    interval = f" ({low:+.2f} to {high:+.2f})" if low is not None and high is not None else ""
    return f"{metrics[key]:+.2f}{interval}"

"""From candidates to the ledger: a verdict and a split for every clip, from its scores alone."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas

from videomar.config import CurateParams
from videomar.data.ledger import SCORES, SPLITS, read_candidates, write_ledger
from videomar.data.splits import assign_split
from videomar.errors import DataError


def curate_clips(candidates: Path, out: Path, params: CurateParams) -> dict[str, float]:
    """Write the ledger of all candidates; how many are kept, and why the others are not.

    Raises:
        DataError: no candidates, or none is kept; the message names the commonest reasons.
    """
    ledger = judge_all(read_candidates(candidates), params)
    figures = count_verdicts(ledger)
    if not figures["kept"]:
        reasons = Counter(ledger["reason"]).most_common(3)
        listed = ", ".join(f"{reason} ({count})" for reason, count in reasons) or "no candidates"
        raise DataError(
            f"{candidates}: got no clip that is kept, expected at least 1; commonest reasons: {listed}; "
            "add videos, or change the limits in section `curate` of params.yaml"
        )
    write_ledger(out, ledger)
    return figures


def judge_all(candidates: pandas.DataFrame, params: CurateParams) -> pandas.DataFrame:
    """The candidates with `kept`, `reason` and `split`; in their order, none more and none less. Pure."""
    ledger = candidates.copy()
    reasons = [_verdict(row, params) for row in candidates.to_dict("records")]
    ledger["reason"] = pandas.Series(reasons, index=ledger.index, dtype=object)
    ledger["kept"] = ledger["reason"].isna()
    ledger["split"] = assign_split(ledger, params)
    between = ledger["kept"] & ledger["split"].isna()
    ledger.loc[between, "reason"] = "split_boundary"
    ledger.loc[between, "kept"] = False
    return ledger


def judge(size_px: float, scores: Mapping[str, float], params: CurateParams) -> str | None:
    """Why a clip is rejected, by the first rule that it breaks, or None if it is kept.

    Args:
        size_px: Shorter side of the source video.
        scores: As `scores.score` returns them.
        params: The limits.
    """
    rules = {
        "too_small": size_px < params.min_size_px,
        "too_static": scores["motion"] < params.min_motion,
        "too_violent": scores["motion"] > params.max_motion,
        "too_dark": scores["brightness"] < params.min_brightness,
        "too_bright": scores["brightness"] > params.max_brightness,
        "low_contrast": scores["contrast"] < params.min_contrast,
        "blurred": scores["sharpness"] < params.min_sharpness,
        "frozen": scores["frozen_share"] > params.max_frozen_share,
    }
    return next((reason for reason, broken in rules.items() if broken), None)


def count_verdicts(ledger: pandas.DataFrame) -> dict[str, float]:
    """Considered, kept and rejected clips, kept ones of each split, rejected ones of each reason.

    Raises:
        DataError: the books do not balance: a row is kept with a reason, or rejected with none.
    """
    # `unreadable: moov atom not found` counts as `unreadable`.
    codes = Counter(str(reason).split(":")[0] for reason in ledger["reason"].dropna())
    kept = ledger[ledger["kept"]]
    if len(ledger) != len(kept) + sum(codes.values()):
        raise DataError(
            f"ledger: got {len(ledger)} considered, {len(kept)} kept, {sum(codes.values())} rejected clips, "
            "expected considered = kept + rejected; this is a bug, please report it"
        )
    return {
        "considered": len(ledger),
        "kept": len(kept),
        "rejected": sum(codes.values()),
        **{f"kept_{split}": int((kept["split"] == split).sum()) for split in SPLITS},
        **{f"rejected_{code}": count for code, count in sorted(codes.items())},
    }


def _verdict(row: dict[str, Any], params: CurateParams) -> str | None:
    if isinstance(row["reason"], str):
        return row["reason"]
    return judge(min(row["width"], row["height"]), {name: row[name] for name in SCORES}, params)

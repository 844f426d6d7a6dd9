"""Stage curate: a verdict and a split for every clip, from its scores alone."""

import logging
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas

from videomar.config import CurateParams
from videomar.curation.duplicates import find_clusters, join_shots
from videomar.curation.ledger import (
    LEARNED,
    SCORES,
    SPLITS,
    read_candidates,
    read_note,
    require_sum,
    write_ledger,
)
from videomar.curation.retries import read_reading
from videomar.curation.split_summary import summarise_splits
from videomar.curation.splits import are_named, assign_split
from videomar.curation.takedowns import read_takedowns
from videomar.errors import DataError

_log = logging.getLogger(__name__)


def curate_clips(candidates: Path, takedowns: Path, out: Path, params: CurateParams) -> dict[str, float]:
    """Write the ledger of all candidates; return how many are kept, and why the others are not.

    Args:
        candidates: Table that ingest wrote.
        takedowns: Table of videos that must not be used.
        out: The file of the ledger.
        params: The limits.

    Raises:
        DataError: there are no candidates, or none is kept; the message names the commonest reasons. Or all
            that are kept are still pictures.
    """
    ledger = judge_all(read_candidates(candidates), params, read_takedowns(takedowns))
    figures = count_verdicts(ledger)
    figures["drop_alarm"] = _drop_alarm(figures, params)
    if not figures["kept"]:
        reasons = Counter(ledger["reason"]).most_common(3)
        listed = ", ".join(f"{reason} ({count})" for reason, count in reasons) or "no candidates"
        raise DataError(
            f"{candidates}: got no clip that is kept, expected at least 1; commonest reasons: {listed}; "
            "add videos, or change the limits in section `curate` of params.yaml"
        )
    if figures["kept"] == figures.get("kept_still_pictures"):
        raise DataError(
            f"{candidates}: got still pictures alone ({figures['kept']:.0f} kept), expected clips of videos: "
            "a model learns motion from nothing else; add videos, or change the limits in section `curate`"
        )
    # Without the number of attempts: a ledger does not depend on how often files had to be read.
    write_ledger(out, ledger, read_note(candidates), replace(read_reading(candidates), attempt=0))
    return figures | _split_figures(ledger)


def judge_all(
    candidates: pandas.DataFrame, params: CurateParams, removed: Mapping[str, str] | None = None
) -> pandas.DataFrame:
    """Return the candidates, in their order, with `kept`, `reason`, `cluster`, `shot` and `split`. Pure.

    Args:
        candidates: Rows of ingest.
        params: The limits.
        removed: Why videos were taken down, by `video_sha256`. Clips that look like theirs are rejected too,
            and the ledger holds neither their pictures nor their captions.
    """
    ledger = candidates.copy()
    learned = [LEARNED + name for name in params.min_scores]
    if lacking := sorted(set(learned) - set(candidates)):
        raise DataError(
            f"curate.min_scores: got limits for {', '.join(lacking)}, which the candidates lack, "
            "expected names of ingest.scorers; add them there and run `dvc repro ingest`"
        )
    judged = candidates[["reason", "width", "height", *SCORES, *learned]].to_dict("records")
    reasons = pandas.Series([_verdict(row, params) for row in judged], index=ledger.index, dtype=object)
    taken = ledger["video_sha256"].map(removed or {}).astype(object)
    ledger["reason"] = reasons.where(taken.isna(), "removed: " + taken)
    ledger.loc[taken.notna(), ["thumbnail", "caption", "caption_from"]] = None
    ledger["cluster"] = find_clusters(ledger[ledger["reason"].isna() | taken.notna()], params).reindex(
        ledger.index
    )
    named = are_named(ledger["video"], params)
    ledger.loc[_repeats(ledger, taken.notna(), named), "reason"] = "near_duplicate"
    ledger["kept"] = ledger["reason"].isna()
    ledger["shot"] = join_shots(ledger)
    ledger["split"] = assign_split(ledger, params)
    between = ledger["kept"] & ledger["split"].isna()
    ledger.loc[between, "reason"] = "split_boundary"
    ledger.loc[between, "kept"] = False
    return ledger


def judge(size_px: float, scores: Mapping[str, float], params: CurateParams) -> str | None:
    """Return why a clip is rejected: the reason of the first rule that it breaks, or None if it is kept.

    Args:
        size_px: Shorter side of the source video.
        scores: What `scores.score` returns, and learned scores with limits as `score_NAME`; NaN if missing.
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
        "flickering": scores["flicker"] > params.max_flicker,
        "letterboxed": scores["letterbox_share"] > params.max_letterbox_share,
    }
    for name, least in params.min_scores.items():
        value = scores[LEARNED + name]
        rules |= {f"unscored_{name}": math.isnan(value), f"low_{name}": value < least}
    return next((reason for reason, broken in rules.items() if broken), None)


def count_verdicts(ledger: pandas.DataFrame) -> dict[str, float]:
    """Count considered, kept and rejected clips, kept ones by split and rejected ones by reason.

    `kept_still_pictures`, of the kept ones, is absent if there are none.

    Raises:
        DataError: a row is kept with a reason, or rejected without one.
    """
    # `unreadable: moov atom not found` counts as `unreadable`.
    codes = Counter(str(reason).split(":")[0] for reason in ledger["reason"].dropna())
    kept = ledger[ledger["kept"]]
    stills = int((kept["num_frames"] == 1).sum())
    figures: dict[str, float] = {
        "considered": len(ledger),
        "kept": len(kept),
        "rejected": sum(codes.values()),
        **{f"kept_{split}": int((kept["split"] == split).sum()) for split in SPLITS},
        **({"kept_still_pictures": stills} if stills else {}),
        **{f"rejected_{code}": count for code, count in sorted(codes.items())},
    }
    require_sum("ledger", figures, "considered", ["kept", "rejected"])
    return figures


def _repeats(ledger: pandas.DataFrame, taken: pandas.Series, named: pandas.Series) -> pandas.Series:
    """Which clips repeat one of another video that goes first: taken down, named for test, or larger."""
    order = pandas.DataFrame(
        {
            "untouched": ~taken,
            "unnamed": ~named,
            "size": -ledger[["width", "height"]].min(axis=1),
            "video": ledger["video_sha256"],
            "cluster": ledger["cluster"],
        }
    )
    ranked = order[ledger["cluster"].notna()].sort_values(["untouched", "unnamed", "size", "video"])
    first = ranked.groupby("cluster")["video"].transform("first").reindex(ledger.index)
    return first.notna() & (first != ledger["video_sha256"]) & ~taken


def _split_figures(ledger: pandas.DataFrame) -> dict[str, float]:
    """Return seconds of film by split, and log a warning for each fault of the test split."""
    summary = summarise_splits(ledger)
    for line in summary.warnings:
        _log.warning("SPLIT: %s; see `videomar ledger show`", line)
    return {
        **{f"film_s_{name}": value for name, value in zip(SPLITS, summary.seconds, strict=True)},
        "test_videos": summary.test_videos,
        "test_shots": summary.test_shots,
        "split_warnings": len(summary.warnings),
    }


def _drop_alarm(figures: Mapping[str, float], params: CurateParams) -> float:
    """Return 1 and log a warning if the rejected share is not what the parameters expect; else return 0."""
    share = figures["rejected"] / max(1, figures["considered"])
    if abs(share - params.expected_drop_share) <= params.max_drop_change:
        return 0.0
    _log.warning(
        "DROP ALARM: got %.1f %% of the clips rejected, expected %.1f %% give or take %.1f; "
        "see `videomar ledger show`, then correct the videos or set curate.expected_drop_share (params.yaml)",
        *(100 * value for value in (share, params.expected_drop_share, params.max_drop_change)),
    )
    return 1.0


def _verdict(row: dict[str, Any], params: CurateParams) -> str | None:
    if isinstance(row["reason"], str):
        return row["reason"]
    names = [*SCORES, *(LEARNED + name for name in params.min_scores)]
    return judge(min(row["width"], row["height"]), {name: row[name] for name in names}, params)

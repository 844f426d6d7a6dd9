"""What went in: the ledger as counts per reason, a contact sheet, and the files that could not be read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from videomar.curation.ledger import read_ledger
from videomar.report.strips import data_address

_KEPT_SHOWN = 24
_REJECTED_SHOWN = 6
_UNREADABLE_SHOWN = 50


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """First, middle and last frame of one considered clip."""

    address: str
    video: str
    start_s: float
    caption: str


@dataclass(frozen=True, slots=True)
class Sheet:
    """Some clips with one verdict, out of `count`."""

    verdict: str
    count: int
    share: float
    """Of all considered clips."""
    thumbnails: Sequence[Thumbnail]


@dataclass(frozen=True, slots=True)
class Contents:
    """All that the report says about the raw clips."""

    num_videos: int
    num_clips: int
    kept: Sequence[Sheet]
    """By group."""
    rejected: Sequence[Sheet]
    """By reason, most frequent first."""
    splits: Sequence[tuple[str, str, int]]
    """Group, split, kept clips."""
    unreadable: Sequence[tuple[str, str]]
    """File and reason."""
    num_unreadable: int


def read_contents(path: Path) -> Contents:
    """Counts and pictures from ledger.parquet, with at most a few dozen thumbnails."""
    ledger = read_ledger(path)
    clips, files = ledger[ledger["clip_id"].notna()], ledger[ledger["clip_id"].isna()]
    kept, rejected = clips[clips["kept"].astype(bool)], clips[~clips["kept"].astype(bool)]
    groups = [(str(group), rows) for group, rows in kept.groupby("group", sort=True)]
    reasons = [(str(reason), rows) for reason, rows in rejected.groupby("reason", sort=True)]
    reasons.sort(key=lambda pair: -len(pair[1]))
    each = max(_REJECTED_SHOWN, _KEPT_SHOWN // max(1, len(groups)))
    splits = kept.groupby(["group", "split"]).size()
    return Contents(
        num_videos=ledger["video"].nunique(),
        num_clips=len(clips),
        kept=[_sheet(group, rows, len(clips), each) for group, rows in reversed(groups)],
        rejected=[_sheet(reason, rows, len(clips), _REJECTED_SHOWN) for reason, rows in reasons],
        splits=[(str(group), str(split), int(count)) for (group, split), count in splits.items()],
        unreadable=list(zip(files["video"], files["reason"], strict=True))[:_UNREADABLE_SHOWN],
        num_unreadable=len(files),
    )


def _sheet(verdict: str, rows: pd.DataFrame, considered: int, shown: int) -> Sheet:
    """Clips evenly spread over the videos, so that no long film fills the sheet."""
    ordered = rows.sort_values(["video", "start_s"])
    step = max(1, len(ordered) // shown)
    chosen = ordered.iloc[step // 2 :: step].head(shown)
    thumbnails = [
        _thumbnail(row) for row in chosen.to_dict("records") if isinstance(row.get("thumbnail"), bytes)
    ]
    return Sheet(verdict, len(rows), len(rows) / max(1, considered), thumbnails)


def _thumbnail(row: dict[str, object]) -> Thumbnail:
    caption = row.get("caption")
    return Thumbnail(
        data_address(row["thumbnail"], "image/jpeg"),  # type: ignore[arg-type]
        str(row["video"]),
        float(row["start_s"]),  # type: ignore[arg-type]
        caption if isinstance(caption, str) else "",
    )

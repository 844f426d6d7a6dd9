"""The ledger for a reader: counts per reason, some clips of each as thumbnails, and a picture of them all."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from videomar.curation.captions.caption_report import CaptionSummary, summarise_captions
from videomar.curation.ledger import CHANGED_FRAMES, STILL_PICTURE, read_ledger, read_note
from videomar.curation.retries import is_retryable
from videomar.curation.split_summary import SplitSummary, summarise_splits
from videomar.files import atomic_write
from videomar.report.strips import data_address

_KEPT_SHOWN = 24
_REJECTED_SHOWN = 6
_UNREADABLE_SHOWN = 50
_STREAMS_SHOWN = 10
_COLUMNS = 4
_GAP_PX = 14
_TITLE_PX, _LABEL_PX = 34, 18
_PAPER, _INK, _FAINT = "#ffffff", "#1c2128", "#6e7681"
_KEPT, _REJECTED = "#2da44e", "#cf222e"
_EMPTY_PX = (192, 64)  # of a cell where no clip has a picture


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """First, middle and last frame of one considered clip."""

    address: str
    video: str
    start_s: float
    caption: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The clips of one group that were kept, or those rejected for one reason; some of them as thumbnails."""

    name: str
    """Group or reason."""
    count: int
    share: float
    """Of all considered clips."""
    thumbnails: Sequence[Thumbnail]


@dataclass(frozen=True, slots=True)
class LedgerSummary:
    """What the report shows of the ledger."""

    num_videos: int
    num_clips: int
    stills: Sequence[tuple[str, int]]
    """Kept clips that are still pictures, by split; empty if there are none."""
    unused_stills: int
    """Files that are still pictures, which `ingest.still_pictures` would make clips of."""
    kept: Sequence[Verdict]
    """By group."""
    rejected: Sequence[Verdict]
    """By reason, most frequent first."""
    splits: Sequence[tuple[str, str, int]]
    """Group, split, kept clips."""
    by_video: SplitSummary
    """Which video is in which split, and what is unfair about it."""
    unreadable: Sequence[tuple[str, str]]
    """File and reason."""
    num_unreadable: int
    num_retryable: int
    """Of the unreadable files, those that failed on this machine, whatever is in them."""
    streams: Sequence[tuple[str, str]]
    """Video and which of its video streams was read, where it has several."""
    num_streams: int
    """Such videos."""
    frames: Sequence[tuple[str, ...]]
    """Videos with frames that were lost, invented or have another time, and how many of each."""
    num_frames_changed: int
    """Such videos."""
    captions: CaptionSummary
    """Of the kept clips, and the caption files that were not used."""


def summarise_ledger(path: Path) -> LedgerSummary:
    """Counts and a few dozen thumbnails from ledger.parquet."""
    ledger = read_ledger(path)
    clips, files = ledger[ledger["clip_id"].notna()], ledger[ledger["clip_id"].isna()]
    unused = files["reason"] == STILL_PICTURE
    files = files[~unused]
    kept, rejected = clips[clips["kept"].astype(bool)], clips[~clips["kept"].astype(bool)]
    groups = [(str(group), rows) for group, rows in kept.groupby("group", sort=True)]
    reasons = [(str(reason), rows) for reason, rows in rejected.groupby("reason", sort=True)]
    reasons.sort(key=lambda pair: -len(pair[1]))
    each = max(_REJECTED_SHOWN, _KEPT_SHOWN // max(1, len(groups)))
    splits = kept.groupby(["group", "split"]).size()
    several = ledger[ledger["stream"].notna()].drop_duplicates("video")
    changed = ledger[(ledger[list(CHANGED_FRAMES)] > 0).any(axis=1)].drop_duplicates("video")
    counted = changed[["video", *CHANGED_FRAMES]].head(_STREAMS_SHOWN).itertuples(index=False)
    return LedgerSummary(
        num_videos=ledger["video"].nunique(),
        num_clips=len(clips),
        stills=[
            (str(split), int(count))
            for split, count in kept[kept["num_frames"] == 1].groupby("split").size().items()
        ],
        unused_stills=int(unused.sum()),
        kept=[_verdict(group, rows, len(clips), each) for group, rows in reversed(groups)],
        rejected=[_verdict(reason, rows, len(clips), _REJECTED_SHOWN) for reason, rows in reasons],
        splits=[(str(group), str(split), int(count)) for (group, split), count in splits.items()],
        by_video=summarise_splits(ledger),
        unreadable=list(zip(files["video"], files["reason"], strict=True))[:_UNREADABLE_SHOWN],
        num_unreadable=len(files),
        num_retryable=sum(map(is_retryable, files["reason"])),
        streams=list(zip(several["video"], several["stream"], strict=True))[:_STREAMS_SHOWN],
        num_streams=len(several),
        frames=[(str(video), *(f"{count:,.0f}" for count in counts)) for video, *counts in counted],
        num_frames_changed=len(changed),
        captions=summarise_captions(
            (source if isinstance(source, str) else None for source in kept["caption_from"]), read_note(path)
        ),
    )


def _verdict(name: str, rows: pd.DataFrame, considered: int, shown: int) -> Verdict:
    """Clips are evenly spread over the videos, so that no long film fills the sheet."""
    ordered = rows.sort_values(["video", "start_s"])
    step = max(1, len(ordered) // shown)
    chosen = ordered.iloc[step // 2 :: step].head(shown)
    thumbnails = [
        _thumbnail(row) for row in chosen.to_dict("records") if isinstance(row.get("thumbnail"), bytes)
    ]
    return Verdict(name, len(rows), len(rows) / max(1, considered), thumbnails)


def _thumbnail(row: dict[str, object]) -> Thumbnail:
    caption = row.get("caption")
    return Thumbnail(
        data_address(row["thumbnail"], "image/jpeg"),  # type: ignore[arg-type]
        str(row["video"]),
        float(row["start_s"]),  # type: ignore[arg-type]
        caption if isinstance(caption, str) else "",
    )


def draw_sheet(summary: LedgerSummary, path: Path) -> None:
    """Write a PNG with a title for each verdict, kept clips first, and some clips in three frames each."""
    titled = [(f"kept: {verdict.name}", verdict, _KEPT) for verdict in summary.kept]
    titled += [(f"rejected: {verdict.name}", verdict, _REJECTED) for verdict in summary.rejected]
    drawn = [[(_picture(shown), shown) for shown in verdict.thumbnails] for _, verdict, _ in titled]
    sizes = [_EMPTY_PX, *(picture.size for cells in drawn for picture, _ in cells)]
    cell = max(width for width, _ in sizes), max(height for _, height in sizes)
    row_px = cell[1] + _LABEL_PX + _GAP_PX // 2
    heights = [_TITLE_PX + -(-len(cells) // _COLUMNS) * row_px + _GAP_PX for cells in drawn]
    width = _COLUMNS * (cell[0] + _GAP_PX) + _GAP_PX
    canvas = Image.new("RGB", (width, 2 * _GAP_PX + _TITLE_PX + sum(heights)), _PAPER)
    pen = ImageDraw.Draw(canvas)
    total = f"{summary.num_clips:,} clips of {summary.num_videos:,} videos"
    unread = f", {summary.num_unreadable:,} files could not be read" if summary.num_unreadable else ""
    pen.text((_GAP_PX, _GAP_PX), total + unread, _INK, _font(20))
    caption = "each: first, middle, last frame" + (
        "; of a still picture its only one" if summary.stills else ""
    )
    pen.text((width - _GAP_PX, _GAP_PX + 12), caption, _FAINT, _font(12), anchor="rm")
    top = _GAP_PX + _TITLE_PX
    for (title, verdict, colour), cells, height in zip(titled, drawn, heights, strict=True):
        _draw_title(pen, (_GAP_PX, top), title, verdict, colour)
        for number, start in enumerate(range(0, len(cells), _COLUMNS)):
            row_top = top + _TITLE_PX + number * row_px
            _draw_row(canvas, cells[start : start + _COLUMNS], row_top, cell)
        top += height
    with atomic_write(path) as draft:
        canvas.save(draft, "PNG", optimize=True)


def _draw_title(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], title: str, verdict: Verdict, colour: str
) -> None:
    """A tag in the colour of the verdict, and how many clips it has."""
    left, top = place
    font = _font(15)
    end = left + pen.textlength(title, font) + 18
    pen.rounded_rectangle((left, top, end, top + 24), 5, colour)
    pen.text((left + 9, top + 12), title, _PAPER, font, anchor="lm")
    count = f"{verdict.count:,} clips, {100 * verdict.share:.1f} %"
    pen.text((end + 12, top + 12), count, _FAINT, font, anchor="lm")


def _draw_row(
    canvas: Image.Image, row: Sequence[tuple[Image.Image, Thumbnail]], top: int, cell: tuple[int, int]
) -> None:
    """Pictures side by side, each above its caption, or above its place in the video if it has none."""
    pen, font = ImageDraw.Draw(canvas), _font(11)
    for column, (picture, shown) in enumerate(row):
        left = _GAP_PX + column * (cell[0] + _GAP_PX)
        canvas.paste(picture, (left, top))
        label = shown.caption or f"{Path(shown.video).name} at {shown.start_s:.1f} s"
        pen.text((left, top + cell[1] + 3), _cut(label, cell[0], font), _FAINT, font)


def _cut(text: str, width: int, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont") -> str:
    """As much of a text as fits."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def _picture(shown: Thumbnail) -> Image.Image:
    data = base64.b64decode(shown.address.partition(",")[2])
    with Image.open(io.BytesIO(data)) as picture:
        return picture.convert("RGB")


def _font(size: int) -> "ImageFont.FreeTypeFont | ImageFont.ImageFont":
    return ImageFont.load_default(size)

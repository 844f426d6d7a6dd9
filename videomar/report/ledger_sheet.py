"""A picture of what was kept and what was rejected: sheets of thumbnails under their verdicts."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from videomar.files import atomic_write
from videomar.report.contents import Contents, Sheet, Thumbnail

_COLUMNS = 4
_GAP_PX = 14
_TITLE_PX, _LABEL_PX = 34, 18
_PAPER, _INK, _FAINT = "#ffffff", "#1c2128", "#6e7681"
_KEPT, _REJECTED = "#2da44e", "#cf222e"
_EMPTY_PX = (192, 64)  # of a cell where no clip has a picture


def draw_sheets(contents: Contents, path: Path) -> None:
    """Write a PNG: the verdicts as titles, the kept ones first, and some clips of each in three frames."""
    sheets = [(f"kept: {sheet.verdict}", sheet, _KEPT) for sheet in contents.kept]
    sheets += [(f"rejected: {sheet.verdict}", sheet, _REJECTED) for sheet in contents.rejected]
    drawn = [[(_picture(shown), shown) for shown in sheet.thumbnails] for _, sheet, _ in sheets]
    sizes = [_EMPTY_PX, *(picture.size for cells in drawn for picture, _ in cells)]
    cell = max(width for width, _ in sizes), max(height for _, height in sizes)
    row_px = cell[1] + _LABEL_PX + _GAP_PX // 2
    heights = [_TITLE_PX + -(-len(cells) // _COLUMNS) * row_px + _GAP_PX for cells in drawn]
    width = _COLUMNS * (cell[0] + _GAP_PX) + _GAP_PX
    canvas = Image.new("RGB", (width, 2 * _GAP_PX + _TITLE_PX + sum(heights)), _PAPER)
    pen = ImageDraw.Draw(canvas)
    total = f"{contents.num_clips:,} clips of {contents.num_videos:,} videos"
    unread = f", {contents.num_unreadable:,} files could not be read" if contents.num_unreadable else ""
    pen.text((_GAP_PX, _GAP_PX), total + unread, _INK, _font(20))
    told = "each: first, middle, last frame"
    pen.text((width - _GAP_PX, _GAP_PX + 12), told, _FAINT, _font(12), anchor="rm")
    top = _GAP_PX + _TITLE_PX
    for (title, sheet, colour), cells, height in zip(sheets, drawn, heights, strict=True):
        _draw_title(pen, (_GAP_PX, top), title, sheet, colour)
        for number, start in enumerate(range(0, len(cells), _COLUMNS)):
            row_top = top + _TITLE_PX + number * row_px
            _draw_row(canvas, cells[start : start + _COLUMNS], row_top, cell)
        top += height
    with atomic_write(path) as draft:
        canvas.save(draft, "PNG", optimize=True)


def _draw_title(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], title: str, sheet: Sheet, colour: str
) -> None:
    """A tag in the colour of the verdict, and how many clips it has."""
    left, top = place
    font = _font(15)
    end = left + pen.textlength(title, font) + 18
    pen.rounded_rectangle((left, top, end, top + 24), 5, colour)
    pen.text((left + 9, top + 12), title, _PAPER, font, anchor="lm")
    told = f"{sheet.count:,} clips, {100 * sheet.share:.1f} %"
    pen.text((end + 12, top + 12), told, _FAINT, font, anchor="lm")


def _draw_row(
    canvas: Image.Image, row: Sequence[tuple[Image.Image, Thumbnail]], top: int, cell: tuple[int, int]
) -> None:
    """Pictures side by side, each over its caption, or its place in a file where it has none."""
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

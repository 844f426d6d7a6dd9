"""Captions as files beside videos: `NAME.txt` for the whole video, or `NAME.json` for spans of it.

What has neither is looked up in `captions.csv` or `captions.parquet` at the top of the raw folder: columns
`video` (path in that folder), `caption`, and, for spans, `start_s` and `end_s`.
"""

import csv
import json
import math
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from videomar.data.clips import Shot

SIDECARS = (".txt", ".json", ".csv", ".parquet")
"""Suffixes of files beside videos that are never videos."""


class CaptionsError(Exception):
    """A sidecar file that cannot be understood; the message says why."""


@dataclass(frozen=True, slots=True)
class Captions:
    """What is said about a video."""

    whole: str
    """Of the video as a whole; empty where nothing is said."""
    spans: list[Shot]
    """Spans with captions of their own, which take the place of shot detection; may be empty."""


def read_captions(video: Path, raw: Path | None = None) -> Captions:
    """Captions of a video: its JSON if there is one, else its text, else those of the table, else none.

    Args:
        video: The file.
        raw: The folder that may hold a table, and the video.

    Raises:
        CaptionsError: the sidecar is not UTF-8, not JSON, or not `{"caption": ...}` or `{"clips": [...]}`; or
            the table lacks columns or holds a span that is none.
    """
    listed, plain = video.with_suffix(".json"), video.with_suffix(".txt")
    try:
        if listed.is_file():
            return parse_captions(listed.read_text("utf-8-sig"))
        if raw is not None and not plain.is_file():
            return _from_table(raw, video.relative_to(raw).as_posix())
        whole = plain.read_text("utf-8-sig") if plain.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise CaptionsError(str(error)) from None
    return Captions(" ".join(whole.split()), [])


def parse_captions(text: str) -> Captions:
    """Captions of `{"caption": "..."}`, `{"clips": [{"start_s", "end_s", "caption"}, ...]}` or both."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise CaptionsError(f"no JSON: {error}") from None
    if not isinstance(content, dict):
        raise CaptionsError("expected an object with `caption` or `clips`")
    whole, spans = content.get("caption", ""), content.get("clips", [])
    if not isinstance(whole, str) or not isinstance(spans, list):
        raise CaptionsError("expected `caption` to be text and `clips` a list")
    return Captions(" ".join(whole.split()), [_span(span, index, whole) for index, span in enumerate(spans)])


def _from_table(raw: Path, video: str) -> Captions:
    for name in ("captions.csv", "captions.parquet"):
        table = raw / name
        if table.is_file():
            rows = _read_table(table, table.stat().st_mtime_ns).get(video, [])
            whole = " ".join(next((row["caption"] for row in rows if row["start_s"] is None), "").split())
            spans = [row for row in rows if row["start_s"] is not None]
            return Captions(whole, [_span(span, index, whole) for index, span in enumerate(spans)])
    return Captions("", [])


@lru_cache(maxsize=1)
def _read_table(table: Path, _mtime_ns: int) -> dict[str, list[dict[str, Any]]]:
    """Rows by video; read once by each process that reads videos."""
    try:
        if table.suffix == ".csv":
            with table.open(newline="", encoding="utf-8-sig") as file:
                rows: list[dict[str, Any]] = list(csv.DictReader(file, strict=True))
        else:
            rows = pq.read_table(table).to_pylist()
    except (pa.ArrowException, csv.Error, UnicodeDecodeError) as error:
        raise CaptionsError(f"{table.name}: {error}") from None
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for index, row in enumerate(rows):
        video, caption = row.get("video"), row.get("caption")
        # An empty field of a CSV file is a missing time.
        start_s, end_s = (None if row.get(name) in ("", None) else row[name] for name in ("start_s", "end_s"))
        if not isinstance(video, str) or not isinstance(caption, str) or (start_s is None) != (end_s is None):
            raise CaptionsError(f"{table.name}: row {index}: expected video, caption, and both times or none")
        found[video].append({"caption": caption, "start_s": start_s, "end_s": end_s})
    return dict(found)


def _span(span: Any, index: int, whole: str) -> Shot:
    try:
        start_s, end_s = float(span["start_s"]), float(span["end_s"])
        caption = span.get("caption", whole)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CaptionsError(f"clips[{index}]: expected start_s, end_s and caption") from None
    if not 0 <= start_s < end_s or not math.isfinite(end_s) or not isinstance(caption, str):
        raise CaptionsError(f"clips[{index}]: expected 0 <= start_s < end_s, and caption as text")
    return Shot(start_s, end_s, " ".join(caption.split()))

"""Captions as files beside videos: `NAME.txt` for the whole video, or `NAME.json` for spans of it.

What has neither is looked up in `captions.csv` or `captions.parquet` at the top of the raw folder: columns
`video` (path in that folder), `caption`, and, for spans, `start_s` and `end_s`. Of two captions for the same,
the sidecar goes before the table and the earlier row before the later; `check_table` tells of such places.
"""

import csv
import json
import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from videomar.curation.shots import Captions, Shot
from videomar.errors import DataError

_log = logging.getLogger(__name__)
_TABLES = ("captions.csv", "captions.parquet")
_NAMED = 3  # of each kind of trouble, in a warning


class CaptionsError(Exception):
    """A sidecar file that cannot be understood; the message says why."""


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


def check_table(raw: Path, videos: Sequence[str]) -> dict[str, float]:
    """What is amiss in the table of a folder, counted, and named in one warning; nothing without a table.

    Args:
        raw: The folder.
        videos: Paths of all its videos, relative to it.

    Returns:
        `captions_unmatched`: names in the table that are no video here.
        `captions_conflicting`: videos with two different captions, in the table or by a sidecar.
        `captions_empty`: videos with a caption of no words in the table.

    Raises:
        DataError: the table cannot be understood; every video without a sidecar would be rejected for it.
    """
    tables = [raw / name for name in _TABLES if (raw / name).is_file()]
    if not tables:
        return {}
    try:
        rows = _read_table(tables[0], tables[0].stat().st_mtime_ns)
    except CaptionsError as error:
        raise DataError(f"{raw}: got {error}; mend the table, or take it away") from None
    found = {
        "captions_unmatched": sorted(set(rows) - set(videos)),
        # Of two tables the first is read: the other is in conflict as a whole.
        "captions_conflicting": [table.name for table in tables[1:]]
        + sorted(name for name in set(rows) & set(videos) if _conflict(raw, name, rows[name])),
        "captions_empty": sorted(
            name for name, said in rows.items() if any(not row["caption"].strip() for row in said)
        ),
    }
    amiss = [
        f"{len(names)} {kind.removeprefix('captions_')} ({', '.join(map(repr, names[:_NAMED]))}"
        f"{', ...' if len(names) > _NAMED else ''})"
        for kind, names in found.items()
        if names
    ]
    if amiss:
        _log.warning(
            "%s: names of videos: %s; sidecars, then earlier rows stand", tables[0], ", ".join(amiss)
        )
    return {kind: float(len(names)) for kind, names in found.items()}


def _conflict(raw: Path, video: str, rows: list[dict[str, Any]]) -> bool:
    """Whether a video has two different captions: of the whole, of a span, or beside it and in the table."""
    said: dict[Any, set[str]] = defaultdict(set)
    for row in rows:
        said[row["start_s"], row["end_s"]].add(" ".join(row["caption"].split()))
    if any(len(captions) > 1 for captions in said.values()):
        return True
    path = raw / video
    if not any(path.with_suffix(suffix).is_file() for suffix in (".json", ".txt")):
        return False
    try:
        return read_captions(path) != _of_rows(rows)
    except CaptionsError:
        return True


def _from_table(raw: Path, video: str) -> Captions:
    for name in _TABLES:
        table = raw / name
        if table.is_file():
            return _of_rows(_read_table(table, table.stat().st_mtime_ns).get(video, []))
    return Captions("", [])


def _of_rows(rows: list[dict[str, Any]]) -> Captions:
    whole = " ".join(next((row["caption"] for row in rows if row["start_s"] is None), "").split())
    spans = [row for row in rows if row["start_s"] is not None]
    return Captions(whole, [_span(span, index, whole) for index, span in enumerate(spans)])


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
        # A null in the column is a caption without words; without the column there is no table of captions.
        video, caption = row.get("video"), (row["caption"] or "") if "caption" in row else None
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

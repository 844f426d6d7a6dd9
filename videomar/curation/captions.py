"""Captions of videos: from files beside them, or from a function of the user's.

`NAME.txt` captions the whole video, `NAME.json` spans of it. A video with neither is looked up in
`captions.csv` or `captions.parquet` at the top of the raw folder: columns `video` (path in that folder),
`caption`, and, for spans, `start_s` and `end_s`. Of two captions for the same video or span, a file beside
the video goes before the table, and an earlier row before a later one; `check_table` warns of such conflicts.

Clips still without a caption go to the function `ingest.captioner`, named `package.module:function`. It gets
the frames (F, H, W, 3) uint8 that training sees, and returns text. Its module is imported once by every
process that reads videos, before the first file: loading counts neither against a file's time limit nor
against its memory limit. The variable VIDEOMAR_DEVICE then says `cuda` or `cpu`: what
`resources.ingest.device` comes to. The stage itself imports the module, too, to refuse early: on the CPU.
"""

import csv
import importlib
import json
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from videomar.curation.shots import Captions, Shot
from videomar.errors import DataError

_log = logging.getLogger(__name__)
_TABLES = ("captions.csv", "captions.parquet")
DEVICE_VARIABLE = "VIDEOMAR_DEVICE"
"""What a captioner should compute on, for the user's module."""
_NAMED = 3  # videos of each kind of problem, in a warning

Captioner = Callable[[NDArray[np.uint8]], str]


class CaptionsError(Exception):
    """A caption file that cannot be understood; the message says why."""


def read_captions(video: Path, raw: Path | None = None) -> Captions:
    """Read the captions of a video: from its JSON file, else its text file, else the table, else none.

    Args:
        video: The file.
        raw: The folder that may hold a table, and the video.

    Raises:
        CaptionsError: the file is not UTF-8, not JSON, or not `{"caption": ...}` or `{"clips": [...]}`; or
            the table lacks columns or holds a span that does not end after its start.
    """
    listed, plain = video.with_suffix(".json"), video.with_suffix(".txt")
    try:
        if listed.is_file():
            return parse_captions(listed.read_text("utf-8-sig"))
        if plain.is_file():
            return Captions(_one_line(plain.read_text("utf-8-sig")), [])
        if raw is None or not (tables := _tables(raw)):
            return Captions("", [])
        rows = _read_table(tables[0], tables[0].stat().st_mtime_ns)
        return _of_rows(rows.get(video.relative_to(raw).as_posix(), []))
    except (OSError, UnicodeDecodeError) as error:
        raise CaptionsError(str(error)) from None


def parse_captions(text: str) -> Captions:
    """Parse `{"caption": "..."}`, `{"clips": [{"start_s", "end_s", "caption"}, ...]}` or both."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise CaptionsError(f"no JSON: {error}") from None
    if not isinstance(content, dict):
        raise CaptionsError("expected an object with `caption` or `clips`")
    whole, spans = content.get("caption", ""), content.get("clips", [])
    if not isinstance(whole, str) or not isinstance(spans, list):
        raise CaptionsError("expected `caption` to be text and `clips` a list")
    return Captions(_one_line(whole), [_span(span, index, whole) for index, span in enumerate(spans)])


def check_table(raw: Path, videos: Sequence[str]) -> dict[str, float]:
    """Count the problems in the table of a folder and log one warning that names them; {} without a table.

    Args:
        raw: The folder.
        videos: Paths of all its videos, relative to it.

    Returns:
        `captions_unmatched`: names in the table without a video in the folder.
        `captions_conflicting`: videos with two different captions, in the table or beside the video.
        `captions_empty`: videos with an empty caption in the table.

    Raises:
        DataError: the table cannot be understood: every video without a file beside it would be rejected.
    """
    tables = _tables(raw)
    if not tables:
        return {}
    try:
        rows = _read_table(tables[0], tables[0].stat().st_mtime_ns)
    except CaptionsError as error:
        raise DataError(f"{raw}: got {error}; correct the table, or remove it") from None
    found = {
        "captions_unmatched": sorted(set(rows) - set(videos)),
        # Of two tables the first is read: the other is in conflict as a whole.
        "captions_conflicting": [table.name for table in tables[1:]]
        + sorted(name for name in set(rows) & set(videos) if _conflict(raw, name, rows[name])),
        "captions_empty": sorted(
            name for name, of_video in rows.items() if any(not row["caption"].strip() for row in of_video)
        ),
    }
    problems = [
        f"{len(names)} {kind.removeprefix('captions_')} ({', '.join(map(repr, names[:_NAMED]))}"
        f"{', ...' if len(names) > _NAMED else ''})"
        for kind, names in found.items()
        if names
    ]
    if problems:
        _log.warning(
            "%s: names of videos: %s; files beside videos, then earlier rows are used",
            tables[0],
            ", ".join(problems),
        )
    return {kind: float(len(names)) for kind, names in found.items()}


def _conflict(raw: Path, video: str, rows: list[dict[str, Any]]) -> bool:
    """Whether a video has two different captions: of the whole, of a span, or beside it and in the table."""
    captions: dict[Any, set[str]] = defaultdict(set)
    for row in rows:
        captions[row["start_s"], row["end_s"]].add(_one_line(row["caption"]))
    if any(len(texts) > 1 for texts in captions.values()):
        return True
    path = raw / video
    if not any(path.with_suffix(suffix).is_file() for suffix in (".json", ".txt")):
        return False
    try:
        return read_captions(path) != _of_rows(rows)
    except CaptionsError:
        return True


def _tables(raw: Path) -> list[Path]:
    return [raw / name for name in _TABLES if (raw / name).is_file()]


def _of_rows(rows: list[dict[str, Any]]) -> Captions:
    whole = _one_line(next((row["caption"] for row in rows if row["start_s"] is None), ""))
    spans = [row for row in rows if row["start_s"] is not None]
    return Captions(whole, [_span(span, index, whole) for index, span in enumerate(spans)])


@lru_cache(maxsize=1)
def _read_table(table: Path, _mtime_ns: int) -> dict[str, list[dict[str, Any]]]:
    """Rows by video; each process that reads videos reads the table once."""
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
        # A null is an empty caption; a missing column is an error.
        video, caption = row.get("video"), (row["caption"] or "") if "caption" in row else None
        # An empty field of a CSV file is a missing time.
        start_s, end_s = (None if row.get(name) in ("", None) else row[name] for name in ("start_s", "end_s"))
        if not isinstance(video, str) or not isinstance(caption, str) or (start_s is None) != (end_s is None):
            raise CaptionsError(f"{table.name}: row {index}: expected video, caption, and both times or none")
        found[video].append({"caption": caption, "start_s": start_s, "end_s": end_s})
    return dict(found)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _span(span: Any, index: int, whole: str) -> Shot:
    try:
        start_s, end_s = float(span["start_s"]), float(span["end_s"])
        caption = span.get("caption", whole)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CaptionsError(f"clips[{index}]: expected start_s, end_s and caption") from None
    if not 0 <= start_s < end_s or not math.isfinite(end_s) or not isinstance(caption, str):
        raise CaptionsError(f"clips[{index}]: expected 0 <= start_s < end_s, and caption as text")
    return Shot(start_s, end_s, _one_line(caption))


@cache
def load_captioner(name: str) -> Captioner:
    """Return the function of that name; it is imported once a process.

    Raises:
        DataError: it cannot be imported.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # a user's module may raise anything
        raise DataError(
            f"ingest.captioner: got {name!r}, which cannot be imported ({error!r}), "
            "expected package.module:function; correct the name, or set it to null"
        ) from None
    if not callable(found):
        raise DataError(
            f"ingest.captioner: got {name!r}, which is not a function, expected package.module:function"
        )
    return found


def caption_clip(clip: NDArray[np.uint8], name: str | None) -> str:
    """Return the captioner's text for a clip; empty without a captioner, and with a warning if it fails."""
    if name is None:
        return ""
    try:
        return _one_line(load_captioner(name)(clip))
    except Exception as error:
        _log.warning("ingest.captioner: got %r, expected text; the clip has no caption", error)
        return ""

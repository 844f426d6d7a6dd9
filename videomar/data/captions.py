"""Captions as files beside videos: `NAME.txt` for the whole video, or `NAME.json` for spans of it."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videomar.data.clips import Shot

SIDECARS = (".txt", ".json", ".csv")
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


def read_captions(video: Path) -> Captions:
    """Captions from the sidecar of a video: the JSON if there is one, else the text, else none.

    Raises:
        CaptionsError: the sidecar is not UTF-8, not JSON, or not `{"caption": ...}` or `{"clips": [...]}`.
    """
    listed, plain = video.with_suffix(".json"), video.with_suffix(".txt")
    try:
        if listed.is_file():
            return parse_captions(listed.read_text("utf-8-sig"))
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


def _span(span: Any, index: int, whole: str) -> Shot:
    try:
        start_s, end_s = float(span["start_s"]), float(span["end_s"])
        caption = span.get("caption", whole)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CaptionsError(f"clips[{index}]: expected start_s, end_s and caption") from None
    if not 0 <= start_s < end_s or not math.isfinite(end_s) or not isinstance(caption, str):
        raise CaptionsError(f"clips[{index}]: expected 0 <= start_s < end_s, and caption as text")
    return Shot(start_s, end_s, " ".join(caption.split()))

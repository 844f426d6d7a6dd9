"""What a caption file says: its encoding, and the captions in the JSON that people write.

Keys and columns are compared in lower case, with `_` for spaces and hyphens.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from videomar.curation.shots import Captions, Shot

CAPTION_KEYS = ("caption", "text", "prompt", "cap", "description", "captions", "prompts", "texts")
"""Names of a caption, in the order in which they are asked; the first with words is used."""
_BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
# Text of a Western language has fewer bytes beyond ASCII; Russian or Japanese in an old encoding has more,
# and would turn into wrong letters.
_MAX_WESTERN_SHARE = 0.25
_SHOWN = 60  # characters of a value, in a message


class CaptionsError(Exception):
    """A caption file or a row that cannot be understood; the message says why."""


class Decoded(NamedTuple):
    """Text of a file."""

    text: str
    is_guess: bool
    """Whether it was read as Windows-1252, because it is no Unicode."""


def decode_text(data: bytes) -> Decoded:
    """Decode UTF-8, UTF-16 or UTF-32 with or without a mark, or else Windows-1252.

    Raises:
        CaptionsError: it is none of these.
    """
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), None)
    has_mark, is_guess = encoding is not None, False
    if not has_mark and data.count(0) > len(data) // 4:  # letters of UTF-16
        encoding = "utf-16-le" if data[1::2].count(0) > data[::2].count(0) else "utf-16-be"
    try:
        text = data.decode(encoding or "utf-8")
    except UnicodeDecodeError:
        is_guess = encoding is None and sum(byte > 127 for byte in data) <= _MAX_WESTERN_SHARE * len(data)
        text = data.decode("cp1252", "replace") if is_guess else "\0"
    is_text = "\0" not in text and not (is_guess and "\ufffd" in text)
    if is_text and encoding is not None and not has_mark:
        is_text = "".join(text.split()).isprintable()
    if not is_text:
        raise CaptionsError("got bytes of an unknown encoding, expected text; save it as UTF-8")
    return Decoded(text, is_guess)


def one_line(text: str) -> str:
    """Return text with single spaces between its words; half of a surrogate pair becomes a question mark."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


def folded_key(name: object) -> str:
    """Return the name of a key or column as it is compared."""
    return re.sub(r"[\s-]+", "_", str(name).strip().casefold())


def load_json(text: str) -> Any:
    """Parse JSON.

    Raises:
        CaptionsError: it is none, or too deep.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CaptionsError(f"no JSON: {error}") from None


def shown(value: object) -> str:
    """Return a value for a message."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def caption_of(values: Mapping[str, Any]) -> str:
    """Return the first caption with words in an object or a row, whose keys are folded; else an empty text.

    Raises:
        CaptionsError: `caption` is neither text nor a list of texts, nor missing.
    """
    for key in CAPTION_KEYS:
        value = values.get(key)
        texts = value if isinstance(value, list) else [value]
        is_empty = value is None or (isinstance(value, float) and math.isnan(value))
        if not is_empty and not all(isinstance(text, str) for text in texts):
            if key != CAPTION_KEYS[0]:  # `prompt` may be a program's own object
                continue
            raise CaptionsError(f"got {key} {shown(value)}, expected `caption` to be text or a list of texts")
        words = "" if is_empty else next(filter(None, map(one_line, texts)), "")
        if words:
            return words
    return ""


def parse_captions(text: str) -> Captions:
    """Parse the captions of one video.

    `{"caption": "..."}`, also under another of CAPTION_KEYS, `{"clips": [{"start_s", "end_s", "caption"},
    ...]}` or both; a text; a list of captions, of which the first is used; or the list of clips alone.
    Other JSON has no captions.

    Raises:
        CaptionsError: it is no JSON, or its caption or clips are none.
    """
    content = load_json(text)
    if isinstance(content, str):
        return Captions(one_line(content), [])
    if isinstance(content, list) and content and all(isinstance(item, str) for item in content):
        content = {"caption": content}
    elif isinstance(content, list) and content and all(isinstance(item, dict) for item in content):
        content = {"clips": content} if "start_s" in content[0] else content[0]
    if not isinstance(content, dict):  # poses, boxes: about something else
        return Captions("", [])
    values = fold_keys(content)
    spans = values.get("clips") or []
    if not isinstance(spans, list):
        raise CaptionsError(f"got {shown(spans)}, expected `clips` to be a list")
    whole = caption_of(values)
    return Captions(whole, [span_of(span, f"clips[{index}]", whole) for index, span in enumerate(spans)])


def fold_keys(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the same with the names of keys as they are compared; of equal names the first counts."""
    folded: dict[str, Any] = {}
    for key, value in values.items():
        folded.setdefault(folded_key(key), value)
    return folded


def span_of(values: Any, where: str, whole: str) -> Shot:
    """Return the span with a caption that an object stands for.

    Args:
        values: `start_s`, `end_s`, seconds, and a caption.
        where: for messages.
        whole: caption of a span without one of its own.

    Raises:
        CaptionsError: it lacks a time, or does not end after its start.
    """
    try:
        folded = fold_keys(values)
        start_s, end_s = float(folded["start_s"]), float(folded["end_s"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CaptionsError(f"{where}: got {shown(values)}, expected start_s, end_s and caption") from None
    if not 0 <= start_s < end_s or not math.isfinite(end_s):
        raise CaptionsError(f"{where}: got {start_s:g} to {end_s:g} s, expected 0 <= start_s < end_s")
    has_own = any(folded.get(key) is not None for key in CAPTION_KEYS)
    return Shot(start_s, end_s, caption_of(folded) if has_own else whole)


def listed(names: Iterable[object]) -> str:
    """Return names for a message, each in quotes."""
    return ", ".join(repr(str(name)) for name in names)

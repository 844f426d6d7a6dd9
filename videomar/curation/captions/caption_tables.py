"""Tables of captions: rows with the name of a video and its caption, in the formats that people keep.

| file | is |
|---|---|
| `.csv`, `.tsv` | a line of column names, then rows; delimiter and encoding are found |
| `.jsonl`, `.ndjson` | an object a line |
| `.json` | a list of objects, an object of lists, or an object of captions by the names of videos |
| `.parquet` | columns; videos inside of it are not read |
| `videos.txt` and `prompts.txt` | a name and a caption on the same line of both |

A row that cannot be understood is named and left out; the others count.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from videomar.curation.captions.caption_text import (
    CAPTION_KEYS,
    CaptionsError,
    caption_of,
    decode_text,
    fold_keys,
    folded_key,
    listed,
    load_json,
    shown,
    span_of,
)

NAME_KEYS = (
    "file_name",
    "filename",
    "file",
    "video",
    "video_path",
    "path",
    "file_path",
    "filepath",
    "media_path",
    "video_file",
    "video_file_name",
    "video_name",
    "clip_path",
    "image",
    "image_path",
)
"""Names of the column with the video, in the order in which they are asked; the first that fits is used."""
_TIMES = ("start_s", "end_s")
_WRAPPERS = ("data", "videos", "rows", "items", "annotations", "samples")
_DELIMITERS = (",", ";", "\t", "|")
_MOST_BAD = 1000  # rows of one table; each may cost a look at 131,072 characters
_COLUMNS_SHOWN = 8


class TableRow(NamedTuple):
    """One caption in a table."""

    where: str
    """File and line, for messages."""
    names: tuple[str, ...]
    """What its columns call the video; the first that fits counts."""
    caption: str
    span: tuple[float, float] | None
    """Start and end, seconds, or None for the whole video."""


class Table(NamedTuple):
    """What a table says."""

    rows: list[TableRow]
    bad_rows: list[str]
    """Where each is and what was found."""
    is_guess: bool
    """Whether its encoding is a guess."""


_Found = Iterator[tuple[str, Mapping[str, Any] | CaptionsError]]
"""Where a row is, and its values by their keys as written, or why it has none."""


def read_table(path: Path, name: str) -> Table:
    """Read the rows of a table; `name` is the file in messages.

    Raises:
        CaptionsError: the file as a whole, or each of its rows, cannot be understood.
        OSError: it cannot be read.
    """
    if path.suffix.lower() == ".parquet":
        return _checked(name, _parquet_rows(path), False)
    text, is_guess = decode_text(path.read_bytes())
    if path.suffix.lower() in (".csv", ".tsv"):
        found = _csv_rows(text, path.suffix.lower())
    elif path.suffix.lower() == ".json" or text.lstrip().startswith("["):
        found = _json_rows(text)
    else:
        found = _jsonl_rows(text)
    return _checked(name, found, is_guess)


def read_lists(videos: Path, captions: Path, name: str) -> Table:
    """Read a list of videos and a list of captions, one a line, in one order.

    Raises:
        CaptionsError: they differ in length.
        OSError: one of them cannot be read.
    """
    texts = [decode_text(path.read_bytes()) for path in (videos, captions)]
    names, words = (text.rstrip().splitlines() for text, _ in texts)
    if len(names) != len(words):
        raise CaptionsError(
            f"got {len(words)} lines, but {len(names)} in {videos.name}, expected one for each video"
        )
    lines = zip(names, words, strict=True)
    rows = ((f"line {line}", {"file_name": a, "caption": b}) for line, (a, b) in enumerate(lines, 1))
    return _checked(name, rows, any(is_guess for _, is_guess in texts))


def _checked(name: str, found: _Found, is_guess: bool) -> Table:
    rows: list[TableRow] = []
    bad: list[str] = []
    for place, values in found:
        where = f"{name} {place}"
        try:
            if isinstance(values, CaptionsError):
                raise values
            rows.append(_row(where, values))
        except CaptionsError as error:
            bad.append(f"{where}: {error}")
            if len(bad) == _MOST_BAD:
                bad.append(f"{name}: got {_MOST_BAD} such rows, expected captions; the rest is not read")
                break
    if bad and not rows:
        more = f", and {len(bad) - 1} more like this" if len(bad) > 1 else ""
        raise CaptionsError(bad[0].removeprefix(f"{name} ") + more)
    return Table(rows, bad, is_guess)


def _row(where: str, values: Mapping[str, Any]) -> TableRow:
    folded = fold_keys(values)
    _require_columns(list(folded))
    names = [_name_of(folded.get(key)) for key in NAME_KEYS]
    if not any(names):
        key = next(key for key in NAME_KEYS if key in folded)
        raise CaptionsError(f"got {key} {shown(folded[key])}, expected the name of a video")
    caption = caption_of(folded)
    # An empty field of a CSV file is a missing time.
    times = [folded.get(key) for key in _TIMES if folded.get(key) not in (None, "")]
    if len(times) == 1:
        raise CaptionsError(f"got one time, {shown(times[0])}, expected both times or none")
    shot = span_of(folded, "the span", caption) if times else None
    return TableRow(where, tuple(filter(None, names)), caption, (shot.start_s, shot.end_s) if shot else None)


def _require_columns(found: Sequence[str]) -> None:
    for keys, what in ((NAME_KEYS, "the video"), (CAPTION_KEYS, "its caption")):
        if not set(keys) & set(found):
            more = ", ..." if len(found) > _COLUMNS_SHOWN else ""
            raise CaptionsError(
                f"got the columns {listed(shown(name)[1:-1] for name in found[:_COLUMNS_SHOWN])}{more}, "
                f"expected one for {what} ({', '.join(keys[:5])}, ...)"
            )


def _name_of(value: Any) -> str:
    if isinstance(value, dict):  # a video in a Parquet file: its bytes and its path
        value = value.get("path")
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return value if isinstance(value, str) and value.strip() else ""


def _csv_rows(text: str, suffix: str) -> _Found:
    lines = list(io.StringIO(text, newline=""))
    first = next((number for number, line in enumerate(lines) if line.strip()), len(lines))
    if lines[first:] and lines[first].lower().startswith("sep=") and len(lines[first].strip()) == 5:
        first += 1  # Excel's line about the delimiter
    header, delimiter = _header(lines[first:], suffix)
    last_is_caption = bool(header) and folded_key(header[-1]) in CAPTION_KEYS
    for line, cells in islice(_csv_cells(lines, first, delimiter), 1, None):
        if isinstance(cells, CaptionsError):
            yield f"line {line}", cells
            continue
        if len(cells) > len(header) and last_is_caption:  # a comma without quotes in a caption
            cells = [*cells[: len(header) - 1], delimiter.join(cells[len(header) - 1 :])]
        if len(cells) > len(header):
            rule = f"{len(header)}; put quotes around captions"
            yield f"line {line}", CaptionsError(f"got {len(cells)} fields, expected {rule}")
        elif any(cell.strip() for cell in cells):
            yield f"line {line}", dict(zip(header, [*cells, *[""] * len(header)], strict=False))


def _header(lines: Sequence[str], suffix: str) -> tuple[list[str], str]:
    """Return the column names, and the delimiter with which they are understood."""
    order = sorted(_DELIMITERS, key=lambda delimiter: suffix == ".tsv" and delimiter != "\t")
    found: list[list[str]] = []
    for delimiter in order:
        try:
            header = next(csv.reader(lines, delimiter=delimiter), [])
        except csv.Error as error:
            raise CaptionsError(f"got {error}, expected names of columns") from None
        found.append(header)
        if {*map(folded_key, header)} & {*NAME_KEYS} and {*map(folded_key, header)} & {*CAPTION_KEYS}:
            return header, delimiter
    if lines:
        _require_columns(max(found, key=len))
    return [], ","


def _csv_cells(lines: Sequence[str], start: int, delimiter: str) -> Iterator[tuple[int, Any]]:
    """Yield rows with the number of their first line; a row with wrong quotes ends at its line."""
    while start < len(lines):
        reader = csv.reader(islice(lines, start, None), delimiter=delimiter, strict=True)
        done = 0
        try:
            for cells in reader:
                yield start + done + 1, cells
                done = reader.line_num
            return
        except csv.Error as error:
            yield start + done + 1, CaptionsError(f"got {error}, expected quotes around whole fields")
            start += done + 1


def _jsonl_rows(text: str) -> _Found:
    for line, part in enumerate(text.split("\n"), 1):
        if part.strip():
            try:
                yield f"line {line}", _object(load_json(part))
            except CaptionsError as error:
                yield f"line {line}", error


def _json_rows(text: str) -> _Found:
    try:
        content = load_json(text)
    except CaptionsError as error:
        # Many a file of an object a line is called .json.
        if "Extra data" not in str(error):
            raise
        yield from _jsonl_rows(text)
        return
    if isinstance(content, dict):
        content = _records(content)
    if not isinstance(content, list):
        raise CaptionsError(f"got {shown(content)}, expected a list of objects")
    for number, item in enumerate(content, 1):
        try:
            yield f"entry {number}", _object(item)
        except CaptionsError as error:
            yield f"entry {number}", error


def _records(content: dict[Any, Any]) -> list[Any]:
    """Return the rows of an object: a list inside of it, columns, one row, or captions by videos' names."""
    folded = fold_keys(content)
    wrapped = [folded[key] for key in _WRAPPERS if isinstance(folded.get(key), list)]
    named = [key for key in NAME_KEYS if key in folded]
    if wrapped and not named:
        return list(wrapped[0])
    if named and isinstance(folded[named[0]], list):
        columns = {key: column for key, column in folded.items() if isinstance(column, list)}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=False)]
    if named and isinstance(folded[named[0]], str):
        return [content]
    return [
        {"file_name": name, **value} if isinstance(value, dict) else {"file_name": name, "caption": value}
        for name, value in content.items()
    ]


def _object(item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise CaptionsError(f"got {shown(item)}, expected an object with the video and its caption")
    return item


def _parquet_rows(path: Path) -> _Found:
    """Read the columns that matter: other ones may hold the videos themselves."""
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            _require_columns([folded_key(name) for name in schema.names])
            wanted = []
            for field in schema:
                if folded_key(field.name) in (*NAME_KEYS, *CAPTION_KEYS, *_TIMES):
                    is_video = pa.types.is_struct(field.type)
                    wanted.append(f"{field.name}.path" if is_video else field.name)
            number = 0
            for batch in file.iter_batches(columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (pa.ArrowException, ValueError) as error:
        raise CaptionsError(f"got {error}, expected a Parquet file") from None

"""Takedowns: a tracked table, `takedowns.csv`, of the videos that must not be used, by content, and why."""

import csv
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from videomar.errors import DataError
from videomar.files import atomic_write


@dataclass(frozen=True, kw_only=True, slots=True)
class Takedown:
    """One video that must not be used; the fields are the columns of the table."""

    video_sha256: str
    """SHA-256 of its bytes: a renamed copy is the same video."""
    video: str
    """Its name when it was removed."""
    reason: str
    removed_at: str
    """UTC, ISO 8601."""

    def __post_init__(self) -> None:
        digits = set(self.video_sha256)
        if len(self.video_sha256) != 64 or not digits <= set("0123456789abcdef"):
            raise DataError(f"takedowns: got video_sha256 {self.video_sha256!r}, expected 64 hex digits")
        if not self.reason.strip():
            raise DataError(f"takedowns: got no reason for {self.video}, expected one in words")


def read_takedowns(path: Path) -> dict[str, str]:
    """Read the reasons by `video_sha256`.

    Raises:
        DataError: the table is missing or cannot be understood: no video is used on a guess.
    """
    return {row.video_sha256: row.reason for row in read_rows(path)}


def read_rows(path: Path) -> list[Takedown]:
    """Read all rows of the table.

    Raises:
        DataError: see `read_takedowns`.
    """
    columns = [field.name for field in fields(Takedown)]
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file, strict=True)
            if table.fieldnames != columns:
                raise DataError(
                    f"{path}: got columns {table.fieldnames}, expected {columns}; take the file from git"
                )
            rows = list(table)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file, expected the takedowns; take it from git") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: got {error}, expected CSV in UTF-8; take it from git") from None
    if any(None in row or None in row.values() for row in rows):
        raise DataError(f"{path}: got a row of another length, expected {len(columns)} fields; correct it")
    return [Takedown(**row) for row in rows]


def add_takedown(path: Path, video_sha256: str, video: str, reason: str) -> bool:
    """Add a row to the table, atomically; return False if the video is in it already."""
    rows = read_rows(path)
    if any(row.video_sha256 == video_sha256 for row in rows):
        return False
    now = datetime.now(UTC).isoformat(timespec="seconds")
    words = " ".join(reason.split())
    rows.append(Takedown(video_sha256=video_sha256, video=video, reason=words, removed_at=now))
    with atomic_write(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Takedown)], lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(row) for row in rows)
    return True

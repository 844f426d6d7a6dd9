"""What failed on this machine and may succeed on another day; and which programs read the videos.

A verdict on a file (`damaged`, `not_a_video`, ...) is a fact about its bytes and is kept as long as they are.
A failure of ours is none: a process that was killed, too little memory, no progress under load. Such files
are read again, alone, at the end of the stage; what then still fails has a row with the reason, and the next
run of the pipeline reads these files again, and only these:

    ingest        candidates.parquet    unfinished: 2, attempt: 0
    list_clips    named/ingest.json     attempt 1, so DVC runs ingest
    ingest        candidates.parquet    unfinished: 0, attempt: 1
    list_clips    named/ingest.json     attempt 1 as before, so DVC does not
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from videomar.errors import DataError
from videomar.provenance.made_with import package_versions

_log = logging.getLogger(__name__)

RETRYABLE = ("timeout", "crashed", "out_of_memory", "failed")
"""Reasons, up to the colon, that say nothing about the file."""
KEY = b"videomar.reading"
"""Key of a `VideoReading` in the metadata of the Parquet files of candidates and ledger."""
AGAIN = "files to read again"
"""Name of the entry in `named/ingest.json`."""
_SHOWN = 5  # names of files in a message
_PROGRAMS = ("av", "decord2", "opencv-python-headless", "scenedetect-headless")


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoReading:
    """How the videos of a table were read."""

    programs: dict[str, str] = field(default_factory=dict)
    """Versions of the packages that decode and scale; empty where that is not known."""
    unfinished: int = 0
    """Files that failed for one of the reasons in `RETRYABLE`."""
    attempt: int = 0
    """How often such files have been read again, since the first run of the pipeline."""

    def metadata(self) -> dict[bytes, bytes]:
        """Return it as metadata of a Parquet file."""
        return {KEY: json.dumps(asdict(self), sort_keys=True).encode()}


def installed_programs() -> dict[str, str]:
    """Versions of the installed packages that decode and scale videos."""
    return package_versions(_PROGRAMS)


def read_reading(table: Path) -> VideoReading:
    """Read what a Parquet file says about its reading; an empty one if there is none, or it is older."""
    try:
        found = json.loads((pq.read_schema(table).metadata or {})[KEY])
        return VideoReading(
            **{each.name: found[each.name] for each in fields(VideoReading) if each.name in found}
        )
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException):
        return VideoReading()


def is_retryable(reason: object) -> bool:
    """Whether a reason of the ledger is a failure of ours, not a fact about the file."""
    return isinstance(reason, str) and reason.split(":")[0] in RETRYABLE


def refuse_failures(raw: Path, failed: Sequence[str], num_files: int) -> None:
    """Name the files that failed here, on the terminal.

    Raises:
        DataError: most did: a model of the few that are left is not what was asked for.
    """
    named = ", ".join(failed[:_SHOWN]) + (f" and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else "")
    what = f"{len(failed)} of {num_files} files that failed here, whatever is in them: {named}"
    if 2 * len(failed) > num_files:
        raise DataError(
            f"{raw}: got {what}, expected at most half; free memory or disk, raise "
            "resources.ingest.memory_gb or timeout_s, or remove these files"
        )
    if failed:
        _log.warning(
            "ingest: got %s; the next run reads them again. Free memory or disk, or a larger "
            "resources.ingest.memory_gb or timeout_s, may help; or remove them",
            what,
        )


def retry_entry(candidates: Path) -> dict[str, dict[str, dict[str, str]]]:
    """Return what ingest depends on because files failed: an entry that changes until all have been read.

    Returns:
        `{"ingest": {AGAIN: {"attempt": NUMBER}}}`, as `listing.write_named` takes it; empty if none failed.
    """
    reading = read_reading(candidates)
    attempt = reading.attempt + (reading.unfinished > 0)
    return {"ingest": {AGAIN: {"attempt": str(attempt)}}} if attempt else {}

"""The captions of all videos of a folder, from the files that people keep beside and among them.

The first of these that says anything about a video is used:

1. beside it, in any letter case and Unicode form: `NAME.mp4.json`, `NAME.json`, then `NAME.mp4.txt`,
   `NAME.txt`, `NAME.mp4.caption`, `NAME.caption`. JSON may hold spans. After these the same names in a folder
   such as `captions` or `labels` beside the one of the videos;
2. tables named `captions`, `metadata`, `prompts` or `dataset`: those of deeper folders first, then in this
   order of names, then csv, parquet, tsv, jsonl, ndjson, json. Of two rows the earlier;
3. `videos.txt` and `prompts.txt`, lists of one order.

Of a file that is there twice, the name that is kept takes the captions of the other if it has none.
"""

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from videomar.curation.captions.caption_report import CaptionReport
from videomar.curation.captions.caption_tables import Table, TableRow, read_lists, read_table
from videomar.curation.captions.caption_text import CaptionsError, decode_text, one_line, parse_captions
from videomar.curation.captions.match_names import VideoNames, fold
from videomar.curation.shots import Captions, Shot
from videomar.errors import DataError
from videomar.sources.listing import printable

BESIDE = (".json", ".txt", ".caption")
"""Suffixes of files beside a video, in the order in which they are read."""
TABLES = (".csv", ".parquet", ".tsv", ".jsonl", ".ndjson", ".json")
"""Suffixes of tables, in that order."""
_TABLE_NAMES = ("captions", "caption", "metadata", "prompts", "prompt", "dataset")
# A table of this name that says nothing is an error; another may be about something else.
_MUST_BE_READ = _TABLE_NAMES[:2]
_LISTS = ("videos", "video"), ("prompts", "prompt", "captions", "caption")
_NOTES = ("readme", "license", "licence", "credits", "notice", "changelog", "requirements")
# A line of a detector's training data, such as `0 0.51 0.43 0.20 0.31`, is in files of the same names.
_BOX = re.compile(r"\s*\d+(\s+\d*\.\d+){4}")
_MAX_BESIDE_BYTES = 1 << 20  # a file of text that is larger is no caption

_Rank = tuple[int | str, ...]


class _NoCaptionError(CaptionsError):
    """A file that is about something else."""


@dataclass(frozen=True, slots=True)
class FoundCaptions:
    """What was found for one video."""

    captions: Captions
    source: str | None = None
    """The file that says so."""
    error: str | None = None
    """Why JSON beside the video cannot be understood, where no other file says anything."""

    def __bool__(self) -> bool:
        return says_anything(self.captions)


def says_anything(captions: Captions) -> bool:
    """Whether there are words or spans."""
    return bool(captions.whole or captions.spans)


NONE = FoundCaptions(Captions("", []))


def find_captions(
    raw: Path, videos: Sequence[str], files: Iterable[str]
) -> tuple[dict[str, FoundCaptions], CaptionReport]:
    """Return the captions of each video, and what of the files was not used.

    Args:
        raw: The folder.
        videos: Paths of its videos, relative to it.
        files: Paths of all its files that are no videos.

    Raises:
        DataError: a table named `captions` cannot be understood.
    """
    search = _Search(raw, VideoNames(videos))
    tables = search.read_beside(sorted(files))
    for path in tables:
        search.read_table(path)
    return {video: search.choose(video) for video in videos}, search.report


def share_captions(
    found: dict[str, FoundCaptions], copies: Mapping[str, Sequence[str]], report: CaptionReport
) -> None:
    """Give each video that has no captions those of a file with equal bytes under another name.

    Args:
        found: by video; changed here.
        copies: other names by the name that is kept.
        report: counts videos whose names have different captions.
    """
    for video, names in copies.items():
        own = found.get(video, NONE)
        others = [found[name] for name in names if found.get(name)]
        if not own and others:
            own = found[video] = others[0]
        for other in others:
            if other.captions != own.captions:
                report.add("conflicting", f"{printable(video)} (not used: {other.source}, of a copy)")
                break


class _Search:
    """Remembers what each file says about each video, with its rank, and what was not used."""

    def __init__(self, raw: Path, names: VideoNames) -> None:
        self.raw, self.names, self.report = raw, names, CaptionReport()
        self.said: dict[str, list[tuple[_Rank, FoundCaptions]]] = defaultdict(list)
        self.conflicts: set[str] = set()

    def read_beside(self, files: Sequence[str]) -> list[str]:
        """Read the files beside videos; return the tables and lists among the others, in their order."""
        tables: list[tuple[_Rank, str]] = []
        paired = _paired_lists(files)
        for file in files:
            stem, suffix = _parts(file)
            videos, is_unclear = self.names.beside(file) if suffix in BESIDE else ([], False)
            if is_unclear:
                self.report.add("ambiguous", f"{printable(file)} fits {', '.join(sorted(videos)[:3])}")
            elif videos:
                self._read_file(file, videos)
            elif (suffix in TABLES and stem in _TABLE_NAMES) or file in paired:
                depth = file.count("/")
                order = _TABLE_NAMES.index(stem), TABLES.index(suffix) if suffix in TABLES else len(TABLES)
                tables.append(((1, -depth, *order, file), file))
            elif stem in _NOTES or suffix not in (*BESIDE, *TABLES):
                if file not in paired.values():
                    self.report.add("other", printable(file))
            elif suffix in BESIDE and file not in paired.values():
                self.report.add("orphaned", printable(file))
            elif suffix in TABLES:
                self.report.add("unused_tables", f"{printable(file)}: another name than a table of captions")
        self.paired = paired
        self.ranks = {file: rank for rank, file in tables}
        return [file for _, file in sorted(tables)]

    def _read_file(self, file: str, videos: Iterable[str]) -> None:
        suffix = _parts(file)[1]
        base = posixpath.splitext(file)[0]
        try:
            found = FoundCaptions(self._captions_in(file), printable(file))
        except (CaptionsError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            self.report.add("unreadable", f"{printable(file)}: {why}")
            # JSON may hold spans: without them parts of the video would be used that are not meant to be.
            may_hold_spans = suffix == ".json" and not isinstance(error, _NoCaptionError)
            if not may_hold_spans:
                return
            found = FoundCaptions(NONE.captions, None, f"{printable(file)}: {why}")
        for video in videos:
            is_whole_name = fold(video) == fold(base)
            is_beside = posixpath.dirname(video) == posixpath.dirname(file)
            rank = 0, not is_beside, BESIDE.index(suffix), not is_whole_name, not video.startswith(base)
            self.said[video].append(((*rank, file), found))

    def _captions_in(self, file: str) -> Captions:
        path = self.raw / file
        size = path.stat().st_size
        if size > _MAX_BESIDE_BYTES:
            raise _NoCaptionError(f"got {size / 1e6:.1f} MB, expected a caption of at most 1 MB")
        text, is_guess = decode_text(path.read_bytes())
        if is_guess:
            self.report.add("guessed", printable(file))
        if _parts(file)[1] == ".json":
            return parse_captions(text)
        if _BOX.match(text):
            raise _NoCaptionError("got boxes of objects, expected words")
        return Captions(one_line(text), [])

    def read_table(self, file: str) -> None:
        """Add what a table says to what is said about its videos.

        Raises:
            DataError: it is named `captions` and cannot be understood.
        """
        name = printable(file)
        try:
            if file in self.paired:
                table = read_lists(self.raw / self.paired[file], self.raw / file, name)
            else:
                table = read_table(self.raw / file, name)
        except (CaptionsError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            if _parts(file)[0] in _MUST_BE_READ:
                rule = "correct the table, or remove it"
                raise DataError(f"{self.raw / name}: {why}; {rule}") from None
            self.report.add("unused_tables", f"{name}: {why}")
            return
        self.report.tables.append(name)
        if table.is_guess:
            self.report.add("guessed", name)
        for row in table.bad_rows:
            self.report.add("bad_rows", row)
        self._match(file, table)

    def _match(self, file: str, table: Table) -> None:
        by_video: dict[str, list[TableRow]] = defaultdict(list)
        for row in table.rows:
            candidates = (self.names.find(name, posixpath.dirname(file)) for name in row.names)
            videos = next(filter(None, candidates), [])
            if len(videos) == 1:
                by_video[videos[0]].append(row)
            elif videos:
                self.report.add("ambiguous", f"{row.where}: {row.names[0]!r} fits {', '.join(videos[:2])}")
            else:
                self.report.add("unmatched", f"{row.where}: {row.names[0]!r}")
        for video, rows in by_video.items():
            captions = _captions_of(rows)
            if _differ(rows):
                self.conflicts.add(video)
            self.said[video].append((self.ranks[file], FoundCaptions(captions, printable(file))))

    def choose(self, video: str) -> FoundCaptions:
        """Return what the first file says that says anything; count what is in conflict or empty."""
        said = [found for _, found in sorted(self.said.get(video, []), key=lambda pair: pair[0])]
        speaking = [found for found in said if found]
        if video in self.conflicts or any(found.captions != speaking[0].captions for found in speaking[1:]):
            used = speaking[0].source if speaking else None
            self.report.add("conflicting", f"{printable(video)} (used: {used})")
        if speaking:
            return speaking[0]
        error = next((found.error for found in said if found.error), None)
        if said and error is None:
            self.report.add("empty", f"{printable(video)} in {said[0].source}")
        return FoundCaptions(NONE.captions, None, error)


def _parts(file: str) -> tuple[str, str]:
    """Return the name of a file without its suffix, folded, and its suffix in lower case."""
    stem, suffix = posixpath.splitext(posixpath.basename(file))
    return fold(stem), suffix.lower()


def _paired_lists(files: Iterable[str]) -> dict[str, str]:
    """Return lists of videos by the lists of captions in the same folders."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for file in files:
        stem, suffix = _parts(file)
        if suffix == ".txt" and stem in (*_LISTS[0], *_LISTS[1]):
            found[posixpath.dirname(file)].setdefault(stem, file)
    pairs = {}
    for names in found.values():
        videos, captions = ([names[stem] for stem in stems if stem in names] for stems in _LISTS)
        if videos and captions:
            pairs[captions[0]] = videos[0]
    return pairs


def _captions_of(rows: Sequence[TableRow]) -> Captions:
    whole = next((row.caption for row in rows if row.span is None and row.caption), "")
    spans = [Shot(*row.span, row.caption) for row in rows if row.span is not None]
    return Captions(whole, spans)


def _differ(rows: Iterable[TableRow]) -> bool:
    """Whether rows about one video have two captions for the whole of it, or for one span."""
    captions: dict[object, set[str]] = defaultdict(set)
    for row in rows:
        if row.caption:
            captions[row.span].add(row.caption)
    return any(len(texts) > 1 for texts in captions.values())

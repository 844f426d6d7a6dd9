"""What of the caption files was used and what was not, in numbers, in words, and stored with the ledger."""

import json
from collections import Counter, defaultdict
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

KINDS = {
    "unmatched": "rows whose video is not here",
    "ambiguous": "rows and files that fit several videos",
    "bad_rows": "rows that cannot be understood",
    "orphaned": "caption files without a video beside them",
    "unreadable": "caption files that cannot be understood",
    "unused_tables": "tables that are not used",
    "conflicting": "videos with two different captions, of which the first is used",
    "empty": "videos with an empty caption",
    "guessed": "files read as Windows-1252, because they are no UTF-8",
    "other": "files that are neither videos nor captions",
}
"""What is counted, in the order in which it is shown."""
CAPTIONER = "captioner "
"""Begins the source of a caption that the user's function gave."""
BESIDE_VIDEOS = "files beside the videos"
_STORED, _SHOWN = 20, 3  # examples of each kind
_EXAMPLE_CHARACTERS, _LINE = 200, 90  # of an example as it is stored, and on the terminal
_SOURCES = 5


class Unused(NamedTuple):
    """One kind of what was not used, or not as it stands."""

    what: str
    number: int
    examples: tuple[str, ...]


@dataclass(slots=True)
class CaptionReport:
    """Remembers, for a folder, the tables that were read, where captions come from, and what is not used."""

    tables: list[str] = field(default_factory=list)
    """Tables and lists that were read."""
    num_videos: int = 0
    """Videos that are read."""
    sources: Counter[str] = field(default_factory=Counter)
    """Videos with captions, by table; those of files beside them under BESIDE_VIDEOS."""
    counts: Counter[str] = field(default_factory=Counter)
    """Of KINDS."""
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kind: str, example: str) -> None:
        """Count one of a kind; the first few are named."""
        self.counts[kind] += 1
        if len(self.examples[kind]) < _STORED:
            self.examples[kind].append(_shown(example[:_EXAMPLE_CHARACTERS]))

    def count_source(self, source: str | None) -> None:
        """Count a video that is read, and the file that its captions come from, if it has any."""
        self.num_videos += 1
        if source:
            self.sources[_kind_of_source(source, self.tables)] += 1

    def figures(self) -> dict[str, float]:
        """Return `captions_KIND` of all KINDS."""
        return {f"captions_{kind}": float(self.counts[kind]) for kind in KINDS}

    def unused(self) -> list[Unused]:
        """Return what was counted, kind by kind."""
        return [
            Unused(what, self.counts[kind], tuple(self.examples[kind]))
            for kind, what in KINDS.items()
            if self.counts[kind]
        ]

    def lines(self, has_captioner: bool) -> list[str]:
        """Return the report for a terminal: where captions come from, then a line for each kind not used."""
        found = self.sources.total()
        parts = [f"{count} from {source}" for source, count in self.sources.most_common(_SOURCES)]
        missing = self.num_videos - found
        fate = "go to ingest.captioner" if has_captioner else "are trained without words"
        first = f"captions: {found} of {self.num_videos} videos have one"
        first += f" ({', '.join(parts)})" if parts else ""
        first += f"; the clips of the other {missing} {fate}" if missing else ""
        return [first, *unused_lines(self.unused())]

    def is_worth_a_warning(self) -> bool:
        """Whether videos lack captions, or captions are not used as they stand."""
        return self.sources.total() < self.num_videos or any(
            self.counts[kind] for kind in KINDS if kind != "other"
        )

    def to_json(self) -> str:
        """Return what `read_note` reads."""
        return json.dumps({"tables": self.tables, "unused": self.unused()})


class CaptionSummary(NamedTuple):
    """Where the words of kept clips come from."""

    num_clips: int
    sources: list[tuple[str, int]]
    """Tables, files beside videos, the captioner: clips of each."""
    num_without: int
    unused: list[Unused]


def summarise_captions(sources: Iterable[str | None], note: str | None) -> CaptionSummary:
    """Count clips by the source of their captions.

    Args:
        sources: `caption_from` of each kept clip; None where it has no words.
        note: What ingest stored with the ledger, see `CaptionReport.to_json`.
    """
    stored: dict[str, Any] = json.loads(note) if note else {}
    tables, clips = set(stored.get("tables", [])), list(sources)
    counts = Counter(_kind_of_source(source, tables) for source in clips if source)
    unused = [Unused(what, number, tuple(examples)) for what, number, examples in stored.get("unused", [])]
    return CaptionSummary(len(clips), counts.most_common(), len(clips) - counts.total(), unused)


def _kind_of_source(source: str, tables: Container[str]) -> str:
    return source if source in tables or source.startswith(CAPTIONER) else BESIDE_VIDEOS


def _shown(text: str) -> str:
    """Return text that any terminal shows as it is: file names may hold line feeds and worse."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def unused_lines(unused: Iterable[Unused]) -> list[str]:
    """Return a line for each kind of what was not used, with a few examples."""
    lines = []
    for what, number, examples in unused:
        few = [example if len(example) <= _LINE else example[:_LINE] + "..." for example in examples[:_SHOWN]]
        lines.append(f"{what} ({number}): {'; '.join([*few, *(['...'] if number > _SHOWN else [])])}")
    return lines

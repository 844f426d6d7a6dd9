"""From a registered version down to the sha256 of every raw file, and from a raw file up to the versions.

What a version was made from is read from the evidence of its run, so it holds when the working tree has moved
on. A version that was registered before such evidence was kept is traced by the ledger that its dvc.lock
names, if that is still in the cache of the data version control.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import pyarrow.parquet as pq
import yaml
from pyarrow import ArrowException

from videomar.curation.ledger import read_ledger
from videomar.errors import DataError
from videomar.files import sha256_of
from videomar.provenance.checkout import outputs_of
from videomar.registry.evidence import (
    CLIP_COLUMNS,
    FILES,
    LINEAGE,
    FileSum,
    read_file_sums,
    read_lineage,
)
from videomar.registry.versions import (
    MODEL,
    Version,
    aliases_of,
    all_versions,
    download_evidence,
)

SEEN_SPLIT = "train"
_HEX_DIGITS = 64
_TAGS = (
    "git_commit",
    "git_dirty",
    "uncommitted",
    "lock_sha256",
    "ledger_sha256",
    "tokenizer_sha256",
    "checkpoint_sha256",
    "checkpoint_step",
    "training_run",
    "machine",
    "processor",
    "threads",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where the files of the pipeline lie."""

    raw: Path = Path("data/raw")
    ledger: Path = Path("data/ledger.parquet")
    latents: Path = Path("data/latents")
    checkpoints: Path = Path("checkpoints/videomar")
    tokenizer: Path = Path("checkpoints/tokenizer")
    lock: Path = Path("dvc.lock")
    takedowns: Path = Path("takedowns.csv")
    named: Path = Path("data/named")
    """What functions, files and folders hold that parameters name; see `listing.write_named`."""
    cache: Path = Path(".dvc/cache/files/md5")
    """Earlier outputs by their MD5."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """All that a version was made from."""

    version: Version
    aliases: Sequence[str]
    params: dict[str, Any]
    lock: str
    """Text of dvc.lock."""
    clips: pandas.DataFrame | None
    """Kept clips: CLIP_COLUMNS and `key`; None where nothing tells of them."""
    files: Sequence[FileSum]
    """None, for a version of before they were recorded."""

    @property
    def raw_files(self) -> dict[str, str]:
        """sha256 of each raw file by its path; of the videos alone where no more was recorded."""
        if self.files or self.clips is None:
            return {row.path: row.sha256 for row in self.files if row.kind == "raw"}
        videos = self.clips.dropna(subset=["video_sha256"]).drop_duplicates("video")
        return dict(zip(videos["video"], videos["video_sha256"], strict=True))

    def videos(self, seen: bool) -> list[str]:
        """Videos that have a clip in the train split, or those that have none there."""
        if self.clips is None:
            return []
        saw = set(self.clips.loc[self.clips["split"] == SEEN_SPLIT, "video"])
        return sorted(saw if seen else set(self.clips["video"]) - saw)

    def to_dict(self) -> dict[str, Any]:
        """The trace as plain values, ready for JSON."""
        clips = self.clips if self.clips is not None else pandas.DataFrame(columns=[*CLIP_COLUMNS, "key"])
        chosen = clips[["key", "clip_id", "video", "video_sha256", "split"]]
        latents = chosen.assign(saw=chosen["split"] == SEEN_SPLIT)
        return {
            "model": MODEL,
            "version": self.version.number,
            "aliases": list(self.aliases),
            "run_id": self.version.run_id,
            **{name: self.version.tags.get(name) for name in _TAGS},
            "params": self.params,
            "outputs_md5": outputs_of(self.lock),
            "num_latents": len(latents),
            "latents": json.loads(latents.to_json(orient="records")),
            "raw": [{"path": path, "sha256": sha256} for path, sha256 in self.raw_files.items()],
            "saw": self.videos(seen=True),
            "held_out": self.videos(seen=False),
            "files": [row._asdict() for row in self.files],
        }


@dataclass(frozen=True, slots=True)
class Sighting:
    """How many kept clips of one video a version had, by split; None where it cannot be told any more."""

    version: Version
    clips: dict[str, int] | None

    @property
    def trained(self) -> bool | None:
        """Whether the version was trained on the video."""
        return None if self.clips is None else self.clips.get(SEEN_SPLIT, 0) > 0


def trace(version: Version, places: Places) -> Trace:
    """Read what a version was made from."""
    with tempfile.TemporaryDirectory() as folder:
        evidence = download_evidence(version, Path(folder))
        lock = text_of(evidence / "dvc.lock")
        files = evidence / FILES
        return Trace(
            version=version,
            aliases=aliases_of(version),
            params=yaml.safe_load(text_of(evidence / "params.yaml")) or {},
            lock=lock,
            clips=_clips(evidence, lock, places),
            files=read_file_sums(files) if files.is_file() else [],
        )


def find_sightings(digest: str, places: Places) -> list[Sighting]:
    """For each registered version, how many clips of a video it had."""
    sightings = []
    for version in all_versions():
        with tempfile.TemporaryDirectory() as folder:
            evidence = download_evidence(version, Path(folder))
            clips = _clips(evidence, text_of(evidence / "dvc.lock"), places)
        if clips is None:
            sightings.append(Sighting(version, None))
        else:
            counts = clips.loc[clips["video_sha256"] == digest, "split"].value_counts()
            sightings.append(Sighting(version, {str(split): int(count) for split, count in counts.items()}))
    return sightings


def digest_of(video: str, places: Places) -> str:
    """sha256 of a video: itself, or of a file, or of what the ledger calls so.

    Raises:
        DataError: there is no such video.
    """
    if len(video) == _HEX_DIGITS and set(video) <= set("0123456789abcdef"):
        return video
    for path in (places.raw / video, Path(video)):
        if path.is_file():
            return sha256_of(path)
    if places.ledger.is_file():
        ledger = read_ledger(places.ledger, thumbnails=False)
        known = ledger.loc[ledger["video"] == video, "video_sha256"].dropna()
        if len(known):
            return str(known.iloc[0])
    raise DataError(f"{video}: got no such video in {places.raw} or in the ledger, expected one of them")


def _clips(evidence: Path, lock: str, places: Places) -> pandas.DataFrame | None:
    """Kept clips of a version: from its evidence, else from the ledger that its dvc.lock names."""
    if (evidence / LINEAGE).is_file():
        return read_lineage(evidence / LINEAGE)
    md5 = outputs_of(lock).get(places.ledger.as_posix())
    path = places.cache / md5[:2] / md5[2:] if md5 else None
    if path is None or not path.is_file():
        return None
    # Of any age: a ledger of an earlier version lacks columns that nobody needs here.
    try:
        there = set(pq.read_schema(path).names)
        rows = pq.read_table(path, columns=[name for name in (*CLIP_COLUMNS, "kept") if name in there])
    except (ArrowException, OSError):
        return None
    kept = rows.to_pandas().query("kept").drop(columns="kept").reset_index(drop=True)
    return kept.reindex(columns=[*CLIP_COLUMNS, "key"])


def text_of(path: Path) -> str:
    """Text of a file; none of one that is not there."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""

"""From a raw video up to the registered versions that were made with it; and taking a video down."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from videomar.curation.ledger import read_ledger
from videomar.curation.takedowns import add_takedown
from videomar.errors import DataError
from videomar.files import sha256_of
from videomar.registry.ancestors import TRAIN_SPLIT, read_ancestors, usage_by_ancestors
from videomar.registry.trace import clips_of
from videomar.registry.versions import MODEL, Version, all_versions, download_evidence

_HEX_DIGITS = 64


@dataclass(frozen=True, slots=True)
class VideoUsage:
    """Number of kept clips of one video in a version, by split; None if it is not known any more."""

    version: Version
    clips: dict[str, int] | None
    by_ancestors: Mapping[str, bool | None]
    """Whether each ancestor was trained on the video, by name; None if its clips are not known."""

    @property
    def trained(self) -> bool | None:
        """Whether the version's weights come from training on the video, its own or an ancestor's."""
        own = None if self.clips is None else self.clips.get(TRAIN_SPLIT, 0) > 0
        answers = [own, *self.by_ancestors.values()]
        return True if True in answers else None if None in answers else False

    def __str__(self) -> str:
        name = f"{MODEL} version {self.version.number}"
        if self.clips is None:
            own = "not known: its run has no record, and its ledger is not in the cache here"
        elif not self.clips:
            own = "was made without this video"
        else:
            counts = ", ".join(f"{count} in {split}" for split, count in self.clips.items())
            trained = "trained on it" if self.clips.get(TRAIN_SPLIT, 0) else "not trained on it"
            own = f"was made with this video, {trained} (clips: {counts})"
        saw = [ancestor for ancestor, trained in self.by_ancestors.items() if trained]
        unknown = [ancestor for ancestor, trained in self.by_ancestors.items() if trained is None]
        started = [f"it started from weights of {each}, which was trained on it" for each in saw]
        started += [f"it started from weights of {each}, whose clips are not known" for each in unknown]
        return f"{name}: {'; '.join([own, *started])}"


def find_usage(digest: str) -> list[VideoUsage]:
    """Look a video up, by its sha256, in every registered version and in what each started from."""
    usage = []
    for version in all_versions():
        with tempfile.TemporaryDirectory() as folder:
            evidence = download_evidence(version, Path(folder))
            clips, by_ancestors = clips_of(evidence), usage_by_ancestors(read_ancestors(evidence), digest)
        if clips is None:
            usage.append(VideoUsage(version, None, by_ancestors))
        else:
            counts = clips.loc[clips["video_sha256"] == digest, "split"].value_counts()
            by_split = {str(split): int(count) for split, count in counts.items()}
            usage.append(VideoUsage(version, by_split, by_ancestors))
    return usage


def describe_usage(digest: str) -> list[str]:
    """One line per registered version: whether it was made with a video."""
    return [str(found) for found in find_usage(digest)] or [f"{MODEL}: no version is registered"]


def digest_of(video: str, raw: Path, ledger: Path) -> str:
    """Return the sha256 of a video.

    Args:
        video: The sha256 itself, the path of a file, also relative to `raw`, or a path in the ledger.
        raw: Folder of raw videos.
        ledger: The ledger.

    Raises:
        DataError: there is no such video.
    """
    if len(video) == _HEX_DIGITS and set(video) <= set("0123456789abcdef"):
        return video
    for path in (raw / video, Path(video)):
        if path.is_file():
            return sha256_of(path)
    if ledger.is_file():
        rows = read_ledger(ledger, thumbnails=False)
        known = rows.loc[rows["video"] == video, "video_sha256"].dropna()
        if len(known):
            return str(known.iloc[0])
    raise DataError(f"{video}: got no such video in {raw} or in the ledger, expected one of them")


def remove_video(video: str, reason: str, raw: Path, ledger: Path, takedowns: Path) -> list[str]:
    """Record that a video must not be used.

    Args:
        video: As in `digest_of`.
        reason: Why; stays in the ledger.
        raw: Folder of raw videos.
        ledger: The ledger.
        takedowns: The list that all later runs read.

    Returns:
        Lines for the user: what was recorded, what to do, and which registered versions used the video.

    Raises:
        DataError: no such video, or no reason.
    """
    if not reason.strip():
        raise DataError("--reason: got nothing, expected why the video must not be used")
    digest = digest_of(video, raw, ledger)
    if not add_takedown(takedowns, digest, video, reason):
        return [f"{video}: was removed before (see {takedowns}); nothing changed", *describe_usage(digest)]
    return [
        f"{video}: removed; sha256 {digest} is now in {takedowns}, which belongs into git",
        "`dvc repro` drops its clips, what looks like them, and their latents; the file stays in your folder",
        *describe_usage(digest),
    ]

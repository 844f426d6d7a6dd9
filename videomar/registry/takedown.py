"""A video taken down: noted for all later runs, and looked for in the models that exist."""

from videomar.curation.takedowns import add_takedown
from videomar.errors import DataError
from videomar.registry.trace import Places as Places
from videomar.registry.trace import Sighting, digest_of, find_sightings
from videomar.registry.versions import MODEL


def remove_video(video: str, reason: str, places: Places) -> list[str]:
    """Note that a video must not be used; lines that say what follows from it.

    Args:
        video: Path of a file, or relative to the raw folder, or as the ledger names it.
        reason: Why; stays in the ledger.
        places: Where to look.

    Raises:
        DataError: no such video, or no reason.
    """
    if not reason.strip():
        raise DataError("--reason: got nothing, expected why the video must not be used")
    digest = digest_of(video, places)
    if not add_takedown(places.takedowns, digest, video, reason):
        return [
            f"{video}: was removed before (see {places.takedowns}); nothing changed",
            *describe_sightings(digest, places),
        ]
    return [
        f"{video}: removed; sha256 {digest} is now in {places.takedowns}, which belongs into git",
        "`dvc repro` drops its clips, what looks like them, and their latents; the file stays in your folder",
        *describe_sightings(digest, places),
    ]


def describe_sightings(digest: str, places: Places) -> list[str]:
    """One line for each registered version: whether it was made with the video."""
    return [_line(sighting) for sighting in find_sightings(digest, places)] or [
        f"{MODEL}: no version is registered"
    ]


def _line(sighting: Sighting) -> str:
    name = f"{MODEL} version {sighting.version.number}"
    if sighting.clips is None:
        return f"{name}: cannot be told: its run has no record, and its ledger is not in the cache here"
    if not sighting.clips:
        return f"{name}: was made without this video"
    counts = ", ".join(f"{count} in {split}" for split, count in sighting.clips.items())
    trained = "trained on it" if sighting.trained else "not trained on it"
    return f"{name}: was made with this video, {trained} (clips: {counts})"

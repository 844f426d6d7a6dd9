"""A video taken down: noted for all later runs, and looked for in the models that exist."""

from dataclasses import dataclass
from pathlib import Path

from videomar.data.ledger import read_ledger
from videomar.data.takedowns import add_takedown
from videomar.errors import DataError
from videomar.tracking.lineage import sha256_of
from videomar.tracking.registry import MODEL, Version, all_versions, lock_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where the files of the pipeline lie."""

    raw: Path = Path("data/raw")
    ledger: Path = Path("data/ledger.parquet")
    takedowns: Path = Path("takedowns.csv")
    cache: Path = Path(".dvc/cache/files/md5")
    """Earlier outputs by their MD5."""


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
    digest = _digest(video, places)
    if not add_takedown(places.takedowns, digest, video, reason):
        return [
            f"{video}: was removed before (see {places.takedowns}); nothing changed",
            *_models(digest, places),
        ]
    return [
        f"{video}: removed; sha256 {digest} is now in {places.takedowns}, which belongs into git",
        "`dvc repro` drops its clips, what looks like them, and their latents; the file stays in your folder",
        *_models(digest, places),
    ]


def _digest(video: str, places: Places) -> str:
    for path in (places.raw / video, Path(video)):
        if path.is_file():
            return sha256_of(path)
    if places.ledger.is_file():
        ledger = read_ledger(places.ledger)
        known = ledger.loc[ledger["video"] == video, "video_sha256"].dropna()
        if len(known):
            return str(known.iloc[0])
    raise DataError(f"{video}: got no such video in {places.raw} or in the ledger, expected one of them")


def _models(digest: str, places: Places) -> list[str]:
    """One line for each registered version: whether its ledger kept clips of the video."""
    lines = []
    for version in all_versions():
        kept = _kept_in(version, digest, places.cache)
        said = "cannot be told: the ledger of its run is not in the cache here"
        if kept is not None:
            said = f"was made with{'' if kept else 'out'} this video"
        lines.append(f"{MODEL} version {version.number}: {said}")
    return lines or [f"{MODEL}: no version is registered"]


def _kept_in(version: Version, digest: str, cache: Path) -> bool | None:
    """Whether the ledger that a version's dvc.lock names kept clips of a video; None if it cannot be read."""
    import yaml

    stages = (yaml.safe_load(lock_of(version) or "") or {}).get("stages", {})
    outs = stages.get("curate", {}).get("outs", [])
    for md5 in (out["md5"] for out in outs if out["path"] == "data/ledger.parquet"):
        path = cache / md5[:2] / md5[2:]
        return _keeps(path, digest) if path.is_file() else None
    return None


def _keeps(ledger: Path, digest: str) -> bool | None:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    # Of any age: a ledger of an earlier version lacks columns that nobody needs here.
    try:
        rows = pq.read_table(ledger, columns=["video_sha256", "kept"]).to_pandas()
    except (ArrowException, OSError):
        return None
    return bool((rows["kept"] & (rows["video_sha256"] == digest)).any())

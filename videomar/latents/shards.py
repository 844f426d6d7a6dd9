"""The latent cache: Parquet shards, one row per clip, each keyed by everything its bytes depend on.

A clip's shard follows from its key, and the number of shards, a power of two, from the number of clips. So
the same clips make the same files whatever was in the folder before, and one changed clip changes the shard
that it leaves and the one that it enters. Only when the number of clips passes a power of two times
`shard_clips` are all files written again, from copies of the latents.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from videomar.errors import DataError
from videomar.latents.parquet import (
    METADATA_COLUMNS,
    SCHEMA,
    DamagedShardError,
    Shard,
    open_shard,
    rows_checksum,
    verify_group,
    write_shard,
    writer_metadata,
)
from videomar.storage import (
    FileEntry,
    Location,
    StoragePath,
    for_each,
    list_files,
    parse_location,
    publish,
    remove,
    sync_folder,
    work_folder,
)

CONDITIONS = ("fps", "motion")
_PATTERN = "part-*.parquet"
_HASH_BITS = 32


def open_latents(location: Location) -> list[Shard]:
    """Open the shards of a complete cache, in the order of their numbers; latents are not read.

    Raises:
        DataError: the folder has none, one is missing or damaged, or their metadata differs.
    """
    folder = parse_location(location)
    shards = for_each(folder, open_shard, _files(folder))
    if not shards:
        raise DataError(f"{folder}: got no latents, expected Parquet files; run `dvc repro encode`")
    expected = [_path(folder, number, len(shards)) for number in range(len(shards))]
    if [shard.path for shard in shards] != expected:
        names = ", ".join(shard.path.name for shard in shards[:4])
        raise DataError(f"{folder}: got {names}, expected all parts of one cache; run `dvc repro encode`")
    for shard in shards[1:]:
        if shard.metadata != shards[0].metadata:
            rule = f"those of {shards[0].path.name}"
            raise DataError(f"{shard.path}: got other metadata, expected {rule}; run `dvc repro encode`")
    return shards


def contents_hash(location: Location) -> str:
    """Hash the contents of a complete cache: its clips with keys of latents and captions, and other columns.

    Raises:
        DataError: see `open_latents`.
    """
    rows = [
        {name: row[name] for name in METADATA_COLUMNS}
        for shard in open_latents(location)
        for row in shard.rows
    ]
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def read_rows(location: Location) -> list[dict[str, Any]]:
    """Read the rows of all shards with their bytes, verified; an absent folder has none.

    Raises:
        DamagedShardError: a shard is damaged.
    """
    rows = []
    for path in _files(parse_location(location)):
        shard = open_verified(path)
        for number, row in enumerate(shard.rows):
            columns = row | {name: shard.byte_range(name, number).read() for name in shard.offsets}
            rows.append({name: columns.get(name) for name in SCHEMA.names})
    return rows


def open_verified(path: StoragePath) -> Shard:
    """Open a shard and compare all of its bytes with their checksums.

    Raises:
        DamagedShardError: they differ.
    """
    shard = open_shard(path)
    for number in range(len(shard.group_rows)):
        verify_group(shard, number)
    return shard


def intact_shards(location: Location) -> tuple[list[Shard], list[DamagedShardError]]:
    """Return the intact shards of a cache, and what is wrong with the others."""
    folder = parse_location(location)
    found = for_each(folder, _verified_or_damage, _files(folder))
    damages = [damage for damage in found if isinstance(damage, DamagedShardError)]
    return [shard for shard in found if isinstance(shard, Shard)], damages


def num_bytes(location: Location) -> int:
    """Return the size of the shards of a cache."""
    return sum(entry.size for entry in _entries(parse_location(location)))


def write_shards(
    location: Location,
    rows: Sequence[Mapping[str, Any]],
    shard_clips: int,
    metadata: Mapping[str, Any] | None = None,
    intact: Sequence[Shard] = (),
) -> int:
    """Make the folder hold `rows` and nothing else; every file appears complete or not at all.

    Args:
        location: folder of the cache, or its URL.
        rows: every column of SCHEMA; bytes, or a `ByteRange`, also in present shards.
        shard_clips: clips in one shard, about.
        metadata: JSON of what the latents were made with.
        intact: shards of the folder that have been verified; those that would not change are kept.

    Returns:
        The number of files written.

    Raises:
        DataError: the disk is full, for example; the old files are all there.
        StoreError: the store cannot be reached; it may hold some of the new files.
    """
    folder = parse_location(location)
    work = work_folder(folder)
    work.mkdir(parents=True, exist_ok=True)
    known = {shard.path: shard for shard in intact}
    parts = _deal(folder, rows, shard_clips)
    drafts: dict[StoragePath, Path] = {}
    remove(work.glob(f".{_PATTERN}"))
    try:
        for path, members in parts.items():
            if not _holds(known.get(path), members, metadata or {}):
                drafts[path] = work / f".{path.name}"
                write_shard(drafts[path], members, metadata or {})
    except OSError as error:
        remove(drafts.values())
        rule = "room for the new shards beside the old ones"
        got = error.strerror or " ".join(str(error).split())
        raise DataError(
            f"{work}: got {got}, expected {rule}; free some and run again: the cache is as it was"
        ) from None
    # Only now: the drafts are copied from byte ranges of any of the old files.
    for_each(folder, lambda path: publish(drafts[path], path), drafts)
    remove(set(_files(folder)) - set(parts))
    sync_folder(folder)
    return len(drafts)


def _deal(
    folder: StoragePath, rows: Sequence[Mapping[str, Any]], shard_clips: int
) -> dict[StoragePath, list[Mapping[str, Any]]]:
    """Assign rows to the shard that the first bits of their key's hash name, in the order of the keys."""
    bits = max(0, -(-len(rows) // shard_clips) - 1).bit_length()
    parts: dict[StoragePath, list[Mapping[str, Any]]] = {
        _path(folder, number, 2**bits): [] for number in range(2**bits)
    }
    for row in sorted(rows, key=lambda row: (row["key"], row["clip_id"])):
        first = int.from_bytes(hashlib.sha256(row["key"].encode()).digest()[: _HASH_BITS // 8])
        parts[_path(folder, first >> (_HASH_BITS - bits), 2**bits)].append(row)
    return parts


def _verified_or_damage(path: StoragePath) -> Shard | DamagedShardError:
    try:
        return open_verified(path)
    except DamagedShardError as damage:
        return damage


def _entries(folder: StoragePath) -> list[FileEntry]:
    """List the shards of a folder by name, without drafts."""
    files = list_files(folder)
    return [entry for entry in files if entry.name.endswith(".parquet") and not entry.name.startswith(".")]


def _files(folder: StoragePath) -> list[StoragePath]:
    return [folder / entry.name for entry in _entries(folder)]


def _path(folder: StoragePath, number: int, count: int) -> StoragePath:
    return folder / f"part-{number:05d}-of-{count:05d}.parquet"


def _holds(shard: Shard | None, rows: Sequence[Mapping[str, Any]], metadata: Mapping[str, Any]) -> bool:
    """Whether a shard is what `write_shard` would write."""
    if shard is None or shard.metadata != {**metadata, **writer_metadata()}:
        return False
    return shard.rows_checksum == rows_checksum(rows)

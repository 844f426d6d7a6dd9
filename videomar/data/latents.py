"""The latent cache: Parquet shards, one row per clip, each row keyed by everything its bytes depend on.

Axes: C channels, T latent frames, H W latent rows and columns, M caption tokens, E caption channels.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from videomar.errors import DataError

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("key", pa.string()),
        ("text_key", pa.string()),
        ("shape", pa.list_(pa.int32())),
        ("dtype", pa.string()),
        ("latents", pa.large_binary()),
        ("text", pa.large_binary()),
        ("text_shape", pa.list_(pa.int32())),
        ("caption", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("fps", pa.float32()),
        ("motion", pa.float32()),
    ]
)
CONDITIONS = ("fps", "motion")
_ROW_GROUP = 64


@dataclass(slots=True)
class LatentTable:
    """The cache in memory, column by column: latents (C, T, H, W) and caption states (M, E), both float32.

    `conditions` holds what a model may be told of a clip: frames a second and the ledger's motion score.
    """

    clip_ids: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    text_keys: list[str] = field(default_factory=list)
    latents: list[NDArray[np.float32]] = field(default_factory=list)
    text: list[NDArray[np.float32]] = field(default_factory=list)
    caption: list[str] = field(default_factory=list)
    group: list[str] = field(default_factory=list)
    split: list[str] = field(default_factory=list)
    conditions: list[dict[str, float]] = field(default_factory=list)


def read_latents(folder: Path) -> LatentTable:
    """All shards of a folder.

    Raises:
        DataError: there is no shard, or one cannot be read.
    """
    table = LatentTable()
    for row in read_rows(folder):
        table.clip_ids.append(row["clip_id"])
        table.keys.append(row["key"])
        table.text_keys.append(row["text_key"])
        table.latents.append(
            np.frombuffer(row["latents"], row["dtype"]).reshape(row["shape"]).astype(np.float32)
        )
        table.text.append(
            np.frombuffer(row["text"], row["dtype"]).reshape(row["text_shape"]).astype(np.float32)
        )
        table.caption.append(row["caption"])
        table.group.append(row["group"])
        table.split.append(row["split"])
        table.conditions.append({name: row[name] for name in CONDITIONS})
    if not table.clip_ids:
        raise DataError(f"{folder}: got no latents, expected Parquet files; run `dvc repro encode`")
    return table


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of all shards as dictionaries, in the order of the file names; an absent folder has none."""
    rows = []
    for path in sorted(folder.glob("*.parquet")):
        try:
            rows += pq.read_table(path, schema=SCHEMA).to_pylist()
        except pa.ArrowException as error:
            raise DataError(
                f"{path}: got a damaged shard ({error}); delete it and run `dvc repro encode`"
            ) from None
    return rows


def write_shards(folder: Path, rows: Sequence[dict[str, Any]], shard_clips: int) -> None:
    """Replace the shards of a folder by `rows`; each file appears complete or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    written = set()
    for number, start in enumerate(range(0, len(rows), shard_clips)):
        path = folder / f"part-{number:05d}.parquet"
        draft = folder / f".{path.name}"
        table = pa.Table.from_pylist(list(rows[start : start + shard_clips]), schema=SCHEMA)
        # Latents hardly compress, and dictionaries or statistics of their bytes cost ten times the writing.
        options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
        pq.write_table(table, draft, row_group_size=_ROW_GROUP, **options)
        os.replace(draft, path)
        written.add(path)
    for path in set(folder.glob("*.parquet")) - written:
        path.unlink()

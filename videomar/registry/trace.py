"""From a registered version down to the sha256 of every raw file.

What a version was made from is read from the evidence of its run, so it stays valid when the working tree
has moved on. A version that was registered before such evidence was kept is traced by the ledger that its
dvc.lock names, if that is still in DVC's cache.
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

from videomar.config.layout import WEIGHTS, Layout
from videomar.files import sha256_of
from videomar.provenance.checkout import outputs_of
from videomar.registry.ancestors import TRAIN_SPLIT, Ancestor, raw_files_of, read_ancestors
from videomar.registry.evidence import (
    CLIP_COLUMNS,
    CODE,
    LINEAGE,
    Checksum,
    checkpoint_checksums,
    find_changes,
    read_lineage,
    recorded_checksums,
    text_of,
)
from videomar.registry.versions import (
    LINEAGE_TAGS,
    MODEL,
    Version,
    aliases_of,
    download_evidence,
    stored_folders,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """All that a version was made from."""

    version: Version
    aliases: Sequence[str]
    params: dict[str, Any]
    lock: str
    """Text of dvc.lock."""
    clips: pandas.DataFrame | None
    """Kept clips: CLIP_COLUMNS and `key`; None if they are not known any more."""
    files: Sequence[Checksum]
    """Empty for a version older than this record."""
    ancestors: Sequence[Ancestor] = ()
    """The models that its weights come from, the nearest first; none if they were random at first."""

    @property
    def raw_files(self) -> dict[str, str]:
        """sha256 of each raw file by its path; of the videos alone where no more was recorded."""
        return raw_files_of(self.files, self.clips)

    def videos(self, seen: bool) -> list[str]:
        """Videos with a clip in the train split, or those without one."""
        if self.clips is None:
            return []
        saw = set(self.clips.loc[self.clips["split"] == TRAIN_SPLIT, "video"])
        return sorted(saw if seen else set(self.clips["video"]) - saw)

    def to_dict(self) -> dict[str, Any]:
        """The trace as plain values, ready for JSON."""
        clips = self.clips if self.clips is not None else pandas.DataFrame(columns=[*CLIP_COLUMNS, "key"])
        chosen = clips[["key", "clip_id", "video", "video_sha256", "split"]]
        latents = chosen.assign(saw=chosen["split"] == TRAIN_SPLIT)
        return {
            "model": MODEL,
            "version": self.version.number,
            "aliases": list(self.aliases),
            "run_id": self.version.run_id,
            **{name: self.version.tags.get(name) for name in LINEAGE_TAGS},
            "params": self.params,
            "outputs_md5": outputs_of(self.lock),
            "num_latents": len(latents),
            "latents": json.loads(latents.to_json(orient="records")),
            "raw": [{"path": path, "sha256": sha256} for path, sha256 in self.raw_files.items()],
            "saw": self.videos(seen=True),
            "held_out": self.videos(seen=False),
            "files": [row._asdict() for row in self.files],
            "origin": self.version.origin,
            "parents": [ancestor.to_dict() for ancestor in self.ancestors],
        }


def trace(version: Version) -> Trace:
    """Read what a version was made from."""
    with tempfile.TemporaryDirectory() as folder:
        evidence = download_evidence(version, Path(folder))
        return Trace(
            version=version,
            aliases=aliases_of(version),
            params=yaml.safe_load(text_of(evidence / "params.yaml")) or {},
            lock=text_of(evidence / "dvc.lock"),
            clips=clips_of(evidence),
            files=recorded_checksums(evidence),
            ancestors=read_ancestors(evidence),
        )


def clips_of(evidence: Path) -> pandas.DataFrame | None:
    """Kept clips of a version: from its evidence, else from the ledger that its dvc.lock names.

    Returns:
        CLIP_COLUMNS and `key`, or None if neither is available.
    """
    if (evidence / LINEAGE).is_file():
        return read_lineage(evidence / LINEAGE)
    layout = Layout()
    md5 = outputs_of(text_of(evidence / "dvc.lock")).get(layout.ledger.as_posix())
    path = layout.cache / md5[:2] / md5[2:] if md5 else None
    if path is None or not path.is_file():
        return None
    # Not by `read_ledger`: a ledger of that age lacks columns, but none that are needed here.
    try:
        existing = set(pq.read_schema(path).names)
        rows = pq.read_table(path, columns=[name for name in (*CLIP_COLUMNS, "kept") if name in existing])
    except (ArrowException, OSError):
        return None
    kept = rows.to_pandas().query("kept").drop(columns="kept").reset_index(drop=True)
    return kept.reindex(columns=[*CLIP_COLUMNS, "key"])


def verify(traced: Trace, layout: Layout) -> tuple[list[dict[str, Any]], list[str]]:
    """Hash the files again that a trace names.

    Raw files are compared where they are, checkpoint, tokenizer and code in the registry. Latents, checkpoint
    and tokenizer of the working tree are compared only while dvc.lock says that they are of this version.

    Returns:
        Files that are missing or differ, see `find_changes`, and what could not be compared.
    """
    registered = stored_folders(traced.version)
    checksums = list(traced.files) or [
        *(Checksum("raw", path, sha256, 0) for path, sha256 in traced.raw_files.items()),
        *checkpoint_checksums(registered["checkpoint"]),
    ]
    changes = find_changes(checksums, {"raw": layout.raw, **registered})
    unchanged, notes = _unchanged_outputs(traced, layout)
    # The weights alone: manifest, parameters and card were written again at registration.
    weights = [row for row in checksums if row.path in WEIGHTS or row.kind != "checkpoint"]
    changes += find_changes(weights, unchanged)
    if not any(row.kind == CODE for row in checksums):
        notes.append("code that MLflow stored with it: not recorded for this version, not compared")
    if traced.clips is None:
        notes.append("clips and raw files: not recorded for this version, not compared")
    return changes, [*notes, *(_compare_raw(ancestor, layout) for ancestor in traced.ancestors)]


def _compare_raw(ancestor: Ancestor, layout: Layout) -> str:
    """How many raw files of an ancestor are here: they may be gone or replaced since, which is no damage."""
    if ancestor.clips is None:
        return f"{ancestor.name}: its clips and raw files are not known, not compared"
    raw = ancestor.raw_files
    paths = {path: layout.raw / path for path in raw}
    same = sum(file.is_file() and sha256_of(file) == raw[path] for path, file in paths.items())
    others = f"; {len(raw) - same} are not here any more" if same < len(raw) else ""
    return f"{ancestor.name}: {same} of its {len(raw)} raw files are here, as they were{others}"


def _unchanged_outputs(traced: Trace, layout: Layout) -> tuple[dict[str, Path], list[str]]:
    """Folders of the working tree, by kind, that are those of the version by dvc.lock; notes on others."""
    before, now = outputs_of(traced.lock), outputs_of(text_of(layout.lock))
    step = int(traced.version.tags.get("checkpoint_step", "0"))
    here = Layout()  # with the paths of dvc.lock
    outputs = {
        "latents": (here.latents, layout.latents),
        "checkpoint": (here.training_run, layout.training_run / f"step_{step:08d}"),
        "tokenizer": (here.tokenizer, layout.tokenizer),
    }
    unchanged, notes = {}, []
    for kind, (output, folder) in outputs.items():
        md5 = before.get(output.as_posix())
        if output.as_posix() in before and md5 == now.get(output.as_posix()):
            unchanged[kind] = folder
        else:
            notes.append(f"{output}: not that of this version any more (dvc.lock), not compared")
    return unchanged, notes

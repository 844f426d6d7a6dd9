"""Whether the bytes that a registered version was made from, and consists of, are still those of that day."""

import json
from pathlib import Path
from typing import Any

from videomar.provenance.checkout import outputs_of
from videomar.registry.evidence import FileSum, find_changes
from videomar.registry.trace import Places, Trace, text_of
from videomar.registry.versions import download_model


def verify(traced: Trace, places: Places) -> tuple[list[dict[str, Any]], list[str]]:
    """Hash again what the trace names: what is missing or differs, and what could not be compared.

    Raw files are compared where they lie; checkpoint and tokenizer in the registry; latents, checkpoint and
    tokenizer of the working tree only while dvc.lock says that they are those of this version.
    """
    model = download_model(traced.version)
    sums = list(traced.files) or [
        *(FileSum("raw", path, sha256, 0) for path, sha256 in traced.raw_files.items()),
        *_checkpoint_sums(model / "checkpoint" / "checkpoint.json"),
    ]
    registry = {"raw": places.raw, "checkpoint": model / "checkpoint", "tokenizer": model / "tokenizer"}
    changes = find_changes(sums, registry)
    tree, notes = _tree_folders(traced, places)
    # The registered checkpoint has a shorter list of its files, without the optimizer's state.
    weights = [row for row in sums if row.path.endswith(".safetensors") or row.kind != "checkpoint"]
    changes += find_changes(weights, tree)
    if traced.clips is None:
        notes.append("clips and raw files: not recorded for this version, not compared")
    return changes, notes


def _tree_folders(traced: Trace, places: Places) -> tuple[dict[str, Path], list[str]]:
    """Folders of the working tree that should hold what the version was made from; notes on the others."""
    before, now = outputs_of(traced.lock), outputs_of(text_of(places.lock))
    step = traced.version.tags.get("checkpoint_step", "0")
    found = {
        "latents": (places.latents, places.latents),
        "checkpoint": (places.checkpoints, places.checkpoints / f"step_{int(step):08d}"),
        "tokenizer": (places.tokenizer, places.tokenizer),
    }
    same, notes = {}, []
    for kind, (output, folder) in found.items():
        if output.as_posix() in before and before[output.as_posix()] == now.get(output.as_posix()):
            same[kind] = folder
        else:
            notes.append(f"{output}: not that of this version any more (dvc.lock), not compared")
    return same, notes


def _checkpoint_sums(manifest: Path) -> list[FileSum]:
    files = json.loads(text_of(manifest) or "{}").get("files", {})
    return [FileSum("checkpoint", name, facts["sha256"], facts["bytes"]) for name, facts in files.items()]

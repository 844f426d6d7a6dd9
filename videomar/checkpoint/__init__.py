"""Weights on disk: our checkpoints, and import of those that the authors of VideoMAR released."""

from videomar.checkpoint.folder import (
    MANIFEST,
    Loaded,
    export,
    latest,
    load,
    load_tensors,
    newest_intact,
    prune,
    read_manifest,
    save,
    verify,
    weights_hash,
)

__all__ = [
    "MANIFEST",
    "Loaded",
    "export",
    "latest",
    "load",
    "load_tensors",
    "newest_intact",
    "prune",
    "read_manifest",
    "save",
    "verify",
    "weights_hash",
]

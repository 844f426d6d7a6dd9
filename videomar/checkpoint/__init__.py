"""Weights on disk: our checkpoints, and import of those that the authors of VideoMAR released."""

from videomar.checkpoint.folder import (
    MANIFEST,
    Loaded,
    latest,
    load,
    load_tensors,
    newest_intact,
    prune,
    read_manifest,
    save,
    seed_of,
    verify,
    weights_hash,
)
from videomar.checkpoint.model_folder import ModelFolder, ModelParts, export, open_model_folder, read_parts

__all__ = [
    "MANIFEST",
    "Loaded",
    "ModelFolder",
    "ModelParts",
    "export",
    "latest",
    "load",
    "load_tensors",
    "newest_intact",
    "open_model_folder",
    "prune",
    "read_manifest",
    "read_parts",
    "save",
    "seed_of",
    "verify",
    "weights_hash",
]

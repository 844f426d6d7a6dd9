"""A model folder as a version of the registry: one not trained by this pipeline, such as imported weights.

What such a model was trained on is not known here. Its version says so, and so does every decision about it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videomar.checkpoint import ModelFolder, export, open_model_folder, read_manifest, read_parts, verify
from videomar.checkpoint.model_folder import TOKENIZER
from videomar.config import Params, load_params
from videomar.config.layout import AVERAGED, WEIGHTS, Layout
from videomar.encoders.load import load_tokenizer, tokenizer_files
from videomar.encoders.text import text_encoder_files
from videomar.errors import CheckpointError
from videomar.files import sha256_of
from videomar.provenance.card import model_card
from videomar.registry.ancestors import copy_ancestors
from videomar.registry.candidate import create_version, log_model
from videomar.registry.evidence import FILES, write_checksums
from videomar.registry.model_card import facts_of
from videomar.registry.versions import MODEL, ORIGIN_TAG, Version, all_versions, version_of
from videomar.tracking.mlflow_store import experiment_id, open_client
from videomar.tracking.staging import note_run, staging_folder

_HERE = Layout()
_UNKNOWN = "none"


def register_folder(folder: Path, reason: str = "") -> list[str]:
    """Register the model in a folder as a version; return lines for the user.

    The aliases stay where they are. A model that is registered already keeps its version.

    Args:
        folder: a model folder, as `videomar export` and `videomar import` write it.
        reason: why; stays with the version.

    Raises:
        VideomarError: the folder is no whole model, or a file is damaged.
    """
    found = open_model_folder(folder)
    manifest = verify(found.checkpoint)
    params = load_params(found.params, _HERE.params if _HERE.params.is_file() else None)
    tags = _tags(folder, found, manifest, reason)
    known = _known(tags)
    version = known or _register(found, params, tags)
    words = "is registered already" if known else "registered"
    unknown = "" if version.origin is None else "; what it was trained on is not recorded"
    return [
        f"{version}: {words}{unknown}",
        f"then: `videomar evaluate {version.number}`, `videomar promote {version.number}`",
    ]


def _tags(folder: Path, found: ModelFolder, manifest: Mapping[str, Any], reason: str) -> dict[str, str]:
    """What is known of the model, under the names that versions of the pipeline use, too."""
    if AVERAGED not in manifest["files"]:
        raise CheckpointError(f"{found.checkpoint}: got no {AVERAGED}, expected it; use another folder")
    weights = [found.checkpoint / name for name in WEIGHTS if name in manifest["files"]]
    made_with = manifest["made_with"] if isinstance(manifest["made_with"], dict) else {}
    origin = {"folder": folder.resolve().name, "imported": made_with.get("imported"), "reason": reason}
    unknown = ("git_commit", "git_dirty", "uncommitted", "lock_sha256", "ledger_sha256", "training_run")
    return {
        **dict.fromkeys(unknown, _UNKNOWN),
        "tokenizer_sha256": load_tokenizer(found.tokenizer).content_hash(),
        "checkpoint_step": str(manifest["step"]),
        "checkpoint_sha256": sha256_of(*weights),
        "weights_sha256": manifest["files"][AVERAGED]["sha256"],
        ORIGIN_TAG: json.dumps(origin),
    }


def _known(tags: Mapping[str, str]) -> Version | None:
    """The version with the same weights and tokenizer, if there is one."""
    same = ("checkpoint_sha256", "tokenizer_sha256")
    versions = [version for version in all_versions() if all(version.tags.get(t) == tags[t] for t in same)]
    return versions[-1] if versions else None


def _register(found: ModelFolder, params: Params, tags: Mapping[str, str]) -> Version:
    import mlflow

    client = open_client()
    with staging_folder() as folder:
        model, evidence = folder / "checkpoint", folder / "evidence"
        evidence.mkdir()
        packed = text_encoder_files(found.text_encoder) if found.text_encoder else ()
        (evidence / "params.yaml").write_text(found.params.read_text("utf-8"), encoding="utf-8")
        (evidence / "origin.json").write_text(tags[ORIGIN_TAG], encoding="utf-8")
        made_with = read_manifest(found.checkpoint)["made_with"]
        if isinstance(made_with, dict):
            tags = {**tags, **copy_ancestors(made_with, evidence)}
        card = model_card(facts_of(f"{MODEL}, registered from a folder", tags, evidence))
        export(found.checkpoint, model, read_parts(tokenizer_files(found.tokenizer), params, card, packed))
        write_checksums(evidence / FILES, {"checkpoint": model, TOKENIZER: model / TOKENIZER})
        name = f"registered from {json.loads(tags[ORIGIN_TAG])['folder']}"
        about = (
            "A model folder that became a version: the model, and in `evidence` what is known of its making."
        )
        run_tags = {**tags, "mlflow.runName": name, "mlflow.note.content": about}
        with mlflow.start_run(experiment_id=experiment_id(client), tags=run_tags) as run:
            note_run(folder, run.info.run_id)
            mlflow.log_artifacts(str(evidence), "evidence")
            logged = log_model(model, params.text.encoder)
        number = create_version(client, logged, run.info.run_id, tags)
    return version_of(number)

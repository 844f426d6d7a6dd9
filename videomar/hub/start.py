"""Weights to start from, by the names in params.yaml: kept by content, with what is known of their model.

    train.start_from: champion -> checkpoints/videomar.start/3f0c2a9be1d4/
        checkpoint.json, ema.safetensors   the weights, named by their hash
        tokenizer/, params.yaml            what they were trained with, if it is known
        origin.json, parents/              which model it was, and its lineage (registry/ancestors.py)

A name is resolved by the stage that lists what parameters name, and again by the stages that use it. A run
that was killed, and the registration of its result, find these files whatever the name means by then.
"""

import dataclasses
import filecmp
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from videomar.checkpoint import MANIFEST, open_model_folder, read_manifest
from videomar.checkpoint.manifest import ModelShape, read_shape
from videomar.checkpoint.model_folder import PARAMS_FILE, TOKENIZER
from videomar.checkpoint.transfer import ORIGIN, shape_that_fits, start_checkpoint, start_sha256
from videomar.config import Params, load_params
from videomar.config.layout import AVERAGED
from videomar.config.params import names_of_starts, variants_of
from videomar.errors import CheckpointError, ParamsError, VideomarError
from videomar.files import write_json
from videomar.hub.find import ALIASES, find_model
from videomar.hub.shipped import SHIPPED
from videomar.registry.ancestors import (
    PARENTS,
    kept_start,
    named_by,
    origin_of,
    version_by_weights,
    write_ancestors,
    write_evidence_of_shipped,
)
from videomar.registry.evidence import LINEAGE
from videomar.registry.trace import clips_of
from videomar.registry.versions import Version, all_versions, download_evidence, download_model
from videomar.registry.versions import find_model as find_version
from videomar.tracking.mlflow_store import store_exists

_KEY = "train.start_from"
_log = logging.getLogger(__name__)


class _Source(NamedTuple):
    """A model that a name stands for: its weights, and what else is known of it."""

    checkpoint: Path
    tokenizer: Path | None = None
    params: Path | None = None
    version: Version | None = None


def starts_of(params: Params) -> dict[str, Path]:
    """Return the folder of the weights that each name in `train.start_from` stands for, of all runs.

    Raises:
        VideomarError: a name stands for nothing, or its weights are damaged.
    """
    return {name: _keep(name).resolve() for name in names_of_starts(params)}


def weights_of(starts: Mapping[str, Path]) -> dict[str, str]:
    """Return what an output that depends on these weights is compared by; empty without any."""
    return {"start": " ".join(sorted({start_sha256(folder) for folder in starts.values()}))} if starts else {}


def named_starts(params: Params) -> dict[str, dict[str, dict[str, str]]]:
    """Return what each stage depends on because of `train.start_from`, as `listing.write_named` takes it.

    The weights, their tokenizer, and the videos that their models were trained on, by hash; never the name.
    """
    return named_by(list(starts_of(params).values()), params.tokenizer.pretrained is None)


def with_start_tokenizer(params: Params) -> Params:
    """Return the parameters with the tokenizer that the weights to start from were trained with.

    Weights are of use only with the latents of their own tokenizer, so none is trained for them. A folder in
    `tokenizer.pretrained` stays, and is compared later.
    """
    if params.tokenizer.pretrained is not None:
        return params
    for folder in starts_of(params).values():
        if (folder / TOKENIZER).is_dir():
            own = dataclasses.replace(params.tokenizer, pretrained=str(folder / TOKENIZER))
            return dataclasses.replace(params, tokenizer=own)
    return params


def refuse_misfits(params: Params, starts: Mapping[str, Path]) -> None:
    """Refuse weights that no network of these parameters can start from, by their sizes and text encoder.

    The stage that trains refuses the same, but hours later.

    Args:
        params: Of all runs.
        starts: Folders of weights by name.

    Raises:
        CheckpointError: what does not fit, with the keys that decide it.
    """
    for run in [run for _, run in variants_of(params).values()] or [params]:
        if run.train.start_from is None:
            continue
        folder = starts[name := str(run.train.start_from)]
        theirs = read_shape(read_manifest(folder), folder / MANIFEST)
        shape = ModelShape(run.model, theirs.latent_channels, theirs.text_channels, run.text.max_tokens)
        shape_that_fits(shape, folder, with_new_layers=run.train.lora is None)
        _refuse_other_words(name, folder, run)


def refuse_other_encoders(starts: Mapping[str, Path], tokenizer: Path, params: Params) -> None:
    """Refuse weights that were trained with another tokenizer or text encoder than those of the latents.

    Warns where it is not known which they were trained with.

    Args:
        starts: folders of weights by name.
        tokenizer: folder of the latents' tokenizer.
        params: section `text` is that of the latents.

    Raises:
        CheckpointError: an encoder is another; both are named.
    """
    for name, folder in starts.items():
        where = f"{_KEY}: {name}"
        if not (folder / TOKENIZER).is_dir():
            _log.warning("%s: its tokenizer is not known; it must be the one in %s", where, tokenizer)
        elif not _same_tokenizer(folder / TOKENIZER, tokenizer):
            raise CheckpointError(
                f"{where}: got weights trained with the tokenizer in {folder / TOKENIZER}, expected that of "
                f"the latents, {tokenizer}; set tokenizer.pretrained to null or to the former"
            )
        if not (folder / PARAMS_FILE).is_file():
            encoder = params.text.encoder
            _log.warning("%s: its text encoder is not known; it must be %s", where, encoder)
        _refuse_other_words(name, folder, params)


def _refuse_other_words(name: str, folder: Path, params: Params) -> None:
    """Refuse weights whose text encoder is known to be another."""
    if not (folder / PARAMS_FILE).is_file():
        return
    theirs = load_params(folder / PARAMS_FILE, Path(PARAMS_FILE)).text
    for key in ("encoder", "prefix"):
        there, here = getattr(theirs, key), getattr(params.text, key)
        if there != here:
            raise CheckpointError(
                f"{_KEY}: {name}: got weights trained with text.{key} {there!r}, expected that of the "
                f"captions, {here!r}; set it to the former, or start from others"
            )


def _keep(name: str) -> Path:
    """Return the folder that keeps the weights of a name; make it first if it does not exist."""
    version = _version(name)
    known = version.tags.get("weights_sha256", "") if version is not None else ""
    if known and _is_kept(known):
        return kept_start(known)
    if (Path(name) / ORIGIN).is_file() and (Path(name) / PARENTS).is_dir():
        known = start_sha256(Path(name))  # such a folder itself, as of another checkout
        if not _is_kept(known):
            shutil.rmtree(kept_start(known), ignore_errors=True)
            shutil.copytree(name, kept_start(known))
        return kept_start(known)
    source = _source(name, version)
    sha256 = start_sha256(source.checkpoint)
    folder = kept_start(sha256)
    if _is_kept(sha256):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".draft-", dir=folder.parent) as top:
        draft = Path(top) / "start"
        draft.mkdir()
        _copy_weights(source.checkpoint, draft)
        if source.tokenizer is not None:
            shutil.copytree(source.tokenizer, draft / TOKENIZER)
        if source.params is not None:
            shutil.copyfile(source.params, draft / PARAMS_FILE)
        origin = _record_lineage(name, source, sha256, draft)
        write_json(draft / ORIGIN, origin)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(draft, folder)
    return folder


def _is_kept(sha256: str) -> bool:
    """Whether weights with this hash are kept whole; what an interrupted copy of a disk left is not."""
    folder = kept_start(sha256)
    try:
        return (folder / ORIGIN).is_file() and start_sha256(folder) == sha256
    except CheckpointError:
        return False


def _version(name: str) -> Version | None:
    """The registered version that a name stands for; None for a name of another kind."""
    if not (name in ALIASES or name.isdecimal()):
        return None
    if not store_exists():
        rule = "a folder, `shipped`, or null, as there is no registry here yet; `make run` makes one"
        raise ParamsError(f"{_KEY}: got {name}, expected {rule}")
    try:
        return find_version(name)
    except VideomarError as error:
        raise ParamsError(f"{_KEY}: {error}") from None


def _source(name: str, version: Version | None) -> _Source:
    if version is not None:
        return _Source(*open_model_folder(download_model(version))[:3], version)
    if not Path(name).is_dir():
        try:
            return _Source(*find_model(name)[:3])
        except VideomarError as error:
            raise ParamsError(f"{_KEY}: {error}") from None
    try:
        found = _Source(*open_model_folder(Path(name))[:3])
    except CheckpointError:  # weights alone, as of earlier versions
        found = _Source(start_checkpoint(Path(name)))
    if not store_exists():
        return found
    with tempfile.TemporaryDirectory() as into:
        sha256 = start_sha256(found.checkpoint)
        return found._replace(version=version_by_weights(sha256, all_versions(), Path(into)))


def _copy_weights(checkpoint: Path, draft: Path) -> None:
    """Copy the averaged weights, and a manifest that names them alone."""
    manifest = read_manifest(start_checkpoint(checkpoint))
    shutil.copyfile(start_checkpoint(checkpoint) / AVERAGED, draft / AVERAGED)
    manifest["files"] = {AVERAGED: manifest["files"][AVERAGED]}
    (draft / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _record_lineage(name: str, source: _Source, sha256: str, draft: Path) -> dict[str, Any]:
    """Record in `draft/parents` what a model was made from, as far as it is known; return its origin."""
    with tempfile.TemporaryDirectory() as top:
        into = Path(top)
        if source.version is not None:
            origin = origin_of(source.version, sha256)
            evidence = download_evidence(source.version, into)
            # A version older than this record: its ledger may be in DVC's cache.
            if not (evidence / LINEAGE).is_file() and (clips := clips_of(evidence)) is not None:
                evidence.mkdir(exist_ok=True)
                clips.to_parquet(evidence / LINEAGE, index=False)
            write_ancestors(draft, origin, evidence)
            return origin
        origin = {"name": "the shipped model" if name == SHIPPED else name, "weights_sha256": sha256}
        if source.params is not None:
            shutil.copyfile(source.params, into / PARAMS_FILE)
        manifest = read_manifest(start_checkpoint(source.checkpoint))
        made_with = manifest["made_with"] if isinstance(manifest["made_with"], dict) else {}
        if "imported" in made_with:
            origin["imported"] = made_with["imported"]
        before = made_with.get("start")
        if (source.checkpoint / ORIGIN).is_file():
            write_evidence_of_shipped(source.checkpoint / ORIGIN, into)
        if before is not None and kept_start(before).is_dir():
            shutil.copytree(kept_start(before) / PARENTS, into / PARENTS)
        write_ancestors(draft, origin, into)
        return origin


def _same_tokenizer(ours: Path, theirs: Path) -> bool:
    """Whether two folders hold the same tokenizer: the same bytes, or the same content in other files."""
    names = [path.name for path in ours.iterdir() if path.is_file()]
    same, _, _ = filecmp.cmpfiles(ours, theirs, names, shallow=False)
    if sorted(same) == sorted(names):
        return True
    from videomar.encoders.load import load_tokenizer

    return load_tokenizer(ours).content_hash() == load_tokenizer(theirs).content_hash()

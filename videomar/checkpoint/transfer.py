"""Weights of a trained network as the start of another run: what fits, what is new, what is refused.

    source folder: checkpoint.json, ema.safetensors
        -> fitted_shape       refuses what does not fit, tensor by tensor, with the keys of params.yaml
        -> starting_tensors   its weights, and zeros where the new network has more

The new network may know conditions that the source does not, longer captions, and the tokens before hidden
ones. All start without effect: a new condition and the token before add a vector of zeros, and the null text
keeps its rows, so longer captions only add masked places. The same inputs then give the outputs of the
source: the same bits, but with longer captions up to the rounding of sums over masked places.

What a residual is divided by is kept, because the head's weights were learnt with it.
"""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from videomar.checkpoint.folder import MANIFEST, latest, read_manifest
from videomar.checkpoint.manifest import ModelShape, read_shape
from videomar.checkpoint.tensors import each_tensor
from videomar.config.layout import AVERAGED
from videomar.errors import CheckpointError
from videomar.files import sha256_of

ORIGIN = "origin.json"
"""File beside them that says where they are from, if a name was resolved."""
_WHERE = "train.start_from"
# Endings of the tensors of new layers whose zeros make these layers have no effect.
_FIRST_ZERO = (".unknown", ".layers.2.weight", ".layers.2.bias", ".previous_proj.weight")
_BLOCK = re.compile(r"^(trunk\.blocks|head\.net\.blocks)\.(\d+)\.")
# Keys of params.yaml that decide a size of a tensor, by the start of its name; the first that fits counts.
_DECIDED_BY: Mapping[str, tuple[str, ...]] = {
    "trunk.z_proj": ("model.hidden_size", "model.patch_size", "tokenizer.channels"),
    "trunk.context_embed": ("model.hidden_size", "text.encoder"),
    "trunk.null_text": ("model.hidden_size", "text.max_tokens"),
    "trunk.conditions": ("model.hidden_size", "model.conditions"),
    "trunk.previous_proj": ("model.hidden_size", "model.patch_size", "tokenizer.channels"),
    "trunk.blocks": ("model.hidden_size", "model.num_heads", "model.mlp_ratio", "model.depth"),
    "trunk": ("model.hidden_size",),
    "head": (
        *("model.head", "model.head_width", "model.head_depth"),
        *("model.hidden_size", "model.patch_size", "tokenizer.channels"),
    ),
}


def start_checkpoint(folder: Path) -> Path:
    """Return the checkpoint in a folder: the folder itself, or the newest one of a run's folder.

    Raises:
        CheckpointError: there is none, or it has no averaged weights.
    """
    path = folder if (folder / MANIFEST).is_file() else latest(folder) or folder
    if AVERAGED not in read_manifest(path)["files"]:
        raise CheckpointError(f"{_WHERE}: {path}: got no {AVERAGED}, expected averaged weights; use another")
    return path


def start_sha256(folder: Path) -> str:
    """Return the SHA-256 of the weights that a run would start from, as their manifest states it."""
    return str(read_manifest(start_checkpoint(folder))["files"][AVERAGED]["sha256"])


def start_origin(folder: Path) -> dict[str, Any]:
    """Return where the weights in a folder are from: what was recorded with them, or their path."""
    try:
        return dict(json.loads((folder / ORIGIN).read_text("utf-8")))
    except (OSError, ValueError):
        return {"folder": str(folder)}


def fitted_shape(shape: ModelShape, folder: Path, with_new_layers: bool = True) -> ModelShape:
    """Return the shape of a network that starts from the weights in a folder.

    Args:
        shape: as the parameters and latents ask for it.
        folder: a checkpoint, or the folder of a run.
        with_new_layers: whether all weights are trained, as those of new conditions must be.

    Raises:
        CheckpointError: the weights are damaged, or do not fit; then the message names every tensor that does
            not, its shape there and here, and the keys of params.yaml that decide it.
    """
    source = start_checkpoint(folder)
    if (found := sha256_of(source / AVERAGED)) != (stated := start_sha256(source)):
        raise CheckpointError(
            f"{_WHERE}: {source / AVERAGED}: got sha256 {found[:12]}, expected {stated[:12]}; it is damaged, "
            "use another"
        )
    return shape_that_fits(shape, folder, with_new_layers)


def shape_that_fits(shape: ModelShape, folder: Path, with_new_layers: bool = True) -> ModelShape:
    """Return what `fitted_shape` does, from the sizes alone: the bytes of the weights are not looked at."""
    source = start_checkpoint(folder)
    theirs = read_shape(read_manifest(source), source / MANIFEST)
    rows = theirs.null_text_tokens or theirs.max_text_tokens
    fitted = dataclasses.replace(shape, null_text_tokens=None if rows == shape.max_text_tokens else rows)
    conditions = sorted(set(shape.params.conditions) - set(theirs.params.conditions))
    new = [f"model.conditions {', '.join(conditions)}"] * bool(conditions)
    new += ["model.feed_previous true"] * (shape.params.feed_previous and not theirs.params.feed_previous)
    if new and not with_new_layers:
        rule = "those of the weights to start from, as adapters change no other layer"
        raise CheckpointError(f"train.lora: got new {' and '.join(new)}, expected {rule}")
    problems = [*_other_meanings(fitted, theirs), *_other_tensors(fitted, theirs, source)]
    if problems:
        rule = "weights of this network; set the keys as there, or start from others"
        raise CheckpointError(f"{_WHERE}: {source}: got {'; '.join(problems)}, expected {rule}")
    return fitted


def starting_tensors(folder: Path, like: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield names and whole tensors for a network with these, one at a time.

    What is not yielded of new layers keeps the values that it was drawn with: its outputs are multiplied by
    zeros.

    Args:
        folder: whose shape fits, see `fitted_shape`.
        like: names and tensors of the new network.
    """
    source = start_checkpoint(folder)
    known = set()
    for name, value in each_tensor(source / AVERAGED):
        known.add(name)
        yield name, value
    for name, value in like.items():
        if name not in known and name.endswith(_FIRST_ZERO):
            yield name, torch.zeros(value.shape, dtype=value.dtype)


def _other_meanings(ours: ModelShape, theirs: ModelShape) -> Iterator[str]:
    """Differences that would give the same tensors another meaning, or of which tensors say too much."""
    here, there = ours.params, theirs.params
    if here.head != there.head:
        yield f"model.head {there.head} there, {here.head} here"
    if here.residual != there.residual:
        yield f"model.residual {_plain(there.residual)} there, {_plain(here.residual)} here"
    if there.feed_previous and not here.feed_previous:
        yield "model.feed_previous true there, false here"
    for key in ("patch_size", "rope_axis_dims"):
        a, b = getattr(there, key), getattr(here, key)
        if a != b:
            yield f"model.{key} {_plain(a)} there, {_plain(b)} here"
    if missing := sorted(set(there.conditions) - set(here.conditions)):
        yield f"model.conditions with {', '.join(missing)} there, without here"
    if theirs.max_text_tokens > ours.max_text_tokens:
        yield f"text.max_tokens {theirs.max_text_tokens} there, {ours.max_text_tokens} here"


def _other_tensors(ours: ModelShape, theirs: ModelShape, source: Path) -> Iterator[str]:
    """Tensors that one side lacks, or whose shapes differ; those of all blocks alike in one line."""
    if ours.params.head != theirs.params.head:
        return  # all names of the head differ, which the kind of head says in one word
    with torch.device("meta"):
        here = {name: tuple(value.shape) for name, value in ours.build().state_dict().items()}
    with safe_open(source / AVERAGED, "pt") as file:
        there = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    new = set(ours.params.conditions) - set(theirs.params.conditions)
    news = tuple(f"trunk.conditions.{name}." for name in new)
    # What only one side has of these is new here, or named by its key in `_other_meanings`.
    named = {"trunk.previous_proj.weight", "head.residual_scale"} & (here.keys() ^ there.keys())
    differing = _differing_keys(ours, theirs)
    lines: Counter[str] = Counter()
    for name in sorted({*here, *there}):
        if here.get(name) != there.get(name) and name not in named and not (news and name.startswith(news)):
            keys = [key for key in _keys_of(name) if key in differing] or list(_keys_of(name))
            shapes = f"{_plain(there.get(name))} there, {_plain(here.get(name))} here"
            alike = _BLOCK.sub(r"\1.*.", name)
            lines[f"{alike} {shapes} ({', '.join(keys)})"] += 1
    yield from (f"{line}, in {count} blocks" if count > 1 else line for line, count in lines.items())


def _differing_keys(ours: ModelShape, theirs: ModelShape) -> set[str]:
    """Keys of params.yaml that the two shapes differ in."""
    values: list[dict[str, Any]] = [
        {f"model.{key}": value for key, value in dataclasses.asdict(shape.params).items()}
        | {"tokenizer.channels": shape.latent_channels, "text.encoder": shape.text_channels}
        | {"text.max_tokens": shape.max_text_tokens}
        for shape in (ours, theirs)
    ]
    return {key for key in values[0] if values[0][key] != values[1][key]}


def _keys_of(name: str) -> tuple[str, ...]:
    return next((keys for start, keys in _DECIDED_BY.items() if name.startswith(start)), ("model",))


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(list(value)) if isinstance(value, tuple) else str(value)

"""Import a released file as a checkpoint: read, compare with the layout, rename, fold, write.

Source: VideoMAR (arXiv 2506.14168), released code. A block may hold a `scale_shift_table`: six vectors that
shift and scale the inputs of attention and feed-forward, and gate their outputs. Without a time step they are
constants, so they are folded into the layers before and after.

Axes: D hidden size, K head channels, P token channels.
"""

import argparse
import math
import os
import pickle
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from videomar.checkpoint.folder import save
from videomar.checkpoint.manifest import ModelShape
from videomar.checkpoint.released_layout import TABLE, Weights, measure, refuse_problems
from videomar.config import ModelParams
from videomar.errors import CheckpointError
from videomar.files import require_new_folder, sha256_of

_SUFFIXES = (".pth", ".pt", ".safetensors")


def import_released(source: Path, out: Path, patch_size: int = 1, head: str = "auto") -> list[str]:
    """Write the checkpoint `out` from a released file; return a readable summary, line by line.

    One set of weights in the file becomes both `model` and `ema`. Tensors are stored in float32.

    Args:
        source: `.pth`, `.pt` or `.safetensors`.
        out: a new folder.
        patch_size: latent rows and columns in one token.
        head: `ddpm`, `flow`, or `auto` to go by the outputs of the last layer.

    Raises:
        CheckpointError: the file cannot be read or is of another layout.
        DataError: `out` is not empty.
    """
    out = out.resolve()
    require_new_folder(out)
    found = [measure(name, state, head) for name, state in _read_states(source).items()]
    refuse_problems(source, found)
    shape, *others = (_shape(source, weights, patch_size) for weights in found)
    if any(other != shape for other in others):
        raise CheckpointError(f"{source}: model and model_ema differ in size, expected the same; use another")
    tensors = {weights.name: _translated(weights) for weights in found}
    either = next(iter(tensors.values()))
    stems = {"model": tensors.get("model", either), "ema": tensors.get("model_ema", either)}
    origin = {"file": source.name, "sha256": sha256_of(source), "weights": list(tensors)}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".draft-", dir=out.parent) as draft:
        os.replace(save(Path(draft), 0, shape, stems, {"imported": origin}), out)
    count, params = sum(value.numel() for value in either.values()), shape.params
    return [
        f"read {' and '.join(tensors)}: {count:,} parameters; {found[0].count(TABLE)} {TABLE}s folded",
        f"trunk: {params.depth} blocks of width {params.hidden_size} with {params.num_heads} heads",
        f"head: {params.head}, {params.head_depth} blocks of width {params.head_width}",
        f"tokens: {shape.latent_channels} channels of {patch_size}x{patch_size} positions",
        f"captions: {shape.max_text_tokens} tokens of {shape.text_channels} channels",
        f"wrote {out}",
    ]


def _read_states(source: Path) -> dict[str, Mapping[str, Tensor]]:
    """Read the state dicts in a file: `model_ema` and `model`, or a bare one as `model`.

    Raises:
        CheckpointError: the file is missing or damaged, or holds code or other content.
    """
    if not source.is_file() or source.suffix not in _SUFFIXES:
        got = f"got suffix {source.suffix or 'none'}" if source.is_file() else "no such file"
        raise CheckpointError(f"{source}: {got}, expected one with {', '.join(_SUFFIXES)}; check the path")
    try:
        content = _read_file(source)
    # Readers raise errors of many types for damaged files; neither runs code in the file.
    except Exception as error:
        got = "more than tensors" if isinstance(error, pickle.UnpicklingError) else "damage"
        raise CheckpointError(f"{source}: got {got}, expected tensors alone; use another file") from None
    states = {name: content[name] for name in ("model_ema", "model") if name in content} or {"model": content}
    wrapped = [state if isinstance(state, Mapping) else {"the content": state} for state in states.values()]
    items = [item for state in wrapped for item in state.items()]
    strange = [f"{key} ({type(value).__name__})" for key, value in items if not isinstance(value, Tensor)]
    if strange:
        listed = ", ".join(strange[:9]) + ", ..." * (len(strange) > 9)
        rule = "tensors by name, alone or under model and model_ema"
        raise CheckpointError(f"{source}: got {listed}, expected {rule}; use another file")
    return {name: _unwrapped(state) for name, state in states.items()}


def _read_file(source: Path) -> Mapping[str, Any]:
    """Read the content of a file, on the CPU."""
    if source.suffix == ".safetensors":
        return load_file(source)
    # Training scripts store their command line beside the weights; a namespace can only carry values.
    with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about how the file was pickled
        content = torch.load(source, "cpu", weights_only=True, mmap=zipfile.is_zipfile(source))
    return content if isinstance(content, Mapping) else {"the content": content}


def _unwrapped(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Remove the prefix of a data-parallel wrapper from names."""
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def _shape(source: Path, weights: Weights, patch_size: int) -> ModelShape:
    """Return the shape of the network that a complete set of weights fits.

    Raises:
        CheckpointError: no network of ours has such sizes.
    """
    width, head_dim, token_channels = (weights.sizes[letter] for letter in "DKP")
    if head_dim % 8 or width % head_dim:
        rule = "a multiple of 8 that divides the width; use another file"
        raise CheckpointError(f"{source}: got heads of {head_dim} channels, width {width}, expected {rule}")
    if token_channels % patch_size**2:
        rule = f"a multiple of {patch_size}x{patch_size}; choose another --patch-size"
        raise CheckpointError(f"{source}: got tokens of {token_channels} channels, expected {rule}")
    ratio = weights.sizes["F"] / width
    params = ModelParams(
        hidden_size=width,
        depth=weights.count("attn1.wo.weight"),
        num_heads=width // head_dim,
        # The network rounds the product down.
        mlp_ratio=ratio if int(width * ratio) == weights.sizes["F"] else math.nextafter(ratio, math.inf),
        rope_axis_dims=(head_dim // 2, head_dim // 4, head_dim // 4),
        patch_size=patch_size,
        head_width=weights.sizes["W"],
        head_depth=weights.count("in_ln.weight"),
        head="flow" if weights.sizes["O"] == token_channels else "ddpm",
        conditions=(),
        residual=False,
        feed_previous=False,
    )
    return ModelShape(params, token_channels // patch_size**2, weights.sizes["E"], weights.sizes["M"])


def _translated(weights: Weights) -> dict[str, Tensor]:
    """Return tensors under our names, float32, with every table folded."""
    tensors, seen = {}, set()
    for name, (ours, _) in weights.layout.items():
        value = weights.state[name].float()
        # safetensors refuses two names for one piece of memory.
        tensors[ours] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    for name in [name for name in tensors if name.endswith(TABLE)]:
        block, table = name.removesuffix(TABLE), tensors.pop(name).double()
        _fold(tensors, f"{block}norm1", f"{block}attn1.wo", table[:3])
        _fold(tensors, f"{block}norm2", f"{block}ff.2", table[3:])
    return tensors


def _fold(tensors: dict[str, Tensor], norm: str, last: str, table: Tensor) -> None:
    """Fold shift, scale and gate (3, D) into the norm before a layer and into its last linear map.

    gate * f(norm(x) * (1 + scale) + shift), where norm has weight w and bias b and f ends in the matrix A,
    is f' with w' = w (1 + scale), b' = b (1 + scale) + shift, A' = diag(gate) A. Computed in float64.
    """
    shift, scale, gate = table
    tensors[f"{norm}.weight"] = (tensors[f"{norm}.weight"].double() * (1 + scale)).float()
    tensors[f"{norm}.bias"] = (tensors[f"{norm}.bias"].double() * (1 + scale) + shift).float()
    tensors[f"{last}.weight"] = (tensors[f"{last}.weight"].double() * gate[:, None]).float()

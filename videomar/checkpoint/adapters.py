"""Low-rank adapters (LoRA): trained in place of a network's weights, and part of them in every checkpoint.

Source: LoRA (arXiv 2106.09685), by the package peft. Each linear layer W of the trunk's blocks becomes
W x + alpha/rank B A x, where only A and B are trained.

    model.safetensors, ema.safetensors   W + alpha/rank B A under the plain names: what everything else loads
    adapter.safetensors                  A and B of model and average, and W: a resumed run continues with it

A network and its average have one W, so that the average of all weights is the average of A and B alone.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from videomar.checkpoint.tensors import each_tensor
from videomar.config.training import LoraParams
from videomar.errors import CheckpointError, ParamsError

ADAPTER = "adapter"
"""Stem of the file of a checkpoint that holds adapters."""
_LAYERS = r"trunk\.blocks\.\d+\.(attn1\.(wqkv|wo)|attn2\.(wq|wkv|wo)|ff\.[02])"
_INSIDE, _PART = ".base_layer.", ".lora_"
_BASE = "base."


def add_adapters(network: nn.Module, params: LoraParams, generator: torch.Generator) -> None:
    """Give the linear layers of the trunk's blocks adapters, in place; only these are trained from then on.

    A is drawn as peft does, but from `generator`; B is zero, so the network's output stays as it was.

    Raises:
        ParamsError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model  # here: takes seconds, and few runs need it
    except ImportError as error:
        raise ParamsError(
            f"train.lora: got adapters, but no package peft ({error}), expected it; install peft, or set null"
        ) from None
    config = LoraConfig(
        r=params.rank, lora_alpha=params.alpha, target_modules=_LAYERS, lora_dropout=0.0, bias="none"
    )
    inject_adapter_in_model(config, network)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if ".lora_A." in name:
                nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
            weight.requires_grad_(_PART in name)


def plain_name(name: str) -> str:
    """Return the name of a weight in the same network without adapters."""
    return name.replace(_INSIDE, ".")


def own_weights(network: nn.Module) -> dict[str, Tensor]:
    """Return all tensors of a network but its adapters, by their plain names; shared with the network."""
    return {plain_name(name): value for name, value in network.state_dict().items() if _PART not in name}


def merged_weights(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of the plain network with the same outputs, up to rounding."""
    merged = own_weights(network)
    for name, layer in network.named_modules():
        if hasattr(layer, "lora_A"):
            change = cast("Any", layer).get_delta_weight("default").detach()
            merged[f"{name}.weight"] = merged[f"{name}.weight"] + change
    return merged


def adapter_tensors(model: nn.Module, ema: nn.Module) -> dict[str, Tensor]:
    """Return what a run with adapters continues from, besides what `merged_weights` has unchanged."""
    tensors = {
        f"{stem}.{name}": value
        for stem, network in (("model", model), ("ema", ema))
        for name, value in network.state_dict().items()
        if _PART in name
    }
    base = {_BASE + plain_name(n): value for n, value in model.state_dict().items() if _INSIDE in n}
    return tensors | base


def adapted_tensors(checkpoint: Path, stem: str) -> Iterator[tuple[str, Tensor]]:
    """Yield names and tensors of a network with adapters, `model` or `ema`, from a run's checkpoint.

    Raises:
        CheckpointError: the checkpoint has no adapters.
    """
    path = checkpoint / f"{ADAPTER}.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file, expected the adapters of train.lora; use another")
    under = set()
    for name, value in each_tensor(path):
        if name.startswith(_BASE):
            plain = name.removeprefix(_BASE)
            under.add(plain)
            yield f"{plain.removesuffix('.weight')}{_INSIDE}weight", value
        elif name.startswith(f"{stem}."):
            yield name.removeprefix(f"{stem}."), value
    for name, value in each_tensor(checkpoint / f"{stem}.safetensors"):
        if name not in under:
            yield name, value


def inner_names(network: nn.Module, tensors: Iterable[tuple[str, Tensor]]) -> Mapping[str, Tensor]:
    """Return plainly named tensors by the names that the network with adapters has for them."""
    inner = {plain_name(name): name for name in network.state_dict() if _PART not in name}
    return {inner[name]: value for name, value in tensors}

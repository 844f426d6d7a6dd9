"""The released state dict: names of its tensors, our names for them, and their required shapes.

Source: the code released with VideoMAR (arXiv 2506.14168); names inside a block are inferred from the public
block that it derives from.

Axes: D hidden size, K head channels, F feed-forward width, P token channels, M caption tokens, E caption
channels, W head width, O head outputs; N is the number of a block.
"""

import re
import string
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from videomar.errors import CheckpointError

# Released layer to our layer, shape of its weight, shape of its bias if it has one.
_LAYERS = {
    "z_proj": ("trunk.z_proj", "D P", "D"),
    "context_embed": ("trunk.context_embed", "D E", "D"),
    "decoder_blocks.N.norm1": ("trunk.blocks.N.norm1", "D", "D"),
    "decoder_blocks.N.attn1.wqkv": ("trunk.blocks.N.attn1.wqkv", "3D D", ""),
    "decoder_blocks.N.attn1.wo": ("trunk.blocks.N.attn1.wo", "D D", ""),
    "decoder_blocks.N.attn1.q_norm": ("trunk.blocks.N.attn1.q_norm", "K", ""),
    "decoder_blocks.N.attn1.k_norm": ("trunk.blocks.N.attn1.k_norm", "K", ""),
    "decoder_blocks.N.attn2.wq": ("trunk.blocks.N.attn2.wq", "D D", ""),
    "decoder_blocks.N.attn2.wkv": ("trunk.blocks.N.attn2.wkv", "2D D", ""),
    "decoder_blocks.N.attn2.wo": ("trunk.blocks.N.attn2.wo", "D D", ""),
    "decoder_blocks.N.attn2.q_norm": ("trunk.blocks.N.attn2.q_norm", "K", ""),
    "decoder_blocks.N.attn2.k_norm": ("trunk.blocks.N.attn2.k_norm", "K", ""),
    "decoder_blocks.N.norm2": ("trunk.blocks.N.norm2", "D", "D"),
    "decoder_blocks.N.ff.net.0.proj": ("trunk.blocks.N.ff.0", "F D", ""),
    "decoder_blocks.N.ff.net.2": ("trunk.blocks.N.ff.2", "D F", ""),
    "decoder_norm": ("trunk.norm", "D", "D"),
    "diffloss.net.input_proj": ("head.net.input_proj", "W P", "W"),
    "diffloss.net.cond_embed": ("head.net.cond_embed", "W D", "W"),
    "diffloss.net.time_embed.mlp.0": ("head.net.time_embed.0", "W 256", "W"),
    "diffloss.net.time_embed.mlp.2": ("head.net.time_embed.2", "W W", "W"),
    "diffloss.net.res_blocks.N.in_ln": ("head.net.blocks.N.in_ln", "W", "W"),
    "diffloss.net.res_blocks.N.mlp.0": ("head.net.blocks.N.mlp.0", "W W", "W"),
    "diffloss.net.res_blocks.N.mlp.2": ("head.net.blocks.N.mlp.2", "W W", "W"),
    "diffloss.net.res_blocks.N.adaLN_modulation.1": ("head.net.blocks.N.modulation.1", "3W W", "3W"),
    "diffloss.net.final_layer.adaLN_modulation.1": ("head.net.final_modulation.1", "2W W", "2W"),
    "diffloss.net.final_layer.linear": ("head.net.final", "O W", "O"),
}
# Shift, scale and gate of attention, then of the feed-forward; the only tensor that may be absent.
TABLE = "scale_shift_table"
_LAYOUT = {
    **{f"{layer}.weight": (f"{ours}.weight", shape) for layer, (ours, shape, _) in _LAYERS.items()},
    **{f"{layer}.bias": (f"{ours}.bias", shape) for layer, (ours, _, shape) in _LAYERS.items() if shape},
    "mask_token": ("trunk.mask_token", "1 1 D"),
    "fake_latent": ("trunk.null_text", "1 M D"),
    f"decoder_blocks.N.{TABLE}": (f"trunk.blocks.N.{TABLE}", "6 D"),
}


class Weights(NamedTuple):
    """A state dict, and the names and shapes that it should have."""

    name: str
    state: Mapping[str, Tensor]
    layout: Mapping[str, tuple[str, str]]
    """Released name to our name and the shape, in letters, of every tensor that should exist."""
    sizes: Mapping[str, int]
    """Sizes of the letters; one that no tensor shows is absent."""

    def count(self, ending: str) -> int:
        """Count the tensors that should exist under a name with this ending."""
        return sum(name.endswith(ending) for name in self.layout)


def measure(name: str, state: Mapping[str, Tensor], head: str) -> Weights:
    """Count the blocks of a state dict, and find the sizes that most of its tensors agree on.

    Args:
        name: of the state dict, for messages.
        state: released names to tensors.
        head: `flow`, `ddpm`, or `auto` to go by the outputs of the last layer.
    """
    layout: dict[str, tuple[str, str]] = {}
    for released, (ours, shape) in _LAYOUT.items():
        for number in range(_num_blocks(state, released.partition("N.")[0]) if ".N." in released else 1):
            place = released.replace(".N.", f".{number}.")
            if place in state or not place.endswith(TABLE):
                layout[place] = (ours.replace(".N.", f".{number}."), shape)
    votes: dict[str, Counter[int]] = defaultdict(Counter)
    for place, (_, shape) in layout.items():
        dims = _dims(shape)
        if place in state and state[place].ndim == len(dims):
            for (factor, letter), size in zip(dims, state[place].shape, strict=True):
                votes[letter][size // factor] += 1
    # With equal votes the first size in the layout wins.
    sizes = {letter: counter.most_common(1)[0][0] for letter, counter in votes.items()}
    if {"O", "P"} <= sizes.keys():
        flow = sizes["O"] == sizes["P"] if head == "auto" else head == "flow"
        sizes["O"] = sizes["P"] * (1 if flow else 2)
    return Weights(name, state, layout, sizes)


def refuse_problems(source: Path, found: Sequence[Weights]) -> None:
    """Compare state dicts of a file with the layout.

    Raises:
        CheckpointError: some are missing, unknown, ill-shaped or not finite; all are named, with shapes.
    """
    problems = defaultdict(list)
    for weights in found:
        label = f"{weights.name}: " if len(found) > 1 else ""
        for name, (_, shape) in weights.layout.items():
            if name not in weights.state:
                problems["missing"].append(f"{label}{name} {_shape_text(shape, weights.sizes)}")
        for name, value in weights.state.items():
            got, expected = (
                _text(value.shape),
                _shape_text(weights.layout.get(name, ("", ""))[1], weights.sizes),
            )
            if name not in weights.layout:
                problems["unknown"].append(f"{label}{name} {got}")
            elif got != expected:
                problems["ill-shaped"].append(f"{label}{name} {got} instead of {expected}")
            elif value.layout != torch.strided or not value.is_floating_point():
                problems["not dense floats"].append(f"{label}{name} {value.dtype}")
            elif not value.float().isfinite().all():
                problems["not finite"].append(f"{label}{name} {got}")
    if problems:
        listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in problems.items())
        rule = "the tensors of the released VideoMAR; use another file, or another --head"
        raise CheckpointError(f"{source}: got other tensors: {listed}; expected {rule}")


def _num_blocks(state: Iterable[str], prefix: str) -> int:
    """Number of blocks below a prefix, by the highest number in a known name; at least 1."""
    places = [re.fullmatch(rf"{re.escape(prefix)}(0|[1-9]\d{{0,2}})\.(.+)", name) for name in state]
    return 1 + max((int(at[1]) for at in places if at and f"{prefix}N.{at[2]}" in _LAYOUT), default=0)


def _dims(shape: str) -> list[tuple[int, str]]:
    """`3D P` -> [(3, "D"), (1, "P")]; a bare number has no letter."""
    return [(int(dim.strip(string.ascii_uppercase) or 1), dim.strip(string.digits)) for dim in shape.split()]


def _shape_text(shape: str, sizes: Mapping[str, int]) -> str:
    """`3D P` as numbers, as far as they are known."""
    known = {"": 1, **sizes}
    dims = zip(shape.split(), _dims(shape), strict=True)
    return _text(factor * known[letter] if letter in known else dim for dim, (factor, letter) in dims)


def _text(dims: Iterable[object]) -> str:
    return f"({', '.join(map(str, dims))})"

"""Safetensors files, written and read one tensor at a time: no process needs to hold all of them.

`safetensors.torch.save_file` takes all tensors at once, and those of a sharded model are never all in one
place. The bytes are the same.

    8 bytes: length of the header | header: JSON of dtype, shape, offsets by name | tensors, in order of the
    header

Source: the safetensors format, https://huggingface.co/docs/safetensors.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 8


class Later(NamedTuple):
    """A tensor that is created only when it is written."""

    shape: torch.Size
    dtype: torch.dtype
    make: Callable[[], Tensor]


def in_order(tensors: Mapping[str, Tensor | Later]) -> list[str]:
    """Return names in the order of the file: wide elements first, so that all are aligned."""
    return sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))


def save_file(tensors: Mapping[str, Tensor | Later], path: Path) -> None:
    """Write named tensors; create each `Later` in the order of `in_order`, and keep none."""
    header: dict[str, object] = {}
    end = 0
    for name in in_order(tensors):
        value = tensors[name]
        begin, end = end, end + value.shape.numel() * value.dtype.itemsize
        header[name] = {
            "dtype": _NAMES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in in_order(tensors):
            value = tensors[name]
            tensor = value.make() if isinstance(value, Later) else value
            file.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def each_tensor(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield names and tensors of a file, one at a time."""
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118  (no mapping)
            yield name, file.get_tensor(name)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of AdamW as tensors named `NUMBER.NAME`, by the number of the parameter."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": value for number, entry in state.items() for name, value in entry.items()}


def optimizer_state(tensors: Iterable[tuple[str, Tensor]]) -> dict[int, dict[str, Tensor]]:
    """Return the state, as in `Optimizer.state_dict`, of tensors named as by `optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors:
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = value
    return state

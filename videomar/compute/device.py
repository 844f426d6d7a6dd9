"""The device that a stage computes on, and the number format of its matrix products there."""

import contextlib

import torch

from videomar.errors import ParamsError


def choose_device(wanted: str, where: str = "device") -> torch.device:
    """Return the device that a process computes on: for `auto` a GPU if this machine has one.

    Args:
        wanted: `auto`, `cpu` or `cuda`, see `config.section.DEVICES`.
        where: the key or option that names it, for the message.

    Raises:
        ParamsError: `cuda` is wanted, and PyTorch finds no GPU here.
    """
    found = torch.cuda.is_available()
    if wanted == "cuda" and not found:
        remedy = "set it to auto or cpu"
        if not torch.version.cuda:
            remedy += "; this PyTorch was built without CUDA, see docs/guide/installation.md"
        raise ParamsError(f"{where}: got cuda, expected a GPU that PyTorch can use; {remedy}")
    return torch.device("cuda" if found and wanted != "cpu" else "cpu")


def device_kind(device: torch.device) -> str:
    """Name of the GPU, or `cpu`: results of two kinds differ by rounding, by more where noise is drawn."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def has_bfloat16(device: torch.device) -> bool:
    """Whether it is a GPU whose hardware multiplies in bfloat16."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def autocast(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Compute matrix products in bfloat16 where the hardware has it; weights and results stay as they are."""
    return torch.autocast(device.type, torch.bfloat16) if has_bfloat16(device) else contextlib.nullcontext()


def send(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy values of the CPU to a device; to a GPU from pinned memory, so that nobody waits for the copy."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)

"""The device that a stage computes on, and the number format of its matrix products there.

On a GPU three formats are used, and only this module decides where they are allowed:

    bfloat16   8 bits of mantissa   products under `autocast`: training with `train.precision: bfloat16`,
                                    generation; text encoders that were published in it
    TF32      11 bits of mantissa   all other products and convolutions of float32, once `choose_device` has
                                    chosen a GPU: up to eight times the rate of float32
    float32   24 bits of mantissa   all that is no product (sums, norms, noise, weights, moving averages), and
                                    products under `full_float32`
"""

import contextlib
import os
from collections.abc import Callable, Iterator

import torch
import torch.utils.deterministic

from videomar.errors import ParamsError

# For `repeat_exactly`: PyTorch reads it at the first product of a process, which may come before.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def choose_device(wanted: str, where: str = "device") -> torch.device:
    """Return the device that a process computes on: for `auto` a GPU if this machine has one.

    From then on a GPU multiplies float32 in TF32.

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
    if not found or wanted == "cpu":
        return torch.device("cpu")
    _use_tf32(True)
    return torch.device("cuda")


def _use_tf32(allowed: bool) -> None:
    # The older of PyTorch's two ways to say it: once the newer one is used, torch.compile refuses to read.
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def repeat_exactly(device: torch.device) -> None:
    """Compute the same bits from the same numbers on a GPU, in this process from now on.

    A run that was stopped can then end with the bits of one that was not, on the same kind of GPU and with
    the same libraries. Sums whose order depends on timing (gradients of attention's keys, `index_add_`) take
    kernels with one order; an operation that has none raises. Like `choose_device` this allows TF32.

    Source: PyTorch's notes on reproducibility. With `warn_only`, attention would keep its other kernel.
    """
    if device.type == "cuda":
        _use_tf32(True)
        # A check for bugs, at every allocation; the module hides its attributes from mypy.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(True)


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Compute products in all 24 bits of float32: for what compares two ways to compute the same."""
    before = torch.backends.cuda.matmul.allow_tf32
    _use_tf32(False)
    try:
        yield
    finally:
        _use_tf32(before)


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


def fetch(values: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Start to copy values to the CPU and return a function that waits for them: until then, work goes on."""
    if values.device.type != "cuda":
        return values.cpu
    copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    copy.copy_(values, non_blocking=True)
    done = torch.cuda.Event()
    done.record()

    def wait() -> torch.Tensor:
        done.synchronize()
        return copy

    return wait

"""A GPU that is not there: tensors of device `cuda` on a build of PyTorch without CUDA.

Code under test runs as on a GPU machine: `torch.cuda.is_available()` holds, tensors move to `cuda`, losses
run backward. What a GPU would refuse is refused: tensors of two devices in one operation, a generator of the
other device. What makes the host wait for the device is counted, and answered so that the code goes on.

How: a `CudaTensor` says `cuda` to Python and is a `meta` tensor to PyTorch's native code, so autograd, views
and factories work without a CUDA library. Beneath it is a tensor on the CPU, which gives real values (bits
of the CPU's kernels), or one without storage, which makes a network of any size cost nothing.

Not covered: what only kernels know (alignment, sizes that a kernel refuses), the order of streams.
"""

import contextlib
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from videomar.model import ddpm

aten = torch.ops.aten
NAME = "a GPU that is not there"
CUDA, META = torch.device("cuda", 0), torch.device("meta")
_Generator = torch.Generator
# Operations that read a size or a value from the device, by the reason that is counted.
_READS = {
    aten._local_scalar_dense: "item",
    aten.equal: "equal",
    aten.nonzero: "nonzero",
    aten.masked_select: "boolean indexing",
    aten._unique2: "unique",
    aten.unique_dim: "unique",
    aten.unique_consecutive: "unique",
    aten.bincount: "bincount",
    aten.repeat_interleave: "repeat_interleave",
    aten.allclose: "equal",
}
_INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
_COPIES = {aten._to_copy, aten.copy_, aten.copy}
# No kernel is started for these, nor for views.
_FREE = {
    aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten.detach,
    aten._local_scalar_dense, aten.record_stream, aten.lift_fresh,
}  # fmt: skip
_IN_BFLOAT16 = {
    F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose2d, F.conv_transpose3d, torch.conv3d, torch.mm,
    torch.bmm, torch.matmul, torch.addmm, torch.baddbmm, torch.einsum, F.scaled_dot_product_attention,
    Tensor.matmul, Tensor.__matmul__, Tensor.mm, Tensor.bmm,
}  # fmt: skip
_IN_FLOAT32 = {
    F.layer_norm, F.group_norm, F.softmax, F.log_softmax, F.mse_loss, F.l1_loss, F.cosine_similarity,
    torch.exp, torch.log, torch.pow, torch.rsqrt, torch.sum, torch.prod, torch.cumsum, torch.cumprod,
    torch.norm, torch.softmax, Tensor.exp, Tensor.log, Tensor.pow, Tensor.rsqrt, Tensor.sum, Tensor.prod,
    Tensor.cumsum, Tensor.cumprod, Tensor.norm, Tensor.softmax, Tensor.__pow__,
}  # fmt: skip


class DeviceMixError(RuntimeError):
    """A GPU would refuse this operation: its tensors, or its generator, are of another device."""


class CudaTensor(torch.Tensor):
    """A tensor that says it is on the GPU. Remembers the tensor beneath it."""

    elem: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl
    device = CUDA
    is_cuda, is_cpu, is_meta = True, False, False

    @staticmethod
    def __new__(cls, elem: Tensor) -> "CudaTensor":
        made = torch.Tensor._make_wrapper_subclass(
            cls, elem.shape, strides=elem.stride(), storage_offset=elem.storage_offset(), dtype=elem.dtype,
            device=META,
        )  # fmt: skip
        made.elem = elem
        return made

    def __repr__(self, **_: Any) -> str:
        return f"CudaTensor({tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "CudaTensor":
        made = self.detach().clone().requires_grad_(self.requires_grad)
        made._is_param = getattr(self, "_is_param", False)  # what makes a parameter of it
        memo[id(self)] = made
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any, **__: Any) -> Any:
        raise RuntimeError(f"{func}: got a tensor of a fake GPU, expected `with FakeCuda()` around its use")


class CudaGenerator(_Generator):
    """A random generator of device `cuda`; the CPU's beneath."""

    device = CUDA

    def clone_state(self) -> "CudaGenerator":
        made = CudaGenerator()
        made.set_state(self.get_state())
        return made


class _AnyGenerator(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, _Generator)

    def __call__(cls, device: Any = "cpu") -> _Generator:
        return CudaGenerator() if torch.device(device).type == "cuda" else _Generator(device)


class _GeneratorClass(metaclass=_AnyGenerator):
    """Stands for `torch.Generator`."""


class FakeCuda:
    """Context in which there is a GPU.

    Args:
        values: compute on the CPU beneath; else tensors of the GPU have shapes alone, and what is read from
            them is 0, False, or the first half of the positions.
    """

    def __init__(self, values: bool = True) -> None:
        self.beneath = torch.device("cpu") if values else META
        self.waits: Counter[str] = Counter()
        """What made the host wait for the device, and how often."""
        self.places: Counter[str] = Counter()
        """The same by lines of code."""
        self.launches: Counter[str] = Counter()
        """Kernels started on the device."""
        self.sync_debug = "default"
        self.graph: _Graph | None = None
        """The graph that is recorded now."""
        self._stack = contextlib.ExitStack()

    def clear(self) -> None:
        """Count from zero again."""
        self.waits.clear()
        self.places.clear()
        self.launches.clear()

    def __enter__(self) -> "FakeCuda":
        from torch.utils import _foreach_utils

        patch = mock.patch.object
        _forget_tensors()
        event, stream, graph, recording = _classes(self)
        for target, name, value in (
            (torch, "Generator", _GeneratorClass),
            # Not by a mode, which a thread that reads ahead would not have.
            (torch.Tensor, "pin_memory", _pin),
            (torch.Tensor, "is_pinned", _is_pinned),
            (torch.cuda, "is_available", lambda: True),
            (torch.cuda, "is_bf16_supported", lambda including_emulation=True: True),
            (torch.cuda, "device_count", lambda: 1),
            (torch.cuda, "get_device_name", lambda device=None: NAME),
            (torch.cuda, "current_device", lambda: 0),
            (torch.cuda, "get_device_capability", lambda device=None: (9, 0)),
            (torch.cuda, "set_sync_debug_mode", lambda mode: setattr(self, "sync_debug", mode)),
            (torch.cuda, "synchronize", lambda device=None: self.wait("synchronize")),
            (torch.cuda, "max_memory_allocated", lambda device=None: 0),
            (torch.cuda, "Event", event),
            (torch.cuda, "Stream", stream),
            (torch.cuda, "current_stream", lambda device=None: stream()),
            (torch.cuda, "stream", lambda stream: contextlib.nullcontext()),
            # A build of PyTorch for CUDA would look for a driver.
            (torch.accelerator, "current_accelerator", lambda check_available=False: CUDA),
            (torch.accelerator, "current_stream", lambda device=None: stream()),
            (torch.cuda, "device", contextlib.nullcontext),
            (torch.cuda, "CUDAGraph", graph),
            (torch.cuda, "graph", recording),
        ):
            self._stack.enter_context(patch(target, name, value))
        kinds = [*_foreach_utils._foreach_supported_types, CudaTensor]
        self._stack.enter_context(patch(_foreach_utils, "_foreach_supported_types", kinds))
        self._stack.enter_context(_Dispatch(self))
        functions = self._stack.enter_context(_Functions(self))
        # Blocks that are computed again during the backward pass need the mode, too, and PyTorch calls
        # `backward` without it.
        run = torch.autograd._engine_run_backward

        def run_backward(*args: Any, **kwargs: Any) -> Any:
            with functions:
                return run(*args, **kwargs)

        self._stack.enter_context(patch(torch.autograd, "_engine_run_backward", run_backward))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        _forget_tensors()

    def wait(self, reason: str) -> None:
        """Count one wait, and where our code caused it."""
        if self.graph:
            raise RuntimeError("operation not permitted when stream is capturing")
        if self.sync_debug == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        self.waits[reason] += 1
        frame = sys._getframe(1)
        while frame.f_back and (frame.f_code.co_filename == __file__ or "torch" in frame.f_code.co_filename):
            frame = frame.f_back
        path = Path(frame.f_code.co_filename)
        self.places[f"{reason}: {path.parent.name}/{path.name}:{frame.f_lineno}"] += 1


def _classes(cuda: FakeCuda) -> tuple[type, ...]:
    """Classes of `torch.cuda`: events and streams, whose work is done at once and in order; graphs."""

    class Event:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def record(self, *_: Any) -> None: ...

        def wait(self, *_: Any) -> None: ...

        def query(self) -> bool:
            return True

        def elapsed_time(self, other: Any) -> float:
            return 1.0

        def synchronize(self) -> None:
            cuda.wait("synchronize")

    class Stream:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def wait_stream(self, *_: Any) -> None: ...

        def wait_event(self, *_: Any) -> None: ...

        def record_event(self, *_: Any) -> Event:
            return Event()

        def synchronize(self) -> None:
            cuda.wait("synchronize")

        def is_capturing(self) -> bool:
            return cuda.graph is not None

    class Graph(_Graph):
        def __init__(self) -> None:
            super().__init__(cuda)

    class Recording:
        def __new__(cls, graph: _Graph, **_: Any) -> Any:
            return graph

    return Event, Stream, Graph, Recording


def _forget_tensors() -> None:
    """Empty the caches that hold tensors by device: those of a fake GPU must not reach a real one."""
    ddpm.respaced.cache_clear()


class _Graph:
    """A CUDA graph: while it records, nothing is computed; `replay` computes into the same memory."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.kernels: list[Callable[[], None]] = []
        self.made: list[Tensor] = []

    def __enter__(self) -> None:
        self.cuda.graph = self

    def __exit__(self, *error: object) -> None:
        self.cuda.graph = None
        for tensor in self.made:
            if tensor.is_floating_point() and tensor.device.type == "cpu":
                tensor.fill_(torch.nan)

    def add(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        if func._schema.is_mutable:
            self.kernels.append(lambda: func(*args, **kwargs))
        elif not _is_view(func):
            self.made += _tensors(result)
            self.kernels.append(lambda: _copy_each(result, func(*args, **kwargs)))

    def replay(self) -> None:
        self.cuda.launches["graph"] += 1
        if self.cuda.beneath.type == "cpu":
            with torch._C._DisableTorchDispatch(), torch.no_grad():
                for kernel in self.kernels:
                    kernel()


def _copy_each(old: Any, new: Any) -> None:
    for to, value in zip(_tensors(old), _tensors(new), strict=True):
        to.copy_(value)


class _Functions(TorchFunctionMode):
    """What must be replaced above autograd: devices in arguments, pinned memory, autocast, attention."""

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__()
        self.cuda = cuda

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.device, Tensor.__deepcopy__):
            return func(*args, **kwargs)
        args, kwargs = _both(_to_native, args, kwargs)
        if isinstance(kwargs.get("device"), str):
            kwargs["device"] = _to_native(torch.device(kwargs["device"]))
        if kwargs.get("generator") is not None:
            _check_generator(func, args, kwargs)
        if kwargs.pop("pin_memory", False):
            return _pin(func(*args, **kwargs))
        if func in _REPLACED:
            return _REPLACED[func](self.cuda, func, *args, **kwargs)
        if func is F.scaled_dot_product_attention and isinstance(args[0], CudaTensor):
            return _attention(self.cuda, *_autocast(func, args, {})[0], **kwargs)
        if torch.is_autocast_enabled("cuda") and (func in _IN_BFLOAT16 or func in _IN_FLOAT32):
            args, kwargs = _autocast(func, args, kwargs)
        return func(*args, **kwargs)


def _to_native(value: Any) -> Any:
    return META if isinstance(value, torch.device) and value.type == "cuda" else value


def _move(cuda: FakeCuda, func: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`Tensor.to` and `Tensor.cuda`."""
    if func is Tensor.cuda:
        return tensor.to(META, *args[1:], **kwargs)
    if args and isinstance(args[0], str):
        args = (_to_native(torch.device(args[0])), *args[1:])
    return func(tensor, *args, **kwargs)


def _create(cuda: FakeCuda, func: Any, data: Any, *args: Any, **kwargs: Any) -> Tensor:
    """`torch.tensor` and `torch.as_tensor`: made on the host, and copied."""
    device = kwargs.pop("device", None)
    grad = kwargs.pop("requires_grad", False)
    made = data if isinstance(data, CudaTensor) else func(data, *args, **kwargs)
    made = made if device is None else made.to(device)
    return made.requires_grad_() if grad else made


def _pin(tensor: Tensor, *_: Any) -> Tensor:
    made = tensor.clone()
    made._pinned = True
    return made


def _is_pinned(tensor: Tensor, *_: Any) -> bool:
    return bool(getattr(tensor, "_pinned", False))


def _to_list(cuda: FakeCuda, func: Any, tensor: Tensor) -> Any:
    return func(tensor.cpu() if isinstance(tensor, CudaTensor) else tensor)


def _to_numpy(cuda: FakeCuda, func: Any, tensor: Tensor, **kwargs: Any) -> Any:
    if isinstance(tensor, CudaTensor):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it")
    return func(tensor, **kwargs)


_REPLACED: dict[Any, Callable[..., Any]] = {
    Tensor.to: _move, Tensor.cuda: _move, torch.tensor: _create, torch.as_tensor: _create,
    Tensor.tolist: _to_list, Tensor.numpy: _to_numpy,
}  # fmt: skip


def _autocast(func: Any, args: Any, kwargs: Any) -> Any:
    """Cast the arguments as PyTorch's lists for CUDA say."""
    if not torch.is_autocast_enabled("cuda"):
        return args, kwargs
    dtype = torch.get_autocast_dtype("cuda") if func in _IN_BFLOAT16 else torch.float32

    def cast(value: Any) -> Any:
        if not isinstance(value, CudaTensor) or value.dtype == dtype or not value.is_floating_point():
            return value
        return value if value.dtype == torch.float64 else value.to(dtype)

    return _both(cast, args, kwargs)


def _attention(
    cuda: FakeCuda, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **options: Any
) -> Tensor:
    """Attention by the memory-efficient kernel, which keeps no scores; with values by plain products."""
    if cuda.beneath.type == "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask, **options)
    bias = attn_mask
    if bias is not None and bias.dtype == torch.bool:
        bias = torch.zeros_like(bias, dtype=q.dtype).masked_fill_(~bias, -torch.inf)
    if bias is not None:
        bias = bias.expand(*q.shape[:-1], k.shape[2])
    grad = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    causal = options.get("is_causal", False)
    return aten._scaled_dot_product_efficient_attention(q, k, v, bias, grad, 0.0, causal)[0]


class _Dispatch(TorchDispatchMode):
    """What happens below autograd: checks of devices, counts, and the operation itself on what is beneath."""

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__()
        self.cuda = cuda
        self._known: dict[Any, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = _tensors((args, kwargs))
        packet = func.overloadpacket
        target = kwargs.get("device")
        on_cuda = any(isinstance(x, CudaTensor) for x in tensors) or (target is not None and target == META)
        if not on_cuda:
            return func(*args, **kwargs)
        self._check_devices(func, packet, tensors)
        if packet is aten.record_stream:
            return None
        self._count(func, packet, args, kwargs)
        if self.cuda.beneath is META and packet in _ANSWERS and kwargs.get("output_size") is None:
            return _each(_wrapped, _ANSWERS[packet](func, *_each(_elem, args)))
        return self._run(func, packet, args, kwargs)

    def _run(self, func: Any, packet: Any, args: Any, kwargs: Any) -> Any:
        """Run the operation beneath; results are on the GPU, but for copies to the host."""
        to_host = packet in _COPIES and _goes_to_host(packet, args, kwargs)
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu") if to_host else self.cuda.beneath
        kwargs.pop("pin_memory", None)
        if self.cuda.beneath is META:
            if "generator" in kwargs:
                kwargs["generator"] = None
            if to_host:
                return _zeros_on_host(packet, args, kwargs)
        beneath = _elem if self.cuda.beneath.type == "cpu" else _shape
        args_, kwargs_ = _both(beneath, args, kwargs)
        known = beneath is _shape and not _is_view(func) and not func._schema.is_mutable
        result = self._shapes(func, args_, kwargs_) if known else func(*args_, **kwargs_)
        if self.cuda.graph:
            self.cuda.graph.add(func, args_, kwargs_, result)
        if func._schema.is_mutable:
            return args[0] if to_host else _same(func, args, kwargs, result)
        return result if to_host else _each(_wrapped, result)

    def _shapes(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Results without storage; PyTorch takes a millisecond to find their shapes, so they are kept."""
        key = (func, _key(args), tuple((name, _key(value)) for name, value in kwargs.items()))
        try:
            found = self._known.get(key)
        except TypeError:  # an argument that cannot be a key
            return func(*args, **kwargs)
        if found is None:
            found = self._known[key] = func(*args, **kwargs)
        return _each(_like, found)

    def _check_devices(self, func: Any, packet: Any, tensors: list[Tensor]) -> None:
        if packet in _COPIES:
            return
        here = [x for x in tensors if not isinstance(x, CudaTensor)]
        # A single number of the host goes to the kernel as an argument; indices are copied, which counts.
        if any(x.ndim for x in here) and packet not in _INDEXING:
            shapes = ", ".join(str(tuple(x.shape)) for x in here)
            raise DeviceMixError(f"{func}: got tensors on cuda:0 and cpu ({shapes}), expected one device")

    def _count(self, func: Any, packet: Any, args: Any, kwargs: Any) -> None:
        reason = _READS.get(packet)
        if packet in _INDEXING and _reason_of_index(packet, args):
            reason = _reason_of_index(packet, args)
        elif packet in _COPIES:
            reason = _reason_of_copy(packet, args, kwargs)
        elif kwargs.get("output_size") is not None:
            reason = None
        elif packet in (aten.where, aten.index_put, aten.index_put_) and _has_number_of_host(args):
            reason = "copy from pageable memory"
        if reason:
            self.cuda.wait(reason)
        if packet not in _FREE and not _is_view(func) and not self.cuda.graph:
            self.cuda.launches[packet.__name__] += 1


def _tensors(values: Any) -> list[Tensor]:
    """All tensors in nested sequences and mappings."""
    if isinstance(values, Tensor):
        return [values]
    inner = (
        values.values() if isinstance(values, dict) else values if isinstance(values, (tuple, list)) else ()
    )
    return [tensor for value in inner for tensor in _tensors(value)]


def _each(change: Callable[[Any], Any], values: Any) -> Any:
    """Apply to every value in nested sequences, which stay lists and tuples: as indices they differ."""
    if type(values) in (tuple, list):
        return type(values)(_each(change, value) for value in values)
    return change(values)


def _both(change: Callable[[Any], Any], args: Any, kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """Apply to all arguments of a call."""
    return _each(change, args), {name: _each(change, value) for name, value in kwargs.items()}


def _elem(value: Any) -> Any:
    return value.elem if isinstance(value, CudaTensor) else value


def _shape(value: Any) -> Any:
    """The tensor beneath; numbers of the host lose their values, too."""
    return (
        value.elem
        if isinstance(value, CudaTensor)
        else value.to(META)
        if isinstance(value, Tensor)
        else value
    )


def _like(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=META)


def _key(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    return tuple(map(_key, value)) if type(value) in (tuple, list) else (type(value), value)


def _wrapped(value: Any) -> Any:
    return CudaTensor(value) if isinstance(value, Tensor) else value


def _check_generator(func: Any, args: Any, kwargs: Any) -> None:
    generator, filled = kwargs["generator"], kwargs.get("tensor", args[0] if args else None)
    # The device named, or that of the tensor which is filled.
    cuda = kwargs.get("device", META if isinstance(filled, CudaTensor) else None) == META
    if isinstance(generator, CudaGenerator) != cuda:
        got, expected = generator.device.type, "cuda" if cuda else "cpu"
        raise DeviceMixError(f"{func}: got a generator of {got}, expected one of {expected}")


def _goes_to_host(packet: Any, args: Any, kwargs: Any) -> bool:
    if packet is aten._to_copy:
        device = kwargs.get("device")
        return device is not None and device.type == "cpu"
    return not isinstance(args[0], CudaTensor)


def _reason_of_copy(packet: Any, args: Any, kwargs: Any) -> str | None:
    source = args[0] if packet is aten._to_copy else args[1]
    non_blocking = kwargs.get("non_blocking") or (packet is not aten._to_copy and len(args) > 2 and args[2])
    if _goes_to_host(packet, args, kwargs):
        return None if non_blocking else "copy to the host"
    if isinstance(source, CudaTensor) or (packet is not aten._to_copy and not source.ndim):
        return None
    return None if non_blocking and getattr(source, "_pinned", False) else "copy from pageable memory"


def _reason_of_index(packet: Any, args: Any) -> str | None:
    indices = [index for index in args[1] if index is not None]
    masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
    if any(not isinstance(index, CudaTensor) for index in indices):
        return "index on the host"
    # PyTorch fills by mask then, without asking where it is true.
    fills = packet is aten.index_put_ and len(indices) == len(masks) == 1 and args[2].numel() == 1
    return "boolean indexing" if masks and not fills else None


def _has_number_of_host(args: Any) -> bool:
    """Whether a kernel that takes no number gets one: PyTorch copies it first."""
    return any(not isinstance(x, CudaTensor) and not x.ndim for x in _tensors(args))


def _is_view(func: Any) -> bool:
    returns = func._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def _same(func: Any, args: Any, kwargs: Any, results: Any) -> Any:
    """Return the arguments that an operation in place wrote to, where its results stand for them."""
    if not func._schema.returns:
        return None
    given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    by_alias = {
        min(a.alias_info.before_set): given[a.name]
        for a in func._schema.arguments
        if a.alias_info is not None and a.alias_info.is_write and a.name in given
    }
    returns = func._schema.returns
    if len(returns) == 1 and returns[0].alias_info is not None:
        return by_alias[min(returns[0].alias_info.before_set)]
    pairs = zip(returns, results, strict=True)
    return tuple(by_alias[min(r.alias_info.before_set)] if r.alias_info else value for r, value in pairs)


def _zeros_on_host(packet: Any, args: Any, kwargs: Any) -> Tensor:
    if packet is aten.copy_:
        return args[0].zero_()
    return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)


def _half(mask: Tensor) -> int:
    return (mask.numel() + 1) // 2


def _scalar(x: Tensor) -> Any:
    return False if x.dtype == torch.bool else 0.0 if x.is_floating_point() else 0


def _positions(mask: Tensor) -> list[Tensor]:
    return [torch.empty(_half(mask), dtype=torch.long, device=META) for _ in range(mask.ndim)]


def _index(func: Any, x: Tensor, indices: Any, *rest: Any) -> Tensor:
    """Index with the positions that stand for a mask's."""
    found: list[Any] = []
    for index in indices:
        masked = index is not None and index.dtype in (torch.bool, torch.uint8)
        found += _positions(index) if masked else [None if index is None else index.to(META)]
    return func(x, found, *rest)


_ANSWERS: dict[Any, Callable[..., Any]] = {
    aten._local_scalar_dense: lambda func, x: _scalar(x),
    aten.equal: lambda func, x, other: True,
    aten.allclose: lambda func, x, other, *_: True,
    aten.nonzero: lambda func, x: torch.empty(_half(x), x.ndim, dtype=torch.long, device=META),
    aten.masked_select: lambda func, x, mask: torch.empty(_half(mask), dtype=x.dtype, device=META),
    aten.repeat_interleave: lambda func, x, *_: torch.empty(len(x), dtype=torch.long, device=META),
    aten.index: _index,
    aten.index_put: _index,
    aten._unsafe_index: _index,
}

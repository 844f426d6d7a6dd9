"""The library decord, imported without what it would bring along."""

import importlib.util
from typing import Any


def _import_decord() -> Any:
    """Import decord, but not the libraries of CUDA that it would load from the packages of torch.

    It would load all of them into the whole process. One, nvblas, then replaces the BLAS of numpy and scipy,
    and without a GPU the process ends with a segmentation fault.
    """
    find_spec = importlib.util.find_spec
    importlib.util.find_spec = lambda name, package=None: (
        None if name == "nvidia" else find_spec(name, package)
    )
    try:
        import decord
    finally:
        importlib.util.find_spec = find_spec
    decord.logging.set_level(decord.logging.FATAL)
    return decord


decord = _import_decord()

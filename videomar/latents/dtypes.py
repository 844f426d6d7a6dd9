"""How numbers are stored: the types that there are, and their bytes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# numpy has no bfloat16: its bits are the upper half of a float32's.
DTYPES: dict[str, type[np.generic]] = {
    "float16": np.float16,
    "bfloat16": np.uint16,
    "float32": np.float32,
}


def to_float32(values: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Stored values, bfloat16 as uint16, as float32; bits are kept exactly."""
    if dtype == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def num_bytes(shape: Sequence[int], dtype: str) -> int:
    """What an array of that shape takes."""
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(DTYPES[dtype]).itemsize

"""A function of the user's that captions clips which nobody has captioned: `ingest.captioner`.

It is named `package.module:function`, takes the frames (F, H, W, 3) uint8 that training sees, and returns
text. Its module is imported once by every process that reads videos: what it loads while it is imported
counts neither against the deadline of a file nor against its memory.
"""

import contextlib
import importlib
import importlib.util
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from videomar.errors import DataError

_log = logging.getLogger(__name__)

Captioner = Callable[[NDArray[np.uint8]], str]


def find_source(name: str) -> Path | None:
    """The file that defines the function of that name; None where there is none."""
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(name.partition(":")[0])
        return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None
    return None


@cache
def load_captioner(name: str) -> Captioner:
    """The function of that name; imported once a process.

    Raises:
        DataError: it cannot be imported.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # a module of the user's may raise anything
        raise DataError(
            f"ingest.captioner: got {name!r}, which cannot be imported ({error!r}), "
            "expected package.module:function; mend the name, or set it to null"
        ) from None
    if not callable(found):
        raise DataError(
            f"ingest.captioner: got {name!r}, which is no function, expected package.module:function"
        )
    return found


def caption_clip(clip: NDArray[np.uint8], name: str | None) -> str:
    """What the captioner says about a clip; empty, and a warning, where it fails; empty without one."""
    if name is None:
        return ""
    try:
        return " ".join(load_captioner(name)(clip).split())
    except Exception as error:
        _log.warning("ingest.captioner: got %r, expected text; the clip has no caption", error)
        return ""

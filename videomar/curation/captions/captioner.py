"""The user's own function that captions clips without words.

Clips still without a caption go to the function `ingest.captioner`, named `package.module:function`. It gets
the frames (F, H, W, 3) uint8 that training sees, and returns text. Its module is imported once by every
process that reads videos, before the first file: loading counts neither against a file's time limit nor
against its memory limit. The variable VIDEOMAR_DEVICE then says `cuda` or `cpu`: what
`resources.ingest.device` comes to. The stage itself imports the module, too, to refuse early: on the CPU.

Axes: F frames, H W rows and columns in pixels.
"""

import importlib
import logging
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from videomar.curation.captions.caption_text import one_line
from videomar.errors import DataError

_log = logging.getLogger(__name__)
DEVICE_VARIABLE = "VIDEOMAR_DEVICE"
"""What a captioner should compute on, for the user's module."""

Captioner = Callable[[NDArray[np.uint8]], str]


@cache
def load_captioner(name: str) -> Captioner:
    """Return the function of that name; it is imported once a process.

    Raises:
        DataError: it cannot be imported.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # a user's module may raise anything
        raise DataError(
            f"ingest.captioner: got {name!r}, which cannot be imported ({error!r}), "
            "expected package.module:function; correct the name, or set it to null"
        ) from None
    if not callable(found):
        raise DataError(
            f"ingest.captioner: got {name!r}, which is not a function, expected package.module:function"
        )
    return found


def caption_clip(clip: NDArray[np.uint8], name: str | None) -> str:
    """Return the captioner's text for a clip; empty without a captioner, and with a warning if it fails."""
    if name is None:
        return ""
    try:
        return one_line(load_captioner(name)(clip))
    except Exception as error:
        _log.warning("ingest.captioner: got %r, expected text; the clip has no caption", error)
        return ""

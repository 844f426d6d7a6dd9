"""Learned scores: networks in local folders, never downloaded, beside the model-free `scores`.

Each is named in `ingest.scorers`, loaded once by every process that reads videos, and returns one number a
clip, the column `score_NAME`. It sees the frames that training sees: at 32 pixels a network made for 224 sees
little.

Axes: F frames, H W rows and columns in pixels.
"""

import logging
import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from videomar.errors import DataError

_log = logging.getLogger(__name__)


Scorer = Callable[[NDArray[np.uint8]], float]
"""The score of a clip (F, H, W, 3); the same for the same clip."""


def _aesthetic(folder: Path, device: str) -> Scorer:
    from videomar.curation.aesthetic import AestheticScorer

    return AestheticScorer(folder, device)


_KINDS: dict[str, Callable[[Path, str], Scorer]] = {"aesthetic": _aesthetic}


@cache
def load_scorer(name: str, folder: str, device: str = "cpu") -> Scorer:
    """Load the scorer of that name from its folder to a device, `cpu` or `cuda`; once a process.

    Raises:
        DataError: there is no such scorer; or a folder, file or package is missing, or a file is wrong.
    """
    where = f"ingest.scorers.{name}"
    if name not in _KINDS:
        raise DataError(f"{where}: got no scorer of that name, expected {' or '.join(_KINDS)}")
    try:
        return _KINDS[name](Path(folder), device)
    except ImportError as error:
        raise DataError(
            f"{where}: got no package {error.name}, expected it installed; see pyproject"
        ) from None
    except Exception as error:  # libraries raise anything for files that are no network
        message = " ".join(str(error).split())[:200]
        raise DataError(f"{where}: got {message}, expected a network and its head in {folder}") from None


def score_learned(
    clip: NDArray[np.uint8], scorers: Mapping[str, str], device: str = "cpu"
) -> dict[str, float | None]:
    """Return the scores of a clip (F, H, W, 3) by name; None, and a warning, where a scorer fails."""
    found: dict[str, float | None] = {}
    for name, folder in scorers.items():
        try:
            value = load_scorer(name, folder, device)(clip)
        except Exception as error:
            _log.warning("ingest.scorers.%s: got %r, expected a score; the clip has none", name, error)
            value = math.nan
        found[name] = value if math.isfinite(value) else None
    return found

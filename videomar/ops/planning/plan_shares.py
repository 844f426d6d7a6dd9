"""The share of a GPU's published rate that each kind of work reaches: stated here, or measured if it was.

`python -m benchmarks.gpu` measures on a real GPU and writes benchmarks/results/gpu.json, whose `shares` this
module reads. They count for every kind: the share, not the rate, is what two GPUs have in common.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from videomar.errors import DataError

RESULTS = Path("benchmarks/results/gpu.json")
STATED: Mapping[str, tuple[float, str]] = {
    "train": (0.35, "eager PyTorch with memory-efficient attention at a width of 768 or more"),
    "train_tokenizer": (0.2, "small convolutions in float32"),
    "encode": (0.2, "convolutions over space and time, whose layers at full resolution wait for memory"),
    "captions": (0.4, "a language model over whole batches of captions"),
    "sample": (0.2, "one frame at a time, with short products"),
}
"""Kind of work: assumed share of the published rate, and what it is typical of."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of the published rate by kind of work."""

    measured: Mapping[str, float]
    where: str = ""
    """GPU that they were measured on."""

    def of(self, work: str) -> float:
        """Share of the published rate, 0 to 1."""
        return self.measured.get(work, STATED[work][0])

    def lines(self) -> list[str]:
        """Say for every kind of work which share is taken, and why."""
        return [
            f"{work}: {100 * self.of(work):.0f} % of the published rate, "
            + (f"measured on {self.where}" if work in self.measured else f"assumed: {why}")
            for work, (_, why) in STATED.items()
        ]


def read_shares(path: Path = RESULTS) -> Shares:
    """Read the measured shares; without a file, all are assumed.

    Raises:
        DataError: the file has no such numbers.
    """
    if not path.is_file():
        return Shares({})
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        figures = found.get("figures", {})
        shares = figures.get("shares", {})
        measured = {work: float(shares[work]) for work in STATED if shares.get(work) is not None}
        where = str(figures.get("gpu", found.get("machine", "a GPU")))
    except (ValueError, TypeError, AttributeError) as error:
        rule = "a result of `python -m benchmarks.gpu`; run it again, or remove the file"
        raise DataError(f"{path}: got {error}, expected {rule}") from None
    wrong = {work: share for work, share in measured.items() if not (math.isfinite(share) and 0 < share <= 1)}
    if wrong:
        raise DataError(f"{path}: shares: got {wrong}, expected numbers above 0 up to 1; measure again")
    return Shares(measured, where)

"""The share of a GPU's published rate that each kind of work reaches: stated here, or measured if it was.

`python -m benchmarks.gpu` measures steps of training on a real GPU, in benchmarks/results/gpu.json. What it
measured counts for every kind of GPU: the share, not the rate, is what two of them have in common.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from videomar.errors import DataError
from videomar.ops.planning.gpus import GPUS, Gpu

RESULTS = Path("benchmarks/results/gpu.json")
STATED: Mapping[str, tuple[float, str]] = {
    "train": (0.35, "eager PyTorch with memory-efficient attention at a width of 768 or more"),
    "train_tokenizer": (0.2, "convolutions over space and over time"),
    "encode": (0.2, "convolutions in TF32, whose layers at full resolution wait for memory"),
    "captions": (0.4, "a language model over whole batches of captions"),
    "sample": (0.2, "one frame at a time, with short products"),
}
"""Kind of work: assumed share of the published rate, and what it is typical of."""
# Measured rates of steps, and what they are multiplied with: `paper` computes its blocks twice there, which
# its rate does not count and a plan does.
_STEPS = {"training_medium_step_tflop_per_s": 1.0, "training_paper_step_tflop_per_s": 4 / 3}


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
    """Read the measured shares; without a result of a known GPU, all are assumed.

    Raises:
        DataError: the file is damaged.
    """
    if not path.is_file():
        return Shares({})
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
        gpu = _gpu_of(str(figures.get("gpu", "")), float(figures.get("memory_gb", 0.0)))
        if gpu is None or gpu.bfloat16_tflops is None or figures.get("dry_run"):
            return Shares({})
        rates = [float(figures[key]) * more for key, more in _STEPS.items() if key in figures]
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        rule = "a result of `python -m benchmarks.gpu`; run it again, or remove the file"
        raise DataError(f"{path}: got {error!r}, expected {rule}") from None
    if not rates:
        return Shares({})
    share = min(rates) / gpu.bfloat16_tflops
    if not (math.isfinite(share) and 0 < share <= 1):
        rule = f"a rate above 0, up to the {gpu.bfloat16_tflops:g} TFLOPS of the data sheet; measure again"
        raise DataError(f"{path}: got {min(rates):g} TFLOPS, expected {rule}")
    return Shares({"train": share}, gpu.name)


def _gpu_of(name: str, memory_gb: float) -> Gpu | None:
    """The kind of GPU that CUDA calls by a name, such as `NVIDIA A100-SXM4-80GB`; None: an unknown one."""
    words = set(re.findall(r"[a-z]*\d+[a-z]*", name.lower()))
    fitting = [gpu for kind, gpu in GPUS.items() if kind.partition("-")[0] in words]
    return min(fitting, key=lambda gpu: abs(gpu.memory_gb - memory_gb), default=None)

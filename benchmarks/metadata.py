"""What tables cost at a million clips: ledger, index of latents, lineage, listings; and what breaks first.

`python -m benchmarks.metadata [CLIPS ...]`; without numbers 10,000, 100,000 and 1,000,000 clips, which takes
8 GB of disk, 16 GB of memory and, on an idle machine, about half an hour. Every part (see `metadata_parts`)
runs in its own process with one thread. Measured are seconds, processor seconds (other programs may run
meanwhile) and peak memory of the process, which includes libraries (0.3 GB) and the part's input. Figures for
a million clips, if not measured, are extrapolated from the two largest numbers: processor seconds by their
exponent, at least linearly, memory linearly.
"""

import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa

from benchmarks.metadata_parts import PARTS, write_settings
from benchmarks.record import write_result
from videomar.training.throughput import peak_host_gb

MILLION = 1_000_000
CLIPS = (10_000, 100_000, MILLION)
FILES = ("candidates.parquet", "ledger.parquet", "lineage.parquet", "latents")


def main(sizes: Sequence[int]) -> None:
    """Measure and store."""
    figures: dict[str, float] = {}
    for clips in sizes:
        with tempfile.TemporaryDirectory(prefix="metadata-") as name:
            figures |= measure(Path(name), clips)
    few, many = sizes[-2:]
    write_result("metadata", figures | growth(figures, few, many), {}, ["pandas", "scipy", "mlflow", "dvc"])


def measure(folder: Path, clips: int) -> dict[str, float]:
    """Seconds and memory of every part, and bytes per clip on disk; parts use files of earlier parts."""
    write_settings(folder)
    figures: dict[str, float] = {}
    context = get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.metadata_parts"])
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        for name in PARTS:
            figures |= pool.submit(run_part, name, folder, clips).result()
            sys.stderr.write(f"{clips} {name}: {figures[f'{name}_{clips}_s']:.1f} s\n")
    for path in (folder / name for name in FILES):
        size = sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
        figures[f"{path.stem}_{clips}_bytes_a_clip"] = size / clips
    return figures


def run_part(name: str, folder: Path, clips: int) -> dict[str, float]:
    """Prepare and measure one part; call it in a new process."""
    os.chdir(folder)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    pa.set_cpu_count(1)
    part = PARTS[name](folder, clips)
    start, cpu_start = time.perf_counter(), time.process_time()
    part()
    return {
        f"{name}_{clips}_s": time.perf_counter() - start,
        f"{name}_{clips}_cpu_s": time.process_time() - cpu_start,
        f"{name}_{clips}_peak_gb": peak_host_gb(),
    }


def growth(figures: dict[str, float], few: int, many: int) -> dict[str, float]:
    """Exponent of each part's processor seconds, and figures extrapolated to a million clips."""
    grown = {}
    for name in PARTS:
        before, after = (figures[f"{name}_{clips}_cpu_s"] for clips in (few, many))
        exponent = math.log(after / before) / math.log(many / few)
        grown[f"{name}_exponent"] = exponent
        if many < MILLION:
            low, high = (figures[f"{name}_{clips}_peak_gb"] for clips in (few, many))
            grown[f"{name}_{MILLION}_extrapolated_cpu_s"] = after * (MILLION / many) ** max(1.0, exponent)
            grown[f"{name}_{MILLION}_extrapolated_peak_gb"] = high + (high - low) * (MILLION - many) / (
                many - few
            )
    return grown


if __name__ == "__main__":
    main([int(number) for number in sys.argv[1:]] or CLIPS)

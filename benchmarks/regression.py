"""Are the ratios of the benchmarks still those on record? Short forms of them, five minutes: `make bench`.

Ratios are compared, not times: both sides of a ratio ran on the same machine in the same run, by turns. Each
has a noise, the share that it moved between runs of unchanged code. A ratio that is lower than the record by
more than that is a regression, and the command fails; one that is higher by more is worth a new record:

    python -m benchmarks.regression                     compare with results/regression.json
    python -m benchmarks.regression --record            replace it; on an idle machine
    python -m benchmarks.regression --only sampling     some of them
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.record import RESULTS, ROOT, write_result

RECORD = RESULTS / "regression.json"


class Check(NamedTuple):
    """The short form of a benchmark."""

    arguments: str
    """Of Python."""
    result: str
    """Stem of the file that it writes."""
    noise: Mapping[str, float]
    """Share by which each ratio may fall below the record; other ratios say too little in the short form."""


CHECKS = {
    "ingest": Check(
        "-m benchmarks.ingest --duration 10 --files 8 --rounds 3", "ingest_10s", {"vs_ffmpeg_10s": 0.35}
    ),
    "latents": Check("-m benchmarks.latents --clips 1500", "latents", {"vs_memmap": 0.3, "vs_pt_files": 0.4}),
    "training": Check(
        "-m benchmarks.training --parts steps --preset small --batch 8 --seconds 40",
        "training",
        {"matmul_share": 0.25},
    ),
    "sampling": Check(
        "-m benchmarks.sampling --short",
        "sampling",
        {
            "clip_time_vs_paper_batch_1": 0.3,
            "clip_time_vs_paper_batch_8": 0.3,
            "clip_time_vs_no_cache_65": 0.3,
        },
    ),
    "overhead": Check("-m benchmarks.overhead --rounds 2", "overhead", {"help_within_half_second": 0.35}),
}


class Verdict(NamedTuple):
    """A ratio beside the one on record."""

    name: str
    """As `sampling.clip_time_vs_paper`."""
    found: float
    recorded: float | None
    """None = there is no record."""
    noise: float

    @property
    def is_regression(self) -> bool:
        """Whether the ratio is lower than the noise explains."""
        return self.recorded is not None and self.found < self.recorded * (1 - self.noise)

    def __str__(self) -> str:
        """One line of the table."""
        if self.recorded is None:
            return f"{self.name:40} {self.found:8.2f}   not on record"
        change = self.found / self.recorded - 1
        word = "REGRESSION" if self.is_regression else "better" if change > self.noise else "same"
        return (
            f"{self.name:40} {self.found:8.2f}   on record {self.recorded:.2f}   "
            f"{change:+.0%} of {self.noise:.0%} noise   {word}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the short forms and compare; the exit code is 1 if a ratio is a regression."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regression")
    parser.add_argument("--only", nargs="+", choices=tuple(CHECKS), default=list(CHECKS))
    parser.add_argument("--record", action="store_true", help="store the ratios in place of comparing them")
    options = parser.parse_args(arguments)
    seconds: dict[str, float] = {}
    ratios: dict[str, float] = {}
    for name in options.only:
        start = time.perf_counter()
        ratios |= {f"{name}.{ratio}": value for ratio, value in run(CHECKS[name]).items()}
        seconds[f"{name}_s"] = round(time.perf_counter() - start, 1)
    if options.record:
        write_result("regression", seconds, {**recorded(RECORD), **ratios}, folder=RESULTS)
        return
    verdicts = compare(ratios, recorded(RECORD))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    sys.stdout.write("\n".join([*map(str, verdicts), f"load {load}", ""]))
    if any(verdict.is_regression for verdict in verdicts):
        sys.exit("bench: a ratio fell by more than its noise; run it again on an idle machine, then look why")


def run(check: Check) -> dict[str, float]:
    """Run a short form in a process of its own, and return those of its ratios that are compared."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, *check.arguments.split(), "--out", folder],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            sys.exit(f"bench: python {check.arguments}: got exit code {done.returncode}, expected 0")
        found = json.loads((Path(folder) / f"{check.result}.json").read_text("utf-8"))["ratios"]
    return {name: round(found[name], 3) for name in check.noise}


def recorded(path: Path) -> dict[str, float]:
    """The ratios on record, none if there is no such file."""
    return dict(json.loads(path.read_text("utf-8"))["ratios"]) if path.is_file() else {}


def compare(ratios: Mapping[str, float], record: Mapping[str, float]) -> list[Verdict]:
    """Each ratio beside its record."""
    noise = {
        f"{name}.{ratio}": share for name, check in CHECKS.items() for ratio, share in check.noise.items()
    }
    return [Verdict(name, value, record.get(name), noise[name]) for name, value in ratios.items()]


if __name__ == "__main__":
    main()

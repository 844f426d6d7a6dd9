"""What a run costs beside its work: imports, starts of Ray and Prefect, hashing, DVC; its share of a run.

`python -m benchmarks.overhead [--data FINISHED] [--rounds 3]`; with `--data` a checkout after `make run`,
whose own code and environment are then measured, else this one without the figures of DVC. Parts are measured
by turns, each in a process of its own; figures are medians, of wall time and (`_cpu_s`) of processor time. A
round takes about a minute. Where `make run` spent its time is read from what it left: metrics, MLflow's
store, `.local/run_times.jsonl`, and `.venv/.seconds` for the set-up.
"""

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from benchmarks.overhead_table import estimated, rows_of, setup_s, share_of, table_of
from benchmarks.record import RESULTS, ROOT, write_result

HELP_S = 0.5
"""Bounds: seconds of `videomar --help`, overhead in a whole run, times of `dvc status` for `dvc repro`."""
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "true", "PYTHONUTF8": "1"}
_RAY = """
import time
begin = time.perf_counter()
from videomar.compute.cluster import ray_cluster
with ray_cluster(2):
    up = time.perf_counter()
    end = time.perf_counter()
print(up - begin, time.perf_counter() - end)
"""
_PREFECT = """
import time
begin = time.perf_counter()
import flows
from prefect import flow
imported, up = time.perf_counter(), []
@flow
def nothing():
    up.append(time.perf_counter())
nothing()
print(imported - begin, up[0] - imported, time.perf_counter() - up[0])
"""
_HASHES = """
import time
from videomar.provenance.code_hash import STAGES, code_hash
begin = time.perf_counter()
for roots in STAGES.values():
    code_hash.__wrapped__(roots)
print(time.perf_counter() - begin)
"""


class Part(NamedTuple):
    """A command that is measured."""

    arguments: Sequence[str]
    """Of Python."""
    printed: Sequence[str] = ()
    """Names of the seconds that it prints as its last line; none = only its wall time counts."""


def parts_of(folder: Path, *, with_dvc: bool) -> dict[str, Part]:
    """Parts to measure in a checkout, by name.

    Args:
        folder: the checkout.
        with_dvc: whether DVC is measured, too; DVC brings what is not up to date there up to date.
    """
    stages = yaml.safe_load((folder / "dvc.yaml").read_text("utf-8"))["stages"]
    parts = {
        "python": Part(["-c", "pass"]),
        "help": Part(["-m", "videomar.cli", "--help"]),
        **{f"import_{name}": Part(["-c", f"import stages.{name}"]) for name in stages},
        "ray": Part(["-c", _RAY], ("ray_start", "ray_stop")),
        "prefect": Part(["-c", _PREFECT], ("prefect_import", "prefect_server_start", "prefect_server_stop")),
        "code_hashes": Part(["-c", _HASHES], ("code_hashes_of_all_stages",)),
    }
    if with_dvc:
        parts |= {
            "dvc_status": Part(["-m", "dvc", "status"]),
            "dvc_repro": Part(["-m", "dvc", "repro"]),
            "make_run": Part(["-m", "flows.reproduce"]),
        }
    return parts


def measure(folder: Path, parts: Mapping[str, Part], rounds: int) -> dict[str, float]:
    """Median seconds of each part in a checkout; parts take turns."""
    python = folder / ".venv/bin/python"
    program = str(python.absolute()) if python.is_file() else sys.executable
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    seconds: dict[str, list[float]] = {}
    for number in range(rounds):
        for name, part in parts.items():
            begin, cpu = time.perf_counter(), cpu_of_children_s()
            done = subprocess.run(
                [program, *part.arguments],
                cwd=folder,
                env=kept | _ENVIRONMENT,
                capture_output=True,
                text=True,
                check=False,
            )
            taken = {name: time.perf_counter() - begin, f"{name}_cpu": cpu_of_children_s() - cpu}
            if done.returncode:
                sys.exit(f"{name}: got exit code {done.returncode}: {done.stderr.strip()[-500:]}")
            printed = done.stdout.split()[-len(part.printed) :] if part.printed else []
            taken |= dict(zip(part.printed, map(float, printed), strict=True))
            for key, value in taken.items():
                seconds.setdefault(f"{key}_s", []).append(value)
            sys.stderr.write(f"round {number + 1} of {rounds}, {name}: {taken[name]:.2f} s\n")
    return {name: round(statistics.median(values), 3) for name, values in seconds.items()}


def cpu_of_children_s() -> float:
    """Processor seconds of all processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def ratios_of(figures: Mapping[str, float], share: float | None) -> dict[str, float]:
    """What is bounded: `--help` in half a second, a run without work in twice `dvc status`, and overhead.

    `help_within_half_second` is the bound over what was measured; the others are what was measured.
    """
    ratios = {"help_within_half_second": HELP_S / figures["help_s"]}
    if "dvc_repro_s" in figures:
        ratios["noop_vs_dvc_status"] = figures["dvc_repro_s"] / figures["dvc_status_s"]
    if share is not None:
        ratios["overhead_share"] = share
    return {name: round(value, 3) for name, value in ratios.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(prog="benchmarks.overhead", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="FINISHED", help="a checkout after `make run`")
    parser.add_argument("--rounds", type=int, default=3, help="how often each part is measured")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result")
    options = parser.parse_args(arguments)
    folder = ROOT if options.data is None else options.data
    parts = parts_of(folder, with_dvc=options.data is not None)
    figures = measure(folder, parts, options.rounds)
    rows = rows_of(folder, figures["ray_start_s"] + figures["ray_stop_s"])
    share, setup = share_of(rows), setup_s(folder)
    figures |= estimated(folder, figures)
    for row in rows:
        name = re.sub(r"\W+", "_", row.part)
        figures |= {
            f"run_{name}_s": round(row.total_s, 1),
            f"run_{name}_overhead_s": round(row.overhead_s, 1),
        }
    if rows:
        figures["overhead_share"] = round(share or 0.0, 4)
        sys.stderr.write(table_of(rows, setup) + "\n")
    if setup is not None:
        figures["setup_s"] = setup
    share = share if rows else figures.get("estimated_overhead_share")
    packages = ["dvc", "prefect", "ray", "mlflow"]
    write_result("overhead", figures, ratios_of(figures, share), packages, options.out)


if __name__ == "__main__":
    main()

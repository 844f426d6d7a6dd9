"""The result of a benchmark: one JSON object, printed and stored, with versions, machine and commit.

`python -m benchmarks.record` writes the table of all that are stored into benchmarks/README.md.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
"""Folder of the results that are committed."""
_PACKAGES = ("numpy", "torch", "av", "decord2", "opencv-python-headless", "scenedetect-headless", "pyarrow")


def write_result(
    name: str,
    figures: Mapping[str, Any],
    ratios: Mapping[str, float],
    packages: Sequence[str] = (),
    folder: Path = RESULTS,
) -> dict[str, Any]:
    """Store `NAME.json` and print the same object as one line.

    Args:
        name: Name of the benchmark.
        figures: Measurements, with units in their names.
        ratios: Ours against a peer or a limit in the same run; above 1 = we are ahead.
        packages: Further packages whose versions are recorded.
        folder: Folder of the file.

    Returns:
        The object that is stored.
    """
    result = {
        "name": name,
        "ratios": dict(ratios),
        "figures": dict(figures),
        "versions": {"python": platform.python_version()} | _versions((*_PACKAGES, *packages)),
        "machine": f"{platform.machine()} {_processor()}".strip(),
        "cores": available_cores(),
        # Load averages: the benchmark itself and whatever ran beside it.
        "load": [round(value, 2) for value in os.getloadavg()],
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{name}.{os.getpid()}"
    draft.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    os.replace(draft, folder / f"{name}.json")
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    return result


def commit() -> str:
    """Commit of this tree, with `-dirty` if files differ; `unknown` outside of git."""
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("-dirty" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def available_cores() -> int:
    """Cores that this process may use, or all cores on systems that cannot restrict them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def overview() -> str:
    """Return benchmarks/README.md: the ratios of all stored results, with their conditions."""
    lines = [
        "# Benchmarks",
        "",
        "`python -m benchmarks.NAME` measures, prints and stores `results/NAME.json`; `make bench` compares",
        "short forms of them with `results/regression.json`. [What each ratio means, and what was",
        "concluded](../docs/evidence/benchmarks.md). `python -m benchmarks.record` writes this table.",
        "",
        "| benchmark | ratios | date | commit | load | machine |",
        "|---|---|---|---|---|---|",
    ]
    for path in sorted(RESULTS.glob("*.json")):
        found = json.loads(path.read_text("utf-8"))
        ratios = "<br>".join(f"`{name}` {value:.3g}" for name, value in found["ratios"].items())
        head, dirty, _ = found["commit"].partition("-dirty")
        load = ", ".join(f"{value:.1f}" for value in found["load"])
        where = f"{found['cores']} cores, {found['machine']}"
        lines.append(
            f"| {path.stem} | {ratios or 'none'} | {found['date']} | {head[:8]}{dirty} | {load} | {where} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (ROOT / "benchmarks/README.md").write_text(overview(), encoding="utf-8")

"""Resolve the locks as a machine would that has nothing but the public index. `make check-lock` runs it.

    python .ci/check_lock.py [LOCK ...]

For each Python and system the packages of a lock are resolved with all their requirements, from metadata
alone, without the configuration, mirrors, wheels and cache of this machine. The result must be the lock
itself: what comes out beside it is missing in it; what cannot be satisfied, or has no build, is an error.
"""

import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

PYTHONS = ("3.11", "3.12", "3.13")
SYSTEMS = {
    "Linux x86-64": "x86_64-manylinux_2_28",
    "Linux arm64": "aarch64-manylinux_2_28",
    "macOS arm64": "aarch64-apple-darwin",
}
LOCKS = ("requirements.lock", "requirements-image.lock", "requirements-dev.lock", "docs/requirements.txt")
INDEX = "https://pypi.org/simple"
OVERRIDES = Path(__file__).with_name("overrides.txt")
FROM_SOURCE = "antlr4-python3-runtime"  # pure Python, published without a wheel
_TOGETHER = 8  # they wait for the index
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def pins(text: str) -> set[tuple[str, str]]:
    """Names and versions in the text of a lock, or in what uv prints."""
    return {(re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in _PIN.findall(text)}


def resolve(lock: Path, python: str, system: str, cache: Path) -> tuple[set[tuple[str, str]], str]:
    """What the packages of a lock need on a system, themselves included; else nothing, and why."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "CONDA_"))
    }
    command = [sys.executable, "-m", "uv", "pip", "compile", "--no-config", "--quiet", "--no-header"]
    command += ["--no-annotate", "--default-index", INDEX, "--cache-dir", str(cache)]
    command += ["--overrides", str(OVERRIDES)]
    command += ["--only-binary", ":all:", "--no-binary", FROM_SOURCE]
    command += ["--python-version", python, "--python-platform", system, str(lock)]
    environment["MACOSX_DEPLOYMENT_TARGET"] = "14.0"  # the oldest for which torch has packages
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return (set(), done.stderr.strip()) if done.returncode else (pins(done.stdout), "")


def main() -> None:
    """Check every lock for every system; exit code 1 if one fails."""
    failed = False
    parts = list(product(map(Path, sys.argv[1:] or LOCKS), PYTHONS, SYSTEMS))
    with tempfile.TemporaryDirectory() as cache, ThreadPoolExecutor(_TOGETHER) as pool:
        found = pool.map(lambda part: resolve(part[0], part[1], SYSTEMS[part[2]], Path(cache)), parts)
        for (lock, python, system), (needed, reason) in zip(parts, found, strict=True):
            missing = ", ".join(
                f"{name} {version}" for name, version in sorted(needed - pins(lock.read_text("utf-8")))
            )
            failed = failed or bool(reason or missing)
            verdict = f"{len(needed)} packages, complete"
            if reason or missing:
                verdict = reason or f"got a lock without {missing}, expected all that it needs; `make lock`"
            print(f"{lock}, Python {python}, {system}: {verdict}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()

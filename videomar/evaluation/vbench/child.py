"""Script for the environment of the public `vbench` package: measures a dimension, or describes itself.

A copy of this file is run by a foreign interpreter. So it imports nothing of ours, and other packages only
when needed. It is copied because Python puts a script's folder, with our modules, first on its path.

Source: vbench 0.1.5, vbench2_beta_i2v/__init__.py (VBenchI2V). Differs: DreamSim runs on the requested
device and reads its weights from torch's folder; the package runs it on CUDA, from below the working folder.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import traceback
from pathlib import Path
from typing import Any

PACKAGES = ("vbench", "vbench2_beta_i2v")
LIBRARIES = (
    *("vbench", "torch", "torchvision", "numpy", "decord", "opencv-python", "Pillow", "timm"),
    *("openai-clip", "pyiqa", "dreamsim"),
)


def facts(device: str) -> dict[str, Any]:
    """Fields of a fingerprint for this environment: code, device, libraries, processor, threads.

    Raises:
        ModuleNotFoundError: the package, or torch where the device is an accelerator, is not installed.
    """
    digest = hashlib.sha256()
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            raise ModuleNotFoundError(f"No module named {package!r}")
        folder = Path(found.origin).parent
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path.relative_to(folder.parent)).encode() + path.read_bytes())
    on_gpu = device.startswith("cuda")
    return {
        "code": digest.hexdigest(),
        "device": importlib.import_module("torch").cuda.get_device_name(device) if on_gpu else device,
        "libraries": {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}},
        "processor": platform.processor() or platform.machine(),
        "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
    }


def evaluate(job: dict[str, Any]) -> None:
    """Have the package write DIMENSION_eval_results.json for one dimension."""
    device, dimension = importlib.import_module("torch").device(job["device"]), job["dimension"]
    if dimension == "i2v_background":
        package: Any = importlib.import_module("dreamsim")
        package.dreamsim = functools.partial(package.dreamsim, device=device, cache_dir=job["hub"])
    benchmark = importlib.import_module("vbench2_beta_i2v")
    benchmark.VBenchI2V(device, job["full_info"], job["results"]).evaluate(
        videos_path=job["videos"],
        name=dimension,
        dimension_list=[dimension],
        local=job["local"],
        resolution=job["resolution"],
    )


def main() -> None:
    """Run the job in sys.argv; all output goes to its log, whose last line is the reason of a failure."""
    job = json.loads(sys.argv[1])
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        if "facts" in job:
            Path(job["facts"]).write_text(json.dumps(facts(job["device"])), encoding="utf-8")
        else:
            evaluate(job)
    except Exception as error:
        traceback.print_exc()
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()

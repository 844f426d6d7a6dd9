"""The environment where the public `vbench` package is: what runs there has no network and a time limit."""

import json
import os
import shutil
import subprocess
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videomar.errors import DataError
from videomar.evaluation.vbench import child as vbench_child
from videomar.processes import run_in_group

_NOWHERE = "http://127.0.0.1:9"  # the port that throws all away: what is asked of the network fails at once
_OFFLINE = {
    **{f"{kind}_proxy": _NOWHERE for kind in ("http", "https", "ftp", "all")},
    **{f"{kind}_PROXY": _NOWHERE for kind in ("HTTP", "HTTPS", "FTP", "ALL")},
    **{"no_proxy": "", "NO_PROXY": "", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
}
_CHILD = "child/vbench_child.py"
_LONGEST = 200
"""Letters of a reason: torch names every tensor that does not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherEnvironment:
    """Where the package is, and what it may take."""

    python: Path
    """The interpreter; not resolved, for a virtual environment's is a link."""
    weights: Path
    """VBENCH_CACHE_DIR of the package; TORCH_HOME is `torch` in it."""
    device: str
    limit_s: float
    """Seconds of one dimension."""

    def __post_init__(self) -> None:
        if not os.access(self.python, os.X_OK) or self.python.is_dir():
            raise DataError(f"--python: got {self.python}, expected an interpreter; name one with vbench")
        if not self.weights.is_dir():
            raise DataError(f"--weights: got {self.weights}, expected a folder; see docs/guide/evaluation.md")

    def run(self, folder: Path, **job: Any) -> None:
        """Do a job in a process of its own, with `folder` as its working folder.

        Raises:
            DataError: it failed or took too long, with what it said last.
        """
        log, script = folder / "log", folder / _CHILD
        log.unlink(missing_ok=True)
        script.parent.mkdir(exist_ok=True)
        shutil.copyfile(vbench_child.__file__, script)
        weights = self.weights.resolve()
        settings = {
            **_OFFLINE,
            "VBENCH_CACHE_DIR": str(weights),
            "TORCH_HOME": str(weights / "torch"),
            "PYTHONUNBUFFERED": "1",  # what it said last is known however it ends
            "PYTHONDONTWRITEBYTECODE": "1",  # torch.hub runs what lies among the weights
        }
        words = json.dumps({**job, "device": self.device, "log": str(log)})
        command = ["env", *(f"{name}={value}" for name, value in settings.items())]
        command += [str(self.python.absolute()), str(script), words]
        try:
            code = run_in_group(command, folder, self.limit_s)
        except subprocess.TimeoutExpired:
            raise DataError(f"took over {self.limit_s:g} s, expected less; raise --limit-s") from None
        if code:
            said = log.read_text(errors="replace", encoding="utf-8").split("\n") if log.is_file() else []
            last = next((line for line in reversed(said) if line.strip()), "nothing said")
            told = textwrap.shorten(last, _LONGEST)
            raise DataError(f"got code {code} ({told}), expected figures; see that environment and the clips")

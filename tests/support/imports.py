"""What a piece of code imports, seen in a process of its own."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def loaded_by(code: str, *names: str) -> list[str]:
    """Those of the modules that are loaded once the code has run, which may end the process."""
    report = f"sys.stderr.write(' '.join(sorted({{*sys.modules}} & set({names!r}))))"
    program = f"import atexit, sys\natexit.register(lambda: {report})\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stderr.splitlines()[-1].split() if done.stderr else []

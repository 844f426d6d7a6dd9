"""`dvc repro` for `make run`: `python -m flows.reproduce [STAGE...]`.

It takes turns with flows, after the same repairs and checks.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from flows.checkout_lock import hold_checkout
from videomar.errors import VideomarError
from videomar.provenance.dvc_repair import outputs_kept
from videomar.provenance.run_times import RUN, note


def main(stages: Sequence[str]) -> None:
    """Bring stages (none named: all) and what they depend on up to date; end with DVC's exit code."""
    try:
        with hold_checkout("make run", _report), outputs_kept(Path()):
            begin = time.time()
            if not (code := _run_dvc(stages)):
                note(RUN, begin)
    except VideomarError as error:
        sys.exit(" ".join(str(error).split()))
    sys.exit(abs(code))


def _run_dvc(stages: Sequence[str]) -> int:
    """Run DVC in the terminal, where Ctrl-C reaches it and its stage; this process outlives both."""
    signal.signal(signal.SIGINT, lambda *_: None)  # a handler, as children would inherit SIG_IGN
    process = subprocess.Popen([sys.executable, "-m", "dvc", "repro", *stages])
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    return process.wait()


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

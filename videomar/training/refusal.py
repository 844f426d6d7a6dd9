"""Refusals in the house's own words, which no restart would mend, and how Ray is kept from trying.

Ray Train restarts a run whose worker raised, whatever it raised. So a worker that refuses notes it in a file
and returns; where others do not refuse but wait for it, it raises, Ray ends them all and starts them again,
and they find the note.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

from videomar import errors
from videomar.errors import VideomarError
from videomar.files import write_json
from videomar.training.worker import Worker

# How long a worker waits for the others to refuse, too. Most refusals come to all at the same step.
_PATIENCE_S = 5.0
_POLL_S = 0.05


def refusal_of(action: Callable[[], None], notes: Path, worker: Worker) -> VideomarError | None:
    """What the action of a worker, or that of another one in an earlier start, refused; None = it is done.

    Args:
        action: what this worker does.
        notes: folder that all workers of one launch see, and no other launch.
        worker: which of them this one is.

    Raises:
        VideomarError: this worker refuses, and others do not say so.
    """
    for path in sorted(notes.glob("[!.]*.json")):
        note = json.loads(path.read_text("utf-8"))
        write_json(
            notes / f"{worker.rank}.json", note
        )  # the one who refused may be waiting for all to say so
        return getattr(errors, note["kind"])(note["words"])
    try:
        action()
    except VideomarError as error:
        write_json(notes / f"{worker.rank}.json", {"kind": type(error).__name__, "words": str(error)})
        deadline = time.monotonic() + _PATIENCE_S
        while len(list(notes.glob("[!.]*.json"))) < worker.world_size:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)
        return error
    return None

"""One flow at a time in a checkout: the others wait for their turn."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from prefect import get_run_logger

from flows.dvc_lock import mend_dvc_lock
from videomar.files import explain_full_disk

_LOCK, _HOLDER = Path(".local/flow.lock"), Path(".local/flow.name")


@contextmanager
def turn(name: str) -> Iterator[None]:
    """Wait until no other flow works here. The system itself ends the turn of a flow that was killed."""
    _LOCK.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        other = _HOLDER.read_text(encoding="utf-8") if _HOLDER.is_file() else "another flow"
        get_run_logger().info("%s waits for its turn: %s is at work", name, other)
        lock.acquire()
    try:
        _HOLDER.write_text(name, encoding="utf-8")
        mend_dvc_lock(Path())
        with explain_full_disk():
            yield
    finally:
        lock.release()

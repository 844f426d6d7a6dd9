"""One flow at a time in a checkout: the others wait for their turn."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect import get_run_logger

from flows.dvc_lock import mend_dvc_lock
from videomar.disk import full_disk_told

_LOCK = Path(".local/flow.lock")


@contextmanager
def turn(name: str) -> Iterator[None]:
    """Wait until no other flow works here. The system itself ends the turn of a flow that was killed."""
    _LOCK.parent.mkdir(parents=True, exist_ok=True)
    with _LOCK.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            get_run_logger().info("%s waits for its turn: %s is at work", name, lock.read() or "another flow")
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(name)
        lock.flush()
        mend_dvc_lock(Path())
        with full_disk_told():
            yield

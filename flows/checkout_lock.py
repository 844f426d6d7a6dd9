"""One run at a time in a checkout, of `make run` as of a flow, on files that DVC and the stages can read.

No import of Prefect, which takes seconds: `make run` needs none.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from videomar.config import load_own_params
from videomar.config.layout import Layout
from videomar.files import explain_full_disk
from videomar.provenance.dvc_repair import keep_lock, read_pipeline, repair

_LOCK, _HOLDER = Layout().local / "flow.lock", Layout().local / "flow.name"


@contextmanager
def hold_checkout(name: str, report: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of the checkout in the working folder; wait while another run holds it.

    The system releases the lock of a run that is killed. What such a run damaged is repaired, and params.yaml
    is checked, before the context begins.

    Args:
        name: Of this run, for those that wait.
        report: Is called with a line about a wait or a repair.

    Raises:
        VideomarError: params.yaml is wrong, DVC's files cannot be repaired, or a disk is full.
    """
    with explain_full_disk():
        _LOCK.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(_LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            other = _HOLDER.read_text(encoding="utf-8") if _HOLDER.is_file() else "another run"
            report(f"{name} waits for its turn: {other} is running")
            lock.acquire()
        try:
            _HOLDER.write_text(name, encoding="utf-8")
            for line in repair(Path()):
                report(line)
            check_params(Path())
            yield
            keep_lock(Path())
        finally:
            lock.release()


def check_params(folder: Path) -> None:
    """Check params.yaml if stages of the folder's dvc.yaml read it.

    Before the first stage, so that a mistake in the last section costs no hours and deletes no output.

    Raises:
        ParamsError: it is wrong.
    """
    here = Layout(folder)
    if any(entry.get("params") for entry in read_pipeline(here.pipeline).values()):
        load_own_params(here.params)

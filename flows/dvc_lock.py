"""DVC's list of who reads and writes what: a DVC that is killed while it writes leaves it unreadable."""

import json
from pathlib import Path


def mend_dvc_lock(folder: Path) -> None:
    """Let DVC begin that list anew if it cannot be read: else each later command of DVC fails at it."""
    tmp = folder / ".dvc/tmp"
    if _is_readable(tmp / "rwlock"):
        return
    from dvc.lock import make_lock

    with make_lock(str(tmp / "rwlock.lock"), tmp_dir=str(tmp)):  # DVC's own: nobody is writing it just now
        if not _is_readable(tmp / "rwlock"):
            (tmp / "rwlock").unlink()


def _is_readable(path: Path) -> bool:
    try:
        json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return True
    except ValueError:
        return False
    return True

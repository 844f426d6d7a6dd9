"""What `videomar doctor --fix` changes: only MLflow's store, of which a copy is kept, and nothing is removed.

tables of an older MLflow            upgraded in a copy, which then replaces the store
artifacts outside of the checkout    copied into it, then named there
"""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from videomar.errors import VideomarError
from videomar.files import atomic_write
from videomar.ops.backup import kept_folder, local_store, require_idle
from videomar.tracking.artifact_roots import FormerRoot, copy_artifacts, foreign_roots, former_roots, rename
from videomar.tracking.mlflow_store import other_tables, store_problem, tracking_uri


def repair() -> list[str]:
    """Upgrade the tables of the local store, and take in its artifacts; return lines for the user.

    After a kill, repeat it: the store changes last.

    Raises:
        VideomarError: services use the store, it cannot be written, or a newer MLflow made it.
    """
    if not tracking_uri().startswith("sqlite:///") or not (store := local_store()).is_file():
        return []
    try:
        roots = [] if (other := other_tables(store)) else roots_outside(store)
        if other is None and not roots:
            return []
        require_idle("doctor --fix")
        kept = kept_folder(store) / store.name
        _copy(store, kept)
        lines = [f"{store}: a copy from before is {kept}"]
        if other is not None:
            _upgrade(store, other)
            lines.append(f"{store}: its tables are now those of the installed MLflow")
            roots = roots_outside(store)
        for root in roots:
            copy_artifacts(root)
            copied = f"{len(root.elsewhere)} folders copied from {root.folder}"
            lines.append(f"{root.here}: {copied}; {root.rows} paths of the store now lead here")
        rename(store, roots)
    except sqlite3.Error as error:
        raise VideomarError(f"{tracking_uri()}: {store_problem(error)}") from None
    return lines


def roots_outside(store: Path) -> list[FormerRoot]:
    """Folders outside of the checkout whose artifacts can be taken in.

    Raises:
        sqlite3.Error: the store cannot be read.
    """
    former = former_roots(store)
    known = {root.prefix for root in former}
    return [*former, *(root for root in foreign_roots(store) if root.prefix not in known)]


def _copy(store: Path, target: Path) -> None:
    """Copy a store that may be in use."""
    with closing(sqlite3.connect(store)) as source, closing(sqlite3.connect(target)) as copy:
        source.backup(copy)


def _upgrade(store: Path, why: str) -> None:
    """Replace the store by a copy with upgraded tables, whole or not at all."""
    with atomic_write(store) as draft:
        _copy(store, draft)
        command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{draft}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or other_tables(draft) is not None:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1][:300]
            raise VideomarError(f"{store}: {why}; the upgrade ended with: {last}; the store is as it was")

"""What nothing needs any more, by folder and by store; found first, removed only when asked.

Kept, whatever its age: what a registered version or the run that trained an aliased one needs, what a git
branch or tag or the working tree names, and what MLflow does not have yet.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from videomar.errors import VideomarError
from videomar.files import process_exists
from videomar.registry.versions import Version, aliases_of, all_versions
from videomar.tracking.mlflow_store import tracking_uri
from videomar.tracking.run_log import LINES, SENT, read_json
from videomar.tracking.runs import OUTBOX, RUN_FILE, read_run_id

LOCAL = Path(".local")
REPLACED = "replaced-"
"""Start of the name of the folder below `.local` that keeps what a restore has replaced."""
_CHECKPOINTS = Path("checkpoints")
_WRITTEN = tuple(map(Path, ("data", "metrics", "plots", "reports", "checkpoints", ".local/evaluations")))
_DAY_S = 86400.0
_DRAFT_S = 3600.0  # a checkpoint of any size is written in less


@dataclass(frozen=True, slots=True)
class Garbage:
    """One thing to be removed."""

    what: str
    bytes: int
    why: str
    remove: Callable[[], None]


def find_files(days: float, versions: Sequence[Version]) -> tuple[list[Garbage], list[str]]:
    """Folders and drafts that nothing reads again, and what was kept although it is old."""
    trained = {version.tags.get("training_run") for version in versions if aliases_of(version)}
    garbage, notes = [], []
    for run in sorted(_CHECKPOINTS.glob("**/*.aside/*/")):
        if _age_s(run) < days * _DAY_S:
            continue
        if _has_unsent(run):
            notes.append(_kept_for_mlflow(run))
        elif (run_id := read_run_id(run / RUN_FILE)) is not None and run_id in trained:
            notes.append(f"{run}: kept, the run that trained a version with an alias")
        else:
            garbage.append(_folder(run, f"a training run set aside over {days:g} days ago"))
    reasons = {
        "ray/*/": "Ray's notes of a training that has ended",
        "journals/*/": "unfinished work for a cache in an object store",
        "mirrors/*/": "a copy of an object store's folder; fetched again if needed",
        "evaluations/*/": "clips of a registered version that was judged again",
        "sweeps/*/": "a sweep that was broken off",
        f"{REPLACED}*/": "what a restore has replaced",
    }
    for pattern, why in reasons.items():
        for folder in sorted(LOCAL.glob(pattern)):
            if _age_s(folder) < days * _DAY_S:
                continue
            if _has_unsent(folder):
                notes.append(_kept_for_mlflow(folder))
            else:
                garbage.append(_folder(folder, f"{why}; untouched for {days:g} days"))
    for path in find_drafts():
        garbage.append(_folder(path, "left half-written by a process that has ended"))
    return garbage, notes


def find_drafts() -> list[Path]:
    """Half-written checkpoints, and drafts of files whose process has ended."""
    found = [path for path in _CHECKPOINTS.rglob(".draft-*") if path.is_dir() and _age_s(path) > _DRAFT_S]
    # `files.atomic_write` names its temporary files .NAME.PID.
    drafts = [path for folder in _WRITTEN for path in folder.rglob(".*.*")]
    drafts += [path for path in LOCAL.glob(".*.*") if path.is_file()]
    for path in drafts:
        if path.is_file() and not process_exists(path.name.rpartition(".")[2]):
            found.append(path)
    return sorted(found)


def known_versions() -> list[Version]:
    """All registered versions.

    Raises:
        VideomarError: the registry cannot be asked: then nobody knows what is needed.
    """
    from mlflow.exceptions import MlflowException

    uri = tracking_uri()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise VideomarError(
            "gc: got no registry, expected one that says what is needed; `videomar restore BACKUP.tar` if it "
            "was lost"
        )
    try:
        return all_versions()
    except MlflowException as error:
        raise VideomarError(
            f"gc: got no answer of the registry ({' '.join(str(error).split())[:200]}), expected what is "
            "needed; `make up`, then again"
        ) from None


def remove_all(garbage: Iterable[Garbage]) -> int:
    """Remove it all; bytes freed."""
    freed = 0
    for item in garbage:
        item.remove()
        freed += item.bytes
    return freed


def bytes_of(path: Path) -> int:
    """Size of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file() or file.is_symlink())


def _folder(path: Path, why: str) -> Garbage:
    def remove() -> None:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    return Garbage(str(path), bytes_of(path), why, remove)


def _age_s(folder: Path) -> float:
    """Seconds since anything in it was written."""
    times = [path.lstat().st_mtime for path in (folder, *folder.rglob("*"))]
    return time.time() - max(times)


def _has_unsent(run: Path) -> bool:
    return any(
        lines.stat().st_size > read_json(lines.with_name(SENT)).get("bytes", 0)
        for lines in run.glob(f"**/{OUTBOX}/*/{LINES}")
    )


def _kept_for_mlflow(folder: Path) -> str:
    return f"{folder}: kept, MLflow does not have all of it; `videomar upload {folder}` sends it"

"""Files, MLflow runs and DVC objects that nothing needs any more: found first, removed only on request.

Kept, whatever its age: what a registered version or the run that trained an aliased one needs, what a git
branch or tag or the working tree names, and what MLflow does not have yet.
"""

import json
import logging
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from videomar.config.layout import Layout
from videomar.errors import VideomarError
from videomar.files import process_exists
from videomar.provenance.checkout import outputs_of
from videomar.registry.ancestors import read_ancestors
from videomar.registry.evidence import text_of
from videomar.registry.versions import Version, aliases_of, all_versions, download_evidence
from videomar.tracking.mlflow_store import tracking_uri
from videomar.tracking.run_log import LINES, SENT, read_json
from videomar.tracking.runs import OUTBOX, RUN_FILE, read_run_id
from videomar.tracking.staging import staged_folders

if TYPE_CHECKING:
    from dvc.repo import Repo

DEFAULT_DAYS = 30.0
"""What was used, or deleted in MLflow, within so many days is kept."""
LOCAL = Layout().local
REPLACED = "replaced-"
"""Prefix of the folder below `.local` that keeps what a restore has replaced."""
_CHECKPOINTS = Layout().checkpoints
_WRITTEN = (
    Path("data"),
    _CHECKPOINTS,
    Layout().metrics,
    Layout().plots,
    Layout().report.parent,
    LOCAL / "evaluations",
)
_DAY_S = 86400.0
DRAFT_S = 3600.0
"""A checkpoint of any size is written in less."""
_OBJECT = re.compile(r"[0-9a-f]{32}(\.dir)?")


@dataclass(frozen=True, slots=True)
class Garbage:
    """One thing to be removed."""

    what: str
    bytes: int
    why: str
    remove: Callable[[], None]


def find_files(days: float, versions: Sequence[Version]) -> tuple[list[Garbage], list[str]]:
    """Find folders and drafts that nothing reads again; return them, and notes on old ones that are kept."""
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
            garbage.append(_folder(run, f"a training run archived over {days:g} days ago"))
    started = {version.tags.get("parent_weights_sha256", "") for version in versions}
    for weights in sorted(_CHECKPOINTS.glob("*.start/*/")):
        if _age_s(weights) >= days * _DAY_S and not any(name.startswith(weights.name) for name in started):
            why = f"weights that no version's training started from; untouched for {days:g} days"
            garbage.append(_folder(weights, why))
    reasons = {
        "ray/*/": "Ray's files of a training that has ended",
        "journals/*/": "unfinished work for a cache in an object store",
        "mirrors/*/": "a copy of an object store's folder; fetched again if needed",
        "evaluations/*/": "clips of a registered version that was judged again",
        "sweeps/*/": "an interrupted sweep",
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
    """Find half-written checkpoints, and temporary files and folders of processes that have ended."""
    found = [path for path in _CHECKPOINTS.rglob(".draft-*") if path.is_dir() and _age_s(path) > DRAFT_S]
    found += [staged.folder for staged in staged_folders() if staged.ended]
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
        VideomarError: the registry gives no answer, so what is needed is not known.
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
    """Remove everything; return the bytes freed."""
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
    """Seconds since anything in the folder was written."""
    times = [path.lstat().st_mtime for path in (folder, *folder.rglob("*"))]
    return time.time() - max(times)


def _has_unsent(run: Path) -> bool:
    return any(
        lines.stat().st_size > read_json(lines.with_name(SENT)).get("bytes", 0)
        for lines in run.glob(f"**/{OUTBOX}/*/{LINES}")
    )


def _kept_for_mlflow(folder: Path) -> str:
    return f"{folder}: kept, MLflow does not have all of it; `videomar upload {folder}` sends it"


def find_objects(versions: Sequence[Version]) -> tuple[list[Garbage], list[str]]:
    """Find objects of DVC's cache that no tree, branch, tag, experiment or registered version names."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)  # DVC warns about outputs that do not exist yet
    needed: set[str] = set()
    for version in versions:
        with tempfile.TemporaryDirectory() as folder:
            evidence = download_evidence(version, Path(folder))
            outputs = outputs_of(text_of(evidence / "dvc.lock"))
            inherited = [outputs_of(ancestor.lock) for ancestor in read_ancestors(evidence)]
        if not outputs:
            return [], [f"DVC's cache: left alone, {version} has no dvc.lock that says what it needs"]
        needed |= {md5 for each in (outputs, *inherited) for md5 in each.values()}
    try:
        with Repo() as repo, repo.lock:
            cache = Path(repo.cache.local.path)
            if not cache.resolve().is_relative_to(Path(repo.root_dir).resolve()):
                return [], [f"{cache}: left alone, other checkouts may use it"]
            unused = _unused(repo, needed)
    except DvcException as error:
        return [], [f"DVC's cache: left alone ({' '.join(str(error).split())[:200]})"]
    if not unused:
        return [], []

    def remove() -> None:
        with Repo() as repo, repo.lock:  # once more: a run may have used one of them meanwhile
            for path in _unused(repo, needed):
                path.unlink(missing_ok=True)

    why = "no tree, branch, tag or registered version names them"
    return [Garbage(f"DVC's cache: {len(unused)} objects", sum(map(bytes_of, unused)), why, remove)], []


def _unused(repo: "Repo", needed: set[str]) -> list[Path]:
    """Objects that neither the repository nor these outputs name. To be called with the lock held."""
    from dvc.scm import NoSCM

    cache, everywhere = Path(repo.cache.local.path), not isinstance(repo.scm, NoSCM)
    # `force`: of a folder whose listing is not here, as in a clone, nothing can be restored from its files.
    named = repo.used_objs(
        all_branches=everywhere, all_tags=everywhere, all_experiments=everywhere, force=True
    )
    used = {str(known.value) for objects in named.values() for known in objects}
    used |= {name for md5 in needed for name in _with_contents(cache, md5)}
    used |= set(_linked(repo, cache))
    return [path for path in sorted(cache.glob("??/*")) if _is_unused(path, used)]


def _linked(repo: "Repo", cache: Path) -> Iterator[str]:
    """Objects that files of the working tree are symbolic links to: without them these would be lost."""
    if "symlink" not in repo.cache.local.cache_types:
        return
    for out in repo.index.outs:
        top = Path(out.fs_path)
        for path in (top, *top.rglob("*")):
            if path.is_symlink() and (target := path.resolve()).is_relative_to(cache.resolve()):
                yield target.parent.name + target.name


def _is_unused(path: Path, used: set[str]) -> bool:
    name = path.parent.name + path.name
    return path.is_file() and _OBJECT.fullmatch(name) is not None and name not in used


def _with_contents(cache: Path, md5: str) -> Iterator[str]:
    """The name of an object, and of all that it lists if it is a folder."""
    yield md5
    listing = cache / md5[:2] / md5[2:]
    if md5.endswith(".dir") and listing.is_file():
        yield from (str(entry["md5"]) for entry in json.loads(listing.read_text("utf-8")))

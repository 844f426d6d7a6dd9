"""Checks of the machine: services, records not yet sent to MLflow, packages, temporary files, disk space."""

import os
import shutil
from importlib import metadata
from pathlib import Path
from shlex import quote

from videomar.config.layout import Layout
from videomar.curation.retries import installed_programs, read_reading
from videomar.environment import SERVICES, answers, read_services
from videomar.errors import BIN, Finding
from videomar.ops.gc import find_drafts
from videomar.ops.sbom import read_pins
from videomar.processes import Identity
from videomar.provenance.made_with import record_of
from videomar.tracking.run_log import LINES, SENT, read_json
from videomar.tracking.runs import OUTBOX

_LITTLE_BYTES = 1_000_000_000
_SHOWN = 5
_OF_CUDA = ("nvidia-", "cuda-", "triton")  # other builds of torch lack these


def environment_findings(venv: Path) -> list[Finding]:
    """Check that .venv was made here: the programs of one that was copied run the code of the other copy."""
    made_in, here = read_json(venv / ".ready").get("folder"), str(venv.parent.resolve())
    if venv.is_symlink() or made_in in (None, here):
        return []
    what = f"was made in {made_in}, whose Python and code its programs run, expected those of {here}"
    return [Finding(str(venv), what, "make setup")]


def worktree_findings(sweeps: Path) -> list[Finding]:
    """Check that work trees of interrupted sweeps belong to this checkout's repository and cache."""
    findings, ours = [], Path(".git").resolve()
    for pointer in sorted(sweeps.glob("*/.git")):
        theirs = Path(pointer.read_text("utf-8").strip().removeprefix("gitdir: "))
        if theirs.is_relative_to(ours) or not ours.is_dir():
            continue
        tree, cache = quote(str(pointer.parent)), quote(str(Path(".dvc/cache").resolve()))
        # First by hand: `git worktree repair` trusts a pointer that is valid, as that to the other copy is.
        line = quote(f"gitdir: {ours / 'worktrees' / theirs.name}")
        fix = f"echo {line} > {tree}/.git && git worktree repair {tree} && "
        fix += f"{BIN}dvc --cd {tree} cache dir --local {cache}"
        what = f"belongs to the repository of {theirs}, expected that of this checkout"
        findings.append(Finding(str(pointer.parent), what, fix))
    return findings


def service_findings() -> list[Finding]:
    """Check that the services that `make up` started are alive and answer; stopped ones are no mismatch."""
    noted = read_services()
    if not noted:
        if SERVICES.is_file() and read_json(SERVICES):
            what = "came here with a copied checkout, expected the record of `make up` in this one"
            return [Finding(str(SERVICES), what, "make down")]
        if SERVICES.is_file():
            return [Finding(str(SERVICES), "cannot be read, expected the record of `make up`", "make up")]
        return []
    supervisor = noted.get("supervisor")
    if supervisor is None or Identity(*supervisor).process() is None:
        return [Finding(str(SERVICES), "its supervisor has ended, expected a living process", "make up")]
    findings, services = [], noted.get("services", {})
    again = f"make down && make up{' RAY=1' if 'ray' in services else ''}"
    for name, service in services.items():
        health = {"mlflow": f"{service['address']}/health", "prefect": f"{noted['prefect_api']}/health"}
        living = [process for process in service["processes"] if Identity(*process).process() is not None]
        if not living:
            findings.append(Finding(f"service {name}", "has no living process, expected one", again))
        elif name in health and not answers(health[name]):
            what = f"does not answer at {health[name]}, expected an answer"
            findings.append(Finding(f"service {name}", what, again))
    theirs, ours = noted.get("tracking_uri"), os.environ.get("MLFLOW_TRACKING_URI")
    if ours and ours != theirs:  # without the addresses: that of a database contains its password
        what = "names another store than the MLflow of `make up` shows, expected one of the two for both"
        findings.append(Finding("MLFLOW_TRACKING_URI", what, "unset MLFLOW_TRACKING_URI"))
    return findings


def outbox_findings(checkpoints: Path) -> list[Finding]:
    """Check that MLflow has everything that training runs recorded."""
    unsent = [
        box
        for box in sorted(checkpoints.rglob(f"{OUTBOX}/*"))
        if (box / LINES).is_file() and (box / LINES).stat().st_size > read_json(box / SENT).get("bytes", 0)
    ]
    what = "has lines that MLflow does not have, expected none once its run has ended"
    return [Finding(str(box), what, f"{BIN}videomar upload {checkpoints}") for box in unsent]


def package_findings(lock: Path) -> list[Finding]:
    """Compare the installed packages with requirements.lock."""
    different = []
    for name, pin in read_pins(lock).items():
        if name.startswith(_OF_CUDA):
            continue
        try:
            installed = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            installed = "none"
        if installed != pin.partition("+")[0]:
            different.append(f"{name} {installed} instead of {pin}")
    if not different:
        return []
    more = f" and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
    what = f"differs from the environment: {', '.join(different[:_SHOWN])}{more}"
    return [Finding(str(lock), what, "rm -f .venv/.ready && make setup")]


def reading_findings(layout: Layout) -> list[Finding]:
    """Compare the programs that read the videos of the ledger with the installed ones.

    Other programs may find other clips, or fail where these succeed. Files that failed are a finding, too.
    """
    findings, reading = [], read_reading(layout.ledger)
    installed = installed_programs()
    other = [
        f"{name} {version}, here {installed.get(name, 'none')}"
        for name, version in sorted(reading.programs.items())
        if installed.get(name) != version
    ]
    if other:
        # The record says that nothing has changed, for packages are not compared.
        again = f"rm -f {record_of(layout.candidates)} && {BIN}dvc repro --force ingest && {BIN}dvc repro"
        what = f"was made with {', '.join(other)}, expected the installed programs"
        findings.append(Finding(str(layout.ledger), what, again))
    if reading.unfinished:
        what = f"has {reading.unfinished} files that failed on this machine, expected verdicts on all"
        findings.append(Finding(str(layout.ledger), what, f"{BIN}dvc repro"))
    return findings


def leftover_findings() -> list[Finding]:
    """Find files that killed processes left half-written."""
    what = "was left half-written by a process that has ended, expected nothing"
    return [Finding(str(path), what, f"{BIN}videomar gc --yes") for path in find_drafts()]


def disk_findings(folder: Path) -> list[Finding]:
    """Check that the disk can be written, and has space for another checkpoint or cache."""
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        what = "is mounted read-only, expected one that can be written; nothing else is wrong because of it"
        return [
            Finding(f"disk of {folder.resolve()}", what, f"findmnt --target {quote(str(folder.resolve()))}")
        ]
    free = shutil.disk_usage(folder).free
    if free >= _LITTLE_BYTES:
        return []
    what = f"has {free / 1e9:.2f} GB free, expected {_LITTLE_BYTES / 1e9:.0f} GB"
    return [Finding(f"disk of {folder.resolve()}", what, f"{BIN}videomar gc")]

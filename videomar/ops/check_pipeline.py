"""Checks of params.yaml, and of the files on disk against dvc.lock, as DVC compares them."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import Any

import yaml

from videomar.config import Params, load_own_params, load_params
from videomar.config.layout import Layout
from videomar.config.params import names_of_starts
from videomar.curation.retries import retry_entry
from videomar.errors import BIN, Finding, OldLayoutError, ParamsError, VideomarError
from videomar.ops.gc import LOCAL, REPLACED
from videomar.provenance.checkout import outputs_of
from videomar.sources.listing import Named, changed_named, is_current

_OUTS, _DEPS = "changed outs", "changed deps"
_SHOWN = 4
_PASSING = (
    "unable to acquire lock",
    "is busy",
    "is locked",
    "read-only",
    "permission denied",
    "no space left",
)
"""Of DVC's messages about faults of this moment."""
_WORDS = {
    "modified": "differs from dvc.lock",
    "deleted": "is missing, dvc.lock names it",
    "new": "is not in dvc.lock",
    "not in cache": "has no copy in the cache, expected the one that dvc.lock names",
}
_ALWAYS = "always changed"  # DVC says this of the stage that lists the folder of clips, whatever it finds
_HERE = Layout()
Status = Mapping[str, Sequence[Any]]
"""Output of `dvc status --json`: what changed, by stage."""


def params_findings(path: Path) -> list[Finding]:
    """Check that params.yaml can be read and has its keys in their present places."""
    try:
        load_own_params(path)
    except (ParamsError, OSError, yaml.YAMLError) as error:
        message = " ".join(str(error).split()).removeprefix(f"{path}: ")
        moved = isinstance(error, OldLayoutError)
        fix = f"{BIN}videomar migrate" if moved else f"git diff {quote(str(path))}"
        return [Finding(str(path), message, fix)]
    return []


def pipeline_findings(lock: Path, cache: Path) -> list[Finding]:
    """Check every output and every stage against dvc.lock.

    Args:
        lock: dvc.lock in the working folder.
        cache: Folder of DVC's objects by their MD5.
    """
    if not lock.is_file():
        return [Finding(str(lock), "no such file, expected the record of a run", "make run")]
    try:
        return list(_explain(pipeline_status(), lock, cache))
    except VideomarError as error:
        passing = any(words in str(error).lower() for words in _PASSING)
        # The next run repairs what a killed one left, before its first stage.
        fix = f"{BIN}videomar doctor" if passing else "make run"
        return [Finding("dvc status", f"{error}, expected a comparison", fix)]


def pipeline_status() -> Status:
    """Compare with dvc.lock.

    DVC does not know whether the folder of clips, or files that parameters name, have changed: their listings
    are outputs of a stage that always runs. So they are listed here.

    Raises:
        VideomarError: DVC fails, or params.yaml is wrong.
    """
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        changes: dict[str, list[Any]] = json.loads(done.stdout)
    except ValueError:
        message = " ".join(done.stderr.split())[-300:].removeprefix("ERROR: ")
        raise VideomarError(message or "no answer") from None
    status = {stage: [fact for fact in facts if fact != _ALWAYS] for stage, facts in changes.items()}
    if not _HERE.listing.is_file():
        return {stage: facts for stage, facts in status.items() if facts}
    params = load_params(_HERE.params)
    if not is_current(_HERE.listing, Path(source := params.samples.source)):
        status.setdefault("samples", []).append({_DEPS: {source: "modified"}})
    for stage, names in changed_named(params, _HERE.named, _starts(params)).items():
        status.setdefault(stage, []).append({_DEPS: dict.fromkeys(names, "modified")})
    return {stage: facts for stage, facts in status.items() if facts}


def _starts(params: Params) -> Named:
    """What stages depend on because of weights to start from, or of files that failed."""
    failed = retry_entry(_HERE.candidates)
    if not names_of_starts(params):
        return failed
    from videomar.hub.start import named_starts  # here: it needs torch, which other checks do not

    return {**named_starts(params), **failed}


def _explain(status: Status, lock: Path, cache: Path) -> Iterator[Finding]:
    outputs = outputs_of(lock.read_text(encoding="utf-8"))
    changed: dict[str, str] = {}
    for stage, facts in status.items():
        stale = any(not isinstance(fact, dict) or _DEPS in fact for fact in facts)
        for path, reported in _of(facts, _OUTS).items():
            # DVC reports a missing copy in the cache first, even if the file itself is missing too.
            word = reported if Path(path).exists() else "deleted"
            changed[path] = word
            # A stage that has to run again resumes from its files: old ones from the cache would lose work.
            stored = not stale and _is_stored(cache, outputs.get(path, ""))
            yield Finding(path, _WORDS.get(word, word), _fix(path, stage, word, stored))
    for stage, facts in status.items():
        names = [name for name, word in _of(facts, _DEPS).items() if changed.get(name) != word]
        names += [name for fact in facts if isinstance(fact, dict) for name in fact if "changed" not in name]
        names += [fact for fact in facts if isinstance(fact, str)]
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            what = f"is not as it ran last: {', '.join(names[:_SHOWN])}{more}"
            yield Finding(f"stage {stage}", what, f"{BIN}dvc repro {quote(stage)}")


def _of(facts: Sequence[Any], kind: str) -> dict[str, str]:
    """Changes of a kind by path, and of a parameter file by key."""
    found: dict[str, str] = {}
    for fact in facts:
        for path, word in fact.get(kind, {}).items() if isinstance(fact, dict) else ():
            found |= {path: word} if isinstance(word, str) else {f"{path} {key}": word[key] for key in word}
    return found


def _is_stored(cache: Path, md5: str) -> bool:
    return bool(md5) and (cache / md5[:2] / md5[2:]).is_file()


def _fix(path: str, stage: str, word: str, stored: bool) -> str:
    if word == "not in cache":
        return f"{BIN}dvc commit --force {quote(stage)}"
    if not stored:
        return f"{BIN}dvc repro {quote(stage)}"
    checkout = f"{BIN}dvc checkout {quote(path)}"
    if word == "deleted":
        return checkout
    # Somebody may have made the change on purpose: it is moved out of the way, and `videomar gc` finds it.
    kept = (LOCAL / f"{REPLACED}{datetime.now(UTC):%Y%m%dT%H%M%S}" / path).parent
    return f"mkdir -p {quote(str(kept))} && mv {quote(path)} {quote(str(kept))}/ && {checkout}"

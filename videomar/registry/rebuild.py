"""A registered version made again in a clean clone, from its commit and the same raw files.

On one kind of processor with one number of threads every bit comes out again. On another kind each product is
rounded otherwise, and training amplifies that: there other weights are no sign of a fault, and what is
compared is whether the same clips lead to figures that are as good.
"""

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from videomar.checkpoint.folder import latest
from videomar.config import load_params
from videomar.config.migration import migrate
from videomar.errors import CheckpointError, DataError, VideomarError
from videomar.files import sha256_of
from videomar.processes import run_within
from videomar.provenance.checkout import run_git
from videomar.registry.candidate import machine_kind
from videomar.registry.evidence import (
    FILES,
    LINEAGE,
    read_file_sums,
    read_lineage,
    write_file_sums,
    write_lineage,
)
from videomar.registry.trace import Places, Trace
from videomar.registry.versions import download_evidence
from videomar.sources.listing import write_named

PARAMS = Path("params.yaml")
_METRICS = Path("metrics")
_KINDS = ("latents", "tokenizer", "checkpoint")
# Of metrics by name, the first that fits: how far one may move, in its own unit and as a share of itself. A
# metric without one is a count. Decibels follow from a run on AMD and on Intel (docs/design/provenance.md);
# the others are chosen.
_TOLERANCES = (
    (r"real_\w*_db$", 1.5, 0.0),
    (r"_db$", 1.0, 0.0),
    (r"loss$|\.steps$|_end_step$", 0.0, 0.1),
    (r"^encode\.megabytes$", 0.0, 0.1),
    (r"^sample\.(cache_difference|causality_leak)$", 0.001, 0.0),
    (r"_clips$|_skipped$", 0.0, 0.0),
    # Of a few clips each, so that one of eight is an eighth.
    (r"(dynamic_degree|holds_together)$", 0.25, 0.0),
    (r"^evaluate\.", 0.05, 0.25),
)
# What a run cost, and what it found done already: these may differ between equal results.
_COSTS = re.compile(
    r"seconds$|_s$|time_share$|_gb$|per_second$"
    r"|\.(encoded|reused|captions_encoded|shards_written|shards_damaged)$"
)


@dataclass(frozen=True, slots=True)
class Made:
    """What a run of the pipeline came to."""

    keys: Mapping[str, str]
    """Key of each clip's latent, by clip."""
    files: Mapping[str, str]
    """sha256 by kind and name: latents, tokenizer, weights."""
    metrics: Mapping[str, float]
    """By `stage.key`."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that did not come out the same; None where it is not there."""

    what: str
    recorded: str | None
    rebuilt: str | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came out differently, and how closely was looked."""

    differences: list[Difference]
    by_bits: bool
    """Whether files and metrics were compared bit by bit; else only metrics were, within tolerances."""
    because: str
    """Why so, with the kinds of machine."""


def rebuild(traced: Trace, into: Path, places: Places) -> Comparison:
    """Make a version again in the folder `into`, and compare.

    The present interpreter and its packages are used. Its training is recorded below `into`, not in the
    registry that the version is from.

    Raises:
        VideomarError: it cannot be rebuilt: code or data of that day are not to be had; or a stage fails.
    """
    commit = _require_commit(traced)
    sources = _find_raw(traced, places.raw)
    if into.exists() and any(into.iterdir()):
        raise DataError(f"{into}: got a folder with files in it, expected a new or an empty one")
    _git(Path(), "clone", "--quiet", "--no-checkout", str(Path().resolve()), str(into.resolve()))
    _git(into, "checkout", "--quiet", "--detach", commit)
    with tempfile.TemporaryDirectory() as folder:
        evidence = download_evidence(traced.version, Path(folder))
        for name in (PARAMS.name, "takedowns.csv"):
            if (evidence / name).is_file():
                shutil.copyfile(evidence / name, into / name)
        if not (into / "videomar").is_dir():
            # Its stages are those of the installed package, and not of its commit.
            migrate(into / PARAMS.name)
        recorded = _recorded(evidence)
    for name, source in sources.items():
        target = into / places.raw / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
    # Made by the stage that lists the folder of clips, which need not be there any more.
    write_named(load_params(into / PARAMS, PARAMS), into / places.named)
    made = _stages_after(into / "dvc.yaml", places.raw.as_posix())
    for stage in made:
        _run_stage(stage, into)
    here = machine_kind(load_params(into / PARAMS, PARAMS))
    then = {name: traced.version.tags.get(name, "") for name in here}
    return compare(recorded, _rebuilt(into, places, made), then, here)


def compare(recorded: Made, rebuilt: Made, then: Mapping[str, str], here: Mapping[str, str]) -> Comparison:
    """What differs between two runs: bit by bit where the kinds of machine agree, else within tolerances.

    Equal bits are equal on whatever machines.

    Args:
        recorded: The run that was registered.
        rebuilt: The other one.
        then: `machine_kind` of the first; empty values where it was not recorded.
        here: The same of the second.
    """
    differences = compare_bits(recorded, rebuilt)
    told = "; ".join(here.values())
    if then == here:
        return Comparison(differences, True, f"both were made on {told}")
    before = "; ".join(value or "a kind that was not recorded" for value in then.values())
    kinds = f"recorded on {before}, rebuilt on {told}"
    if not differences:
        return Comparison([], True, f"all is equal, though {kinds}")
    return Comparison(compare_figures(recorded, rebuilt), False, f"{kinds}, and bits differ between kinds")


def compare_bits(recorded: Made, rebuilt: Made) -> list[Difference]:
    """All that differs between two runs; costs are no result, and only what both should have is compared."""
    differences = _differing("latent key of clip ", recorded.keys, rebuilt.keys)
    differences += _differing("", recorded.files, rebuilt.files)
    metrics = [{name: repr(value) for name, value in made.items()} for made in _results(recorded, rebuilt)]
    return differences + _differing("metric ", *metrics)


def compare_figures(recorded: Made, rebuilt: Made) -> list[Difference]:
    """What differs beyond rounding that training has amplified: clips, names of files, and metrics."""
    differences = _differing(
        "latent of clip ", *(dict.fromkeys(made.keys, "there") for made in (recorded, rebuilt))
    )
    differences += _differing("", *(dict.fromkeys(made.files, "there") for made in (recorded, rebuilt)))
    before, after = _results(recorded, rebuilt)
    for name in sorted({*before, *after}):
        one, other, limit = before.get(name), after.get(name), 0.0
        if one is not None and other is not None:
            limit = tolerance_of(name, one)
            if abs(one - other) <= limit:
                continue
        told = f"metric {name} (within {limit:g})"
        differences.append(
            Difference(told, *(None if value is None else repr(value) for value in (one, other)))
        )
    return differences


def tolerance_of(metric: str, value: float) -> float:
    """How far a metric may move between kinds of machine; by no means, if it is a count."""
    for pattern, absolute, share in _TOLERANCES:
        if re.search(pattern, metric):
            return max(absolute, share * abs(value))
    return 0.0


def _results(recorded: Made, rebuilt: Made) -> list[dict[str, float]]:
    """Metrics of both but costs, of stages that were run again."""
    stages = {name.partition(".")[0] for name in rebuilt.metrics}
    return [
        {
            name: value
            for name, value in made.metrics.items()
            if name.partition(".")[0] in stages and _COSTS.search(name) is None
        }
        for made in (recorded, rebuilt)
    ]


def _differing(kind: str, recorded: Mapping[str, str], rebuilt: Mapping[str, str]) -> list[Difference]:
    return [
        Difference(f"{kind}{name}", recorded.get(name), rebuilt.get(name))
        for name in sorted({*recorded, *rebuilt})
        if recorded.get(name) != rebuilt.get(name)
    ]


def _require_commit(traced: Trace) -> str:
    """The commit whose tree made the version, if it alone says what the code was.

    Raises:
        VideomarError: it does not, or is not in this repository.
    """
    tags, version = traced.version.tags, traced.version
    commit = tags.get("git_commit", "none")
    if not traced.files:
        raise VideomarError(
            f"{version}: got no record of its files, expected a version registered with its lineage; "
            "`dvc repro` and release it again"
        )
    changed = tags.get("uncommitted", "unknown")
    if changed:
        raise VideomarError(
            f"{version}: got uncommitted changes when it was registered ({changed}), expected none: commit "
            f"{commit[:12]} alone is not what made it; commit first, then run and release again"
        )
    try:
        _git(Path(), "cat-file", "-e", f"{commit}^{{commit}}")
    except VideomarError:
        raise VideomarError(
            f"{version}: got commit {commit}, expected one of this repository; `git fetch` what has it"
        ) from None
    return commit


def _find_raw(traced: Trace, raw: Path) -> dict[str, Path]:
    """Where each raw file of the version lies now: under its name, or anywhere below `raw` by its bytes.

    Raises:
        DataError: some are not there any more; they are named.
    """
    wanted = traced.raw_files
    found = {name: raw / name for name, sha256 in wanted.items() if _is(raw / name, sha256)}
    lost = {name: sha256 for name, sha256 in wanted.items() if name not in found}
    if lost:
        by_sum = {sha256_of(path): path for path in raw.rglob("*") if path.is_file()}
        found |= {name: by_sum[sha256] for name, sha256 in lost.items() if sha256 in by_sum}
    missing = sorted(set(wanted) - set(found))
    if missing:
        listed = ", ".join(f"{name} (sha256 {wanted[name][:12]})" for name in missing[:5])
        raise DataError(
            f"{raw}: got no file for {len(missing)} of {len(wanted)} raw files: {listed}, "
            "expected the bytes that were trained on; put them back"
        )
    return found


def _is(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_of(path) == sha256


def _stages_after(pipeline: Path, raw: str) -> list[str]:
    """Stages of a dvc.yaml, in its order, but those that collect raw files: these are copied."""
    stages: dict[str, Any] = yaml.safe_load(pipeline.read_text(encoding="utf-8"))["stages"]
    outs = {
        name: [next(iter(out)) if isinstance(out, dict) else out for out in stage.get("outs", [])]
        for name, stage in stages.items()
    }
    left, wanted = list(stages), [raw]
    for path in wanted:  # which grows
        for maker in [name for name in left if path in outs[name]]:
            left.remove(maker)
            wanted += stages[maker].get("deps", [])
    return left


def _run_stage(stage: str, into: Path) -> None:
    # Another store would take the rebuilt training for a new one.
    settings = ["env", "-u", "MLFLOW_TRACKING_URI", f"VIDEOMAR_PYTHON={sys.executable}"]
    # Forced: results that a shared cache holds would be fetched instead of made.
    options = ["--force", "--no-run-cache", "--single-item"]
    command = [*settings, sys.executable, "-m", "dvc", "repro", *options, stage]
    run_within(None, f"{stage} in {into}", command, into.resolve())


def _recorded(evidence: Path) -> Made:
    return _made(evidence / LINEAGE, evidence / FILES, evidence / "metrics")


def _rebuilt(into: Path, places: Places, stages: list[str]) -> Made:
    checkpoint = latest(into / places.checkpoints)
    if checkpoint is None:
        raise CheckpointError(
            f"{into / places.checkpoints}: got no checkpoint, expected that of stage `train`"
        )
    folders = {
        "latents": into / places.latents,
        "tokenizer": into / places.tokenizer,
        "checkpoint": checkpoint,
    }
    with tempfile.TemporaryDirectory() as folder:
        lineage, files = Path(folder) / LINEAGE, Path(folder) / FILES
        write_lineage(lineage, into / places.ledger, into / places.latents)
        write_file_sums(files, folders, into / places.ledger)
        made = _made(lineage, files, into / _METRICS)
    metrics = {name: value for name, value in made.metrics.items() if name.partition(".")[0] in stages}
    return Made(made.keys, made.files, metrics)


def _made(lineage: Path, files: Path, metrics: Path) -> Made:
    clips = read_lineage(lineage)
    sums = [row for row in read_file_sums(files) if row.kind in _KINDS]
    # A registered checkpoint lacks the optimizer's state, and its manifest says so.
    compared = [
        row
        for row in sums
        if row.kind != "checkpoint" or row.path in ("model.safetensors", "ema.safetensors")
    ]
    return Made(
        dict(zip(clips["clip_id"], clips["key"], strict=True)),
        {f"{row.kind}/{row.path}": row.sha256 for row in compared},
        {
            f"{path.stem}.{key}": value
            for path in sorted(metrics.glob("*.json"))
            for key, value in json.loads(path.read_text("utf-8")).items()
        },
    )


def _git(folder: Path, *arguments: str) -> None:
    # Variables of a git hook that calls us would point to another repository.
    run_git(
        folder,
        *arguments,
        environment={name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
    )

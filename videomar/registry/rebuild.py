"""A registered version made again in a clean clone, from its commit and the same raw files.

On the same kind of processor with the same number of threads every bit is the same. On another kind each
product is rounded differently, and training amplifies that. There, other weights are no sign of a fault: what
is compared is whether the same clips lead to metrics that are as good.
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

from videomar.checkpoint import latest
from videomar.config import load_params
from videomar.config.edit import update_params
from videomar.config.layout import WEIGHTS, Layout
from videomar.config.migration import migrate
from videomar.errors import CheckpointError, DataError, VideomarError
from videomar.files import sha256_of
from videomar.processes import run_within
from videomar.provenance.checkout import run_git
from videomar.provenance.made_with import CPU
from videomar.registry.ancestors import kept_start, named_by
from videomar.registry.candidate import machine_kind
from videomar.registry.evidence import (
    FILES,
    LINEAGE,
    read_checksums,
    read_lineage,
    write_checksums,
    write_lineage,
)
from videomar.registry.trace import Trace
from videomar.registry.versions import download_evidence
from videomar.sources.listing import write_named

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
    (r"^curate\.film_s_", 0.001, 0.0),  # times of clips are whole milliseconds
    # Of a few clips each, so that one of eight is an eighth.
    (r"(dynamic_degree|holds_together)$", 0.25, 0.0),
    (r"^evaluate\.", 0.05, 0.25),
)
# Costs, and counts of what was cached: these may differ between equal results.
_COSTS = re.compile(
    r"seconds$|_s$|time_share$|_gb$|per_second$"
    r"|\.(encoded|reused|captions_encoded|shards_written|shards_damaged)$"
)


@dataclass(frozen=True, slots=True)
class Made:
    """Results of a run of the pipeline."""

    keys: Mapping[str, str]
    """Key of each clip's latent, by clip."""
    files: Mapping[str, str]
    """sha256 by kind and name: latents, tokenizer, weights."""
    metrics: Mapping[str, float]
    """By `stage.key`."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One result that differs; None on the side that does not have it."""

    what: str
    recorded: str | None
    rebuilt: str | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs, and how strictly it was compared."""

    differences: list[Difference]
    by_bits: bool
    """Whether files and metrics were compared bit by bit; else only metrics were, within tolerances."""
    because: str
    """Why, with the kinds of machine."""


def rebuild(traced: Trace, into: Path, raw: Path) -> Comparison:
    """Make a version again in the folder `into` and compare it with the record.

    The present interpreter and its packages are used. Training is recorded below `into`, not in the registry
    of the version.

    Args:
        traced: What the version was made from.
        into: A new or empty folder.
        raw: Folder of raw videos.

    Raises:
        VideomarError: code or data of the version are not available any more, or a stage fails.
    """
    commit = _require_commit(traced)
    sources = _find_raw(traced, raw)
    made = Layout(into)
    if into.exists() and any(into.iterdir()):
        raise DataError(f"{into}: got a folder with files in it, expected a new or an empty one")
    _git(Path(), "clone", "--quiet", "--no-checkout", str(Path().resolve()), str(into.resolve()))
    _git(into, "checkout", "--quiet", "--detach", commit)
    with tempfile.TemporaryDirectory() as folder:
        evidence = download_evidence(traced.version, Path(folder))
        for name in (made.params.name, made.takedowns.name):
            if (evidence / name).is_file():
                shutil.copyfile(evidence / name, into / name)
        if not (into / "videomar").is_dir():
            # A folder of `videomar init`: the stages are those of the installed package.
            migrate(made.params)
        recorded = _recorded(evidence)
    for name, source in sources.items():
        target = made.raw / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
    # The stage that writes this is skipped: it also lists the folder of clips, which may be gone.
    starts = _use_weights(traced, made.params)
    params = load_params(made.params, Layout().params)
    write_named(params, made.named, named_by(starts, params.tokenizer.pretrained is None))
    stages = _stages_after(made.pipeline, Layout().raw.as_posix())
    for stage in stages:
        _run_stage(stage, into)
    here = machine_kind(params, made)
    # Versions from before devices were recorded were made without a GPU, or with one for training alone.
    then = {name: traced.version.tags.get(name, CPU if name == "devices" else "") for name in here}
    return compare(recorded, _rebuilt(made, stages), then, here)


def _use_weights(traced: Trace, params: Path) -> list[Path]:
    """Let training start from the very weights that it started from, whatever their name means by now.

    Returns:
        Their folder, if the version's training started from any.

    Raises:
        DataError: they are not kept here any more.
    """
    sha256 = traced.version.tags.get("parent_weights_sha256")
    if sha256 is None:
        return []
    kept = kept_start(sha256).resolve()
    if not kept.is_dir():
        parent = traced.version.tags["parent"]
        raise DataError(
            f"{kept}: no such folder, expected the weights that training started from, of {parent}"
        )
    update_params(params, {"train": {"start_from": str(kept)}})
    return [kept]


def compare(recorded: Made, rebuilt: Made, then: Mapping[str, str], here: Mapping[str, str]) -> Comparison:
    """Compare two runs: bit by bit if the kinds of machine agree, else within tolerances.

    Args:
        recorded: The run that was registered.
        rebuilt: The other one.
        then: `machine_kind` of the first; empty values where it was not recorded.
        here: The same of the second.
    """
    differences = compare_bits(recorded, rebuilt)
    ours = "; ".join(here.values())
    if then == here:
        return Comparison(differences, True, f"both were made on {ours}")
    before = "; ".join(value or "a kind that was not recorded" for value in then.values())
    kinds = f"recorded on {before}, rebuilt on {ours}"
    if not differences:
        return Comparison([], True, f"all is equal, though {kinds}")
    return Comparison(compare_figures(recorded, rebuilt), False, f"{kinds}, and bits differ between kinds")


def compare_bits(recorded: Made, rebuilt: Made) -> list[Difference]:
    """All that differs between two runs, without costs and without stages that did not run again."""
    differences = _differing("latent key of clip ", recorded.keys, rebuilt.keys)
    differences += _differing("", recorded.files, rebuilt.files)
    metrics = [{name: repr(value) for name, value in made.items()} for made in _results(recorded, rebuilt)]
    return differences + _differing("metric ", *metrics)


def compare_figures(recorded: Made, rebuilt: Made) -> list[Difference]:
    """What differs by more than amplified rounding: clips, names of files, and metrics."""
    differences = _differing(
        "latent of clip ", *(dict.fromkeys(made.keys, "exists") for made in (recorded, rebuilt))
    )
    differences += _differing("", *(dict.fromkeys(made.files, "exists") for made in (recorded, rebuilt)))
    before, after = _results(recorded, rebuilt)
    for name in sorted({*before, *after}):
        one, other, limit = before.get(name), after.get(name), 0.0
        if one is not None and other is not None:
            limit = tolerance_of(name, one)
            if abs(one - other) <= limit:
                continue
        sides = (None if value is None else repr(value) for value in (one, other))
        differences.append(Difference(f"metric {name} (within {limit:g})", *sides))
    return differences


def tolerance_of(metric: str, value: float) -> float:
    """How far a metric may move between kinds of machine; 0 for a count."""
    for pattern, absolute, share in _TOLERANCES:
        if re.search(pattern, metric):
            return max(absolute, share * abs(value))
    return 0.0


def _results(recorded: Made, rebuilt: Made) -> list[dict[str, float]]:
    """Metrics of both without costs, of stages that ran again."""
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
    """The commit of the version's code.

    Raises:
        VideomarError: there were uncommitted changes, or this repository does not have the commit.
    """
    tags, version = traced.version.tags, traced.version
    commit = tags.get("git_commit", "none")
    if version.origin:
        raise VideomarError(f"{version}: was registered from a folder, expected one that a pipeline made")
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
            f"{version}: got commit {commit}, expected one of this repository; `git fetch` it"
        ) from None
    return commit


def _find_raw(traced: Trace, raw: Path) -> dict[str, Path]:
    """Present path of each raw file of the version: by its name, or anywhere below `raw` by its bytes.

    Raises:
        DataError: some are missing; they are named.
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
    """Stages of a dvc.yaml, in its order, without those that collect raw files: these are copied."""
    stages: dict[str, Any] = yaml.safe_load(pipeline.read_text(encoding="utf-8"))["stages"]
    outs = {
        name: [next(iter(out)) if isinstance(out, dict) else out for out in stage.get("outs", [])]
        for name, stage in stages.items()
    }
    left, wanted = list(stages), [raw]
    for path in wanted:  # grows by the dependencies of the stages found
        for maker in [name for name in left if path in outs[name]]:
            left.remove(maker)
            wanted += stages[maker].get("deps", [])
    return left


def _run_stage(stage: str, into: Path) -> None:
    # With the user's store, the rebuilt training would appear there as a new run.
    settings = ["env", "-u", "MLFLOW_TRACKING_URI", f"VIDEOMAR_PYTHON={sys.executable}"]
    # Forced: DVC would fetch the results from a shared cache instead of making them.
    options = ["--force", "--no-run-cache", "--single-item"]
    command = [*settings, sys.executable, "-m", "dvc", "repro", *options, stage]
    run_within(None, f"{stage} in {into}", command, into.resolve())


def _recorded(evidence: Path) -> Made:
    return _made(evidence / LINEAGE, evidence / FILES, evidence / "metrics")


def _rebuilt(layout: Layout, stages: list[str]) -> Made:
    checkpoint = latest(layout.training_run)
    if checkpoint is None:
        raise CheckpointError(f"{layout.training_run}: got no checkpoint, expected that of stage `train`")
    folders = {"latents": layout.latents, "tokenizer": layout.tokenizer, "checkpoint": checkpoint}
    with tempfile.TemporaryDirectory() as folder:
        lineage, files = Path(folder) / LINEAGE, Path(folder) / FILES
        write_lineage(lineage, layout.ledger, layout.latents)
        write_checksums(files, folders, layout.ledger)
        made = _made(lineage, files, layout.metrics)
    metrics = {name: value for name, value in made.metrics.items() if name.partition(".")[0] in stages}
    return Made(made.keys, made.files, metrics)


def _made(lineage: Path, files: Path, metrics: Path) -> Made:
    clips = read_lineage(lineage)
    # Of a checkpoint the weights only: a registered one lacks the optimizer's state, so its manifest differs.
    compared = [
        row
        for row in read_checksums(files)
        if row.kind in _KINDS and (row.kind != "checkpoint" or row.path in WEIGHTS)
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

"""Which of the paper's claims hold here, and which of ours?

`python -m benchmarks.claims --data FOLDER --seeds 3 --seconds 240 --jobs 2` after `make run` in FOLDER,
for hours of a CPU; on a GPU with `--seconds 7200 --jobs 1`. Sides of a claim, benchmarks/claims.yaml, learn
the same clips with every seed for equal seconds and make the same held-out clips; differences are paired by
clip and seed, and their intervals are over whole shots and over the trainings.

Every training is a run in MLflow, and everything is in the folders of the ladder (`ladder_work`), so that a
benchmark that was killed continues, and `--jobs` processes share the work. They take the place of Ray Tune,
whose workers would not know the two methods that exist in benchmarks alone. Each seed of all sides is made
before any gets its next one; after each the figures are stored, and docs/claims.md is written from them.
"""

import argparse
import dataclasses
import itertools
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.budget import Budget
from benchmarks.claims_file import GAIN, Claim, Place, Statement, read_claims
from benchmarks.claims_page import write_page
from benchmarks.drift import Drift, mean_drift
from benchmarks.ladder import Result, as_json, costs_of, difference, mean_of, result_of, suite_means
from benchmarks.ladder_work import LadderWork, exit_code, note
from benchmarks.methods import METHODS
from benchmarks.record import RESULTS, ROOT, write_result
from benchmarks.rungs import Rung
from benchmarks.samplers import load_subject
from benchmarks.sampling import Setting, measure_reveals
from videomar.compute.device import choose_device
from videomar.config import Params, load_params
from videomar.config.layout import Layout
from videomar.config.section import fixed_keys
from videomar.errors import DataError
from videomar.evaluation.bootstrap import Figure
from videomar.evaluation.generated import GROUPS

HOLDS, FAILS, OPEN, MIXED = "holds", "does not hold", "too close to call", "differs by clips"
UNKNOWN = "not measured"
_ALSO: list[Place] = [
    *itertools.product(("simulated", "real"), ("continuation", "image"), (GAIN, "vgg", "motion_retained")),
    *itertools.product(
        ("simulated",), ("image_long33", "image_long65", "image_large48"), (GAIN, "bodies_lost", "jumps")
    ),
]
"""Places whose means are stored for each side."""
_ROUNDS = 3
"""Turns of each way to sample whose time is taken."""
_TRAINED_BY = ("ingest", "curate", "tokenizer", "text", "encode", "model", "train")
"""Sections that a training depends on."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What is made, and how."""

    work: LadderWork
    claims: Sequence[Claim]
    budget: Budget
    jobs: int
    times: bool = True
    """Measure, too, how long the shipped model takes by frames and reveals."""

    @property
    def sides(self) -> list[Rung]:
        """Sides of all claims; one that several share is in it several times, and made once."""
        return [side for claim in self.claims for side in claim.sides.values()]

    def work_of(self, side: Rung) -> LadderWork:
        """Return the folders for a side."""
        return self.work.by(side.method).with_scenes_for(side.params)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is missing, judge all statements, and write results and page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims")
    parser.add_argument("--claims", type=Path, default=ROOT / "benchmarks/claims.yaml")
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME", help="claims; default: all")
    parser.add_argument("--data", type=Path, default=ROOT, help="pipeline folder with a finished run")
    parser.add_argument("--params", type=Path, default=ROOT / "params.yaml", help="what the sides change")
    parser.add_argument("--seeds", type=int, default=3, help="of training")
    parser.add_argument("--seconds", type=float, default=240.0, help="of each training on an idle machine")
    parser.add_argument("--steps", type=int, help="of each training, instead of seconds")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--work", type=Path, default=Path(".local/claims"))
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/claims.md")
    parser.add_argument("--page-only", action="store_true", help="write the page from stored results")
    chosen = parser.parse_args(arguments)
    for name in ("seeds", "seconds", "steps", "threads", "jobs"):
        if (value := getattr(chosen, name)) is not None and value <= 0:
            parser.error(f"--{name}: got {value}, expected a number above 0")
    if chosen.only and chosen.results == RESULTS:
        parser.error("--only: expected --results and --page, for it would replace the figures of all claims")

    def work() -> None:
        if chosen.page_only:
            write_page(json.loads((chosen.results / "claims.json").read_text("utf-8")), chosen.page)
        else:
            make_all(plan_of(chosen), chosen.seeds, chosen.results, chosen.page)

    return exit_code(work)


def plan_of(chosen: argparse.Namespace) -> Plan:
    """Return what the command line asks for.

    Raises:
        VideomarError: the folder has no finished run, or a claim is wrong.
    """
    data = Layout(chosen.data.resolve())
    for path in (data.raw, data.ledger, data.tokenizer):
        if not path.exists():
            raise DataError(f"{path}: got nothing, expected that of a finished run; `make run` there")
    theirs = load_params(data.params, chosen.params)
    # Of clips of all sizes: a tokenizer for each would be another difference.
    common = {"tokenizer": {"pretrained": str(data.tokenizer)}}
    claims = read_claims(chosen.claims, chosen.params, common, chosen.only)
    work = LadderWork(
        chosen.work.resolve(), data.raw, data.ledger, theirs, chosen.threads, tracked=True, drift=True
    )
    budget = Budget(steps=chosen.steps) if chosen.steps else Budget(seconds=chosen.seconds)
    return Plan(work, claims, budget, chosen.jobs, times=not chosen.only)


def make_all(plan: Plan, seeds: int, results: Path, page: Path) -> None:
    """Make all sides with every seed; after each seed store the figures and write the page."""
    began = time.monotonic()
    for seed in range(seeds):
        note(f"seed {seed}: {len(plan.sides)} sides")
        # All trainings first: a process that waits for another's would do nothing meanwhile.
        trained = {trained_by(side, plan.work): side for side in plan.sides}
        scored = {scored_by(side, plan.work): side for side in plan.sides}
        if plan.budget.seconds is not None:
            # One after the other: what runs beside it must not slow the pace of one side.
            spread(dataclasses.replace(plan, jobs=1), make_pace, [(side, 0) for side in trained.values()])
        spread(plan, make_run, [(side, seed) for side in trained.values()])
        spread(plan, make_scores, [(side, seed) for side in scored.values()])
        figures = {
            "seeds": seed + 1,
            "seeds_planned": seeds,
            "jobs": plan.jobs,
            "threads": plan.work.threads,
            "device": choose_device(plan.work.ledger_params.train.device, "resources.train.device").type,
            **plan.budget._asdict(),
            "seconds_now": round(time.monotonic() - began, 1),
            "claims": [judged(plan, claim, seed + 1) for claim in plan.claims],
            # Once, at the end: the model is always the same.
            "times": times_of_reveals() if plan.times and seed + 1 == seeds else [],
        }
        result = write_result("claims", figures, effects_of(figures["claims"]), folder=results)
        write_page(result, page)


def times_of_reveals() -> list[dict[str, float]]:
    """Seconds of a clip of the shipped model, by frames and reveals, with a cache and without."""
    subject = load_subject("shipped", torch.device("cpu"))
    # The clock of the process: other programs make it wait, but take no time.
    setting = Setting(subject, _ROUNDS, subject.num_frames, time.process_time)
    torch.set_num_threads(1)
    return measure_reveals(setting, (subject.num_frames, 17), (1, 2, 4, 16))


def trained_by(side: Rung, work: LadderWork) -> str:
    """Return what a side's training depends on, as a key: sides with the same key share it."""
    params = work.own(side.params, 0)
    sections = {name: fixed_keys(getattr(params, name)) for name in _TRAINED_BY}
    method = side.method if METHODS[side.method].learns else ""
    return json.dumps([method, side.longer, sections], sort_keys=True)


def scored_by(side: Rung, work: LadderWork) -> str:
    """Return what a side's scores depend on, as a key."""
    params = work.own(side.params, 0)
    sections = {name: fixed_keys(getattr(params, name)) for name in ("sample", "suite")}
    return json.dumps([trained_by(side, work), side.method, sections], sort_keys=True)


def spread(plan: Plan, make: Callable[..., None], parts: Iterable[tuple[Rung, int]]) -> None:
    """Make parts in several processes.

    Raises:
        VideomarError: of the first that failed; parts that are being made are finished.
    """
    with ProcessPoolExecutor(plan.jobs, get_context("spawn")) as pool:
        made = [
            pool.submit(make, plan.work_of(side), side.params, seed, plan.budget.times(side.longer))
            for side, seed in parts
        ]
        try:
            for part in as_completed(made):
                part.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def make_pace(work: LadderWork, params: Params, seed: int, budget: Budget) -> None:
    """Measure the pace of one side."""
    torch.set_num_threads(work.threads)
    work.refuse_other_code()
    work.paces_of(work.own(params, seed))


def make_run(work: LadderWork, params: Params, seed: int, budget: Budget) -> None:
    """Train one side with one seed."""
    torch.set_num_threads(work.threads)
    work.refuse_other_code()
    work.run_of(work.own(params, seed), budget)


def make_scores(work: LadderWork, params: Params, seed: int, budget: Budget) -> None:
    """Generate and score the clips of one side and seed."""
    torch.set_num_threads(work.threads)
    work.refuse_other_code()
    work.scores_of(work.own(params, seed), budget, keep_clips=False)


def judged(plan: Plan, claim: Claim, seeds: int) -> dict[str, Any]:
    """Figures of a claim as JSON: of its sides, and of each statement with its verdict."""
    results = {
        name: result_of(plan.work_of(side), side, plan.budget.times(side.longer), seeds)
        for name, side in claim.sides.items()
    }
    return {
        "name": claim.name,
        "about": claim.about,
        "longer": claim.longer,
        "sides": {name: side_figures(result) for name, result in results.items()},
        "drift": {name: drift_over_seeds(plan.work, results[name]) for name in claim.drift},
        "statements": [statement_figures(statement, results) for statement in claim.statements],
    }


def drift_over_seeds(work: LadderWork, result: Result) -> Drift:
    """What becomes of a side's long clips, means over its seeds."""
    return mean_drift([work.root / facts["scores"]["folder"] for facts in result.facts.values()])


def side_figures(result: Result) -> dict[str, Any]:
    """Steps, seconds and means of a side."""
    sampled = [facts["scores"]["sampling_seconds"] for facts in result.facts.values()]
    return {
        "changes": result.rung.changes,
        "method": result.rung.method,
        "figures": as_json(mean_of(result, place) for place in _ALSO),
        **costs_of(result),
        "sampling_s": round(sum(sampled) / len(sampled), 1),
        "diversity": {
            group: suite_means(result).get(f"{short}_diversity") for group, short in GROUPS.items()
        },
    }


def statement_figures(statement: Statement, results: Mapping[str, Result]) -> dict[str, Any]:
    """How much better a side is, in each place that decides, and the verdict."""
    lead = as_json(_lead(statement, results, place) for place in statement.decided_by)
    return {
        "says": statement.says,
        "better": statement.better,
        "than": statement.than,
        "lead": lead,
        "verdict": verdict(lead.values(), len(results[statement.better].facts)),
    }


def _lead(statement: Statement, results: Mapping[str, Result], place: Place) -> Figure:
    """How much better a side is than the other, or than repeating the picture."""
    better = results[statement.better]
    if statement.than is None:
        return mean_of(better, place)
    return difference(better, results[statement.than], place)


def verdict(lead: Iterable[Mapping[str, Any]], trainings: int) -> str:
    """Judge by 95 % intervals as they are stored: above 0 somewhere and below nowhere = holds.

    Nothing is judged with one training, or by clips of one shot, which have no spread.
    """
    found = [each for each in lead if each["shots"] is None or each["shots"] > 1]
    if not found or trainings < 2:
        return UNKNOWN
    above, below = any(each["low"] > 0 for each in found), any(each["high"] < 0 for each in found)
    if above and below:
        return MIXED
    return HOLDS if above else FAILS if below else OPEN


def effects_of(claims: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the effect of each statement: decibels that a side is better, the mean of what decides."""
    effects = {}
    for claim in claims:
        for statement in claim["statements"]:
            gains = [each["value"] for name, each in statement["lead"].items() if name.endswith(GAIN)]
            name = re.sub(r"\W+", "_", f"{claim['name']} {statement['says']}").strip("_").lower()
            if gains:
                effects[name] = round(statistics.mean(gains), 4)
    return effects


if __name__ == "__main__":
    sys.exit(main())

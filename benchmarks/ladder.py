"""Which steps of the recipe help, on real and on simulated clips?

`python -m benchmarks.ladder --data FOLDER --seeds 3 --seconds 360 --threads 1` after `make run` in FOLDER.
Each rung of `benchmarks/ladder.yaml` trains on the same clips with every seed, for equal seconds or steps,
and makes the same held-out clips. Differences to the rung before are paired by clip and seed; intervals are
over whole shots and over the trainings. What rungs share is made once, and a ladder that was killed continues
(`ladder_work`). All rungs get their first seed before any gets its second; the table is printed and stored
after each seed.
"""

import argparse
import dataclasses
import math
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from benchmarks.budget import Budget
from benchmarks.ladder_work import LadderWork, exit_code, facts_of, note, scores_in
from benchmarks.record import RESULTS, ROOT, write_result
from benchmarks.rungs import Rung, read_rungs
from videomar.config import GateParams, load_params
from videomar.errors import DataError
from videomar.evaluation.bootstrap import (
    NO_PAIRS,
    Figure,
    PairedScores,
    by_clip_and_seed,
    interval,
    paired,
    with_shots,
)
from videomar.evaluation.generated import GROUPS
from videomar.evaluation.metrics.catalogue import METRICS
from videomar.files import atomic_write
from videomar.sampling.tasks import of_seed

KINDS = ("continuation", "image")
GAIN = "gain_db"
_OF_WORLDS = re.compile(r"image_(?:long|large)\d+")
"""Kinds that are made with the first seed of the suite alone."""
_LIMIT_DB = -0.5
"""How much simulated clips may lose."""
_TABLE = (
    *((group, kind, GAIN) for group in ("real", "simulated") for kind in KINDS),
    ("real", "continuation", "motion_retained"),
    ("real", "continuation", "vgg"),
)
"""Columns of the table: group, kind, figure."""
_BESIDE = {
    "share of clips won": "clips_won",
    "decoded repeat": "decoded_repeat_gain_db",
    "constant motion": "flow_gain_db",
    "tokenizer's ceiling": "ceiling_gain_db",
    "ceiling with carry": "ceiling_carry_gain_db",
}
_COSTS = {"weights": "weights", "tokenizer, s": "tokenizer_s", "encoding, s": "encode_s"}
_UNITS = {GAIN: "dB", "motion_retained": "motion kept", "vgg": "VGG distance"}


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """A rung as far as it is finished."""

    rung: Rung
    rows: pd.DataFrame
    """Scores of all seeds, whose kinds are numbered as those of one suite with more seeds."""
    facts: dict[str, Any]
    """Seconds and figures of the tokenizer, latents, runs and scores."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Climb the ladder; print its table and store its figures."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--rungs", type=Path, default=ROOT / "benchmarks/ladder.yaml")
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME", help="rungs; others come if needed")
    parser.add_argument("--data", type=Path, default=ROOT, help="pipeline folder with data/raw and a ledger")
    parser.add_argument("--params", type=Path, default=ROOT / "params.yaml", help="what the rungs change")
    parser.add_argument("--seeds", type=int, default=3, help="of training")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="of each training")
    length.add_argument("--seconds", type=float, help="of each training on an idle machine")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path(".local/ladder"))
    parser.add_argument("--results", type=Path, help="folder of the JSON file; default: benchmarks/results")
    chosen = parser.parse_args(arguments)
    for name in ("seeds", "steps", "seconds", "threads"):
        if (value := getattr(chosen, name)) is not None and value <= 0:
            parser.error(f"--{name}: got {value}, expected a number above 0")
    return exit_code(lambda: climb(chosen))


def climb(chosen: argparse.Namespace) -> None:
    """Make all rungs with every seed; after each seed print the table and store the figures."""
    began = time.monotonic()
    theirs = load_params(chosen.data / "params.yaml", chosen.params)
    raw, ledger = chosen.data / "data/raw", chosen.data / "data/ledger.parquet"
    if not (raw.is_dir() and ledger.is_file()):
        raise DataError(
            f"{chosen.data}: got no data/raw with a ledger beside it, expected them; `make run` there"
        )
    rungs = read_rungs(chosen.rungs, chosen.params, chosen.only)
    work = LadderWork(chosen.work, raw, ledger, theirs, chosen.threads)
    budget = Budget(chosen.steps, chosen.seconds)
    for seed in range(chosen.seeds):
        for rung in rungs:
            note(f"{rung.name}, seed {seed}")
            work.scores_of(work.own(rung.params, seed), budget, keep_clips=seed == 0)
        results = [result_of(work, rung, budget, seed + 1) for rung in rungs]
        figures = figures_of(results)
        table = table_of(figures, results)
        with atomic_write(chosen.work / "ladder.md") as draft:
            draft.write_text(table, encoding="utf-8")
        sys.stdout.write(f"{table}\n")
        how = {
            "seeds": seed + 1,
            "seeds_planned": chosen.seeds,
            "threads": chosen.threads,
            **budget._asdict(),
        }
        write_result(
            "ladder",
            {**how, **budget._asdict(), "seconds_now": round(time.monotonic() - began, 1), "rungs": figures},
            verdicts(results),
            folder=chosen.results or RESULTS,
        )


def result_of(work: LadderWork, rung: Rung, budget: Budget, seeds: int) -> Result:
    """Read what was made of a rung with its first seeds."""
    tables, facts, work = [], {}, work.by(rung.method)
    for seed in range(seeds):
        params = work.own(rung.params, seed)
        folders = {
            "tokenizer": work.tokenizer_of(params),
            "latents": work.latents_of(params),
            "run": work.run_of(params, budget),
            "scores": work.scores_of(params, budget, keep_clips=False),
        }
        tables.append(renumbered(scores_in(folders["scores"]), seed, params.suite.seeds))
        facts[seed] = {name: {**facts_of(path), "folder": path.name} for name, path in folders.items()}
    return Result(rung, pd.concat(tables, ignore_index=True), facts)


def renumbered(rows: pd.DataFrame, seed: int, sampled: int) -> pd.DataFrame:
    """Scores of one training seed, with kinds numbered so that seeds of all trainings differ.

    Args:
        rows: scores.
        seed: of the training, from 0.
        sampled: seeds of the suite.
    """
    once = [kind for kind in rows["kind"].unique() if _OF_WORLDS.fullmatch(kind)]
    seeds = dict.fromkeys(KINDS, sampled) | dict.fromkeys(once, 1)
    names = {
        of_seed(kind, n): of_seed(kind, seed * count + n)
        for kind, count in seeds.items()
        for n in range(count)
    }
    return rows[rows["kind"].isin(names)].assign(kind=rows["kind"].map(names))


def figures_of(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Figures of all rungs as JSON: means with intervals, differences to the rung before, and costs."""
    by_name = {result.rung.name: result for result in results}
    listed = []
    for result in results:
        rung = result.rung
        figures: dict[str, Any] = {"name": rung.name, "after": rung.after, "changes": rung.changes}
        figures["figures"] = as_json(mean_of(result, place) for place in _places())
        if rung.after is not None:
            below = by_name[rung.after]
            figures["against"] = as_json(difference(result, below, place) for place in _places())
        listed.append({**figures, **costs_of(result), "metrics": suite_means(result)})
    return listed


def as_json(figures: Iterable[Figure]) -> dict[str, dict[str, float | int | None]]:
    """Figures of some clips by name."""
    return {
        each.name: {
            **{key: round(getattr(each, key), 4) for key in ("value", "low", "high")},
            "n": each.n,
            "shots": each.shots,
        }
        for each in figures
        if each.n
    }


def difference(result: Result, other: Result, place: tuple[str, str, str]) -> Figure:
    """How much better a rung is than another on common clips and seeds; n = 0 if there is no pair."""
    group, kind, column = place
    scores = NO_PAIRS
    if column in result.rows and column in other.rows:
        scores = paired(result.rows, other.rows, (group, kind), column)
    return over_trainings(" ".join(place), scores, len(result.facts), result.rung.params.gate)


def over_trainings(name: str, scores: PairedScores, trainings: int, params: GateParams) -> Figure:
    """Mean over clips and seeds with an interval over shots and over trainings.

    Seeds of the sampling are averaged for each training. Two errors add up as independent ones do: that of
    the shots, by bootstrap of the mean over trainings, and that of the trainings, of which there are few, by
    Student's quantile with one degree less than there are. With one training there is no second error.

    Args:
        name: of the figure.
        scores: values (n, k) whose columns are the sampling seeds, training by training.
        trainings: how many; k is a multiple of it.
        params: `confidence` and `seed` of the bootstrap.
    """
    values = scores.values
    if not values.size:
        return interval(name, values, params)
    by_training = values.reshape(len(values), trainings, -1).mean(2)
    of_shots = interval(name, by_training.mean(1, keepdims=True), params, scores.shots)
    if trainings < 2:
        return of_shots
    error = by_training.mean(0).std(ddof=1) / np.sqrt(trainings)
    half = float(stdtrit(trainings - 1, (1 + params.confidence) / 2) * error)
    mean = of_shots.value
    low, high = (math.hypot(end - mean, half) for end in (of_shots.low, of_shots.high))
    return dataclasses.replace(of_shots, low=mean - low, high=mean + high)


def verdicts(results: Sequence[Result]) -> dict[str, float]:
    """1 or 0: the last rung against the first, and against repeating the last picture."""
    first, last = results[0], results[-1]
    found = {}
    for kind in KINDS:
        above, real, simulated = (
            mean_of(last, ("real", kind, GAIN)),
            difference(last, first, ("real", kind, GAIN)),
            difference(last, first, ("simulated", kind, GAIN)),
        )
        named = {"above_repeat": (above, 0.0), "better": (real, 0.0)}
        found |= {f"real_{kind}_{name}": float(f.low > limit) for name, (f, limit) in named.items() if f.n}
        if simulated.n:
            found[f"sim_{kind}_not_worse"] = float(simulated.low > _LIMIT_DB)
    return found


def table_of(figures: Sequence[Mapping[str, Any]], results: Sequence[Result]) -> str:
    """The ladder as a Markdown table: means, and differences to the rung before."""
    places = [place for place in _TABLE if any(" ".join(place) in each["figures"] for each in figures)]
    head = [f"{group}, {kind}, {_UNITS[column]}" for group, kind, column in places]
    lines = [f"| rung | {' | '.join(head)} | steps | training, s |", "|---" * (len(head) + 3) + "|"]
    for each in figures:
        after = f" (after {each['after']})" if _stands_apart(each, figures) else ""
        cells = [_cell(each, place) for place in places]
        lines.append(f"| {each['name']}{after} | {' | '.join(cells)} | {each['steps']} | {each['train_s']} |")
    seeds = len(results[0].facts)
    counts = {group: _count_of(figures, group) for group in GROUPS}
    judged = "; ".join(f"{group}: {count}" for group, count in counts.items() if count)
    explanation = (
        f"Means over {seeds} {'seed' if seeds == 1 else 'seeds'} of training ({judged}). Decibels are above "
        "repeating the last given picture, with the 95 % interval over shots and trainings; `step` is the "
        "difference to the rung before, paired by clip and seed."
    )
    return "\n".join([*lines, "", explanation, "", *_second_table(figures), ""])


def _second_table(figures: Sequence[Mapping[str, Any]]) -> list[str]:
    """What stands beside the model: clips won, baselines and ceilings of real clips, and costs."""
    named = {
        f"real, {words}, {name}": f"real_{task}{key}"
        for task, words in (("", "continuation"), ("i2v_", "image"))
        for name, key in _BESIDE.items()
    }
    present = {name: key for name, key in named.items() if any(key in each["metrics"] for each in figures)}
    heads = [*present, *_COSTS]
    lines = [f"| rung | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for each in figures:
        values = [each["metrics"].get(key) for key in present.values()]
        cells = ["" if value is None else f"{value:+.2f}" for value in values]
        cells += [str(each[key]) for key in _COSTS.values()]
        lines.append(f"| {each['name']} | {' | '.join(cells)} |")
    return lines


def _stands_apart(each: Mapping[str, Any], figures: Sequence[Mapping[str, Any]]) -> bool:
    names = [other["name"] for other in figures]
    number = names.index(each["name"])
    return each["after"] is not None and names[number - 1] != each["after"]


def _cell(each: Mapping[str, Any], place: tuple[str, str, str]) -> str:
    name = " ".join(place)
    own, other = each["figures"].get(name), each.get("against", {}).get(name)
    if own is None:
        return ""
    if place[2] != GAIN:
        return f"{own['value']:.2f}"
    text = f"**{own['value']:+.2f}** ({_ends(own)})"
    return text if other is None else f"{text}<br>step {other['value']:+.2f} ({_ends(other)})"


def _ends(figure: Mapping[str, Any]) -> str:
    return f"{figure['low']:+.2f} to {figure['high']:+.2f}"


def _count_of(figures: Sequence[Mapping[str, Any]], group: str) -> str:
    found = [each["figures"].get(f"{group} continuation {GAIN}") for each in figures]
    counts = [f"{figure['n']} clips of {figure['shots'] or figure['n']} shots" for figure in found if figure]
    return ", ".join(dict.fromkeys(counts))


def _places() -> list[tuple[str, str, str]]:
    columns = (
        GAIN,
        *(metric.key for metric in METRICS if metric.better != "neither" and metric.per != "set"),
    )
    return [(group, kind, column) for group in GROUPS for kind in KINDS for column in columns]


def mean_of(result: Result, place: tuple[str, str, str]) -> Figure:
    """Mean of a figure over clips and seeds; n = 0 if no clip has it."""
    table = by_clip_and_seed(result.rows, *place).dropna(axis="columns", how="all")
    scores = with_shots(table, result.rows)
    return over_trainings(" ".join(place), scores, len(result.facts), result.rung.params.gate)


def costs_of(result: Result) -> dict[str, Any]:
    """Steps and weights of a rung, and seconds of its parts: means over the seeds that know them."""
    of_seeds = list(result.facts.values())
    steps = round(sum(each["run"]["steps"] for each in of_seeds) / len(of_seeds))
    costs: dict[str, Any] = {"steps": steps, "weights": of_seeds[0]["run"]["weights"]}
    names = {"tokenizer": "tokenizer_s", "latents": "encode_s", "run": "train_s", "scores": "evaluate_s"}
    for part, name in names.items():
        known = [each[part]["seconds"] for each in of_seeds if each[part]["seconds"] is not None]
        costs[name] = round(sum(known) / len(known), 1) if known else None
    return {**costs, "folders": {seed: each["scores"]["folder"] for seed, each in result.facts.items()}}


def suite_means(result: Result) -> dict[str, float]:
    """The suite's metrics, ceilings and baselines among them: means over seeds, without their intervals."""
    table = pd.DataFrame([each["scores"] for each in result.facts.values()])
    kept = [name for name in table if str(name).startswith(tuple(f"{short}_" for short in GROUPS.values()))]
    means = table[[name for name in kept if not str(name).endswith(("_low", "_high"))]].mean()
    return {str(name): round(float(value), 4) for name, value in means.items()}


if __name__ == "__main__":
    sys.exit(main())

"""Clips of two samplers judged by the suite: is ours nowhere worse, and what does a bounded window cost?

Held-out clips of a finished run, made by the shipped model with the same seeds, and every metric of the suite
that calls one direction better. A difference is paired by clip and seed; its interval draws whole shots.
Not worse = the lower end of the 95 % interval is no further below 0 than the margin: that of section `gate`
where it names one (decibels, SSIM, motion), else `MARGIN_SHARE` of the spread between the paper's own clips.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmarks.ladder_work import LadderWork, scores_in
from benchmarks.record import ROOT
from benchmarks.samplers import SHIPPED, Subject, paper_sampler
from videomar.config import GateParams, Params, SampleParams, load_params
from videomar.config.layout import SEEN, Layout
from videomar.curation.ledger import kept_clips, read_ledger, write_ledger
from videomar.evaluation.bootstrap import Figure, by_clip_and_seed, interval, paired
from videomar.evaluation.metrics.catalogue import METRICS
from videomar.files import write_json
from videomar.hub.shipped import read_origin
from videomar.sampling.held_out import SPLIT
from videomar.sampling.tasks import LONG

MARGIN_SHARE = 0.25
_LEDGER, _SEEN = "tests.parquet", "seen.json"
GAIN = "gain_db"
GROUPS, KINDS = ("simulated", "real"), ("continuation", "image")
_LONG_METRICS = (GAIN, "bodies_lost", "jumps")
_METRICS = tuple(metric.key for metric in METRICS if metric.better != "neither" and metric.per != "set")


class Judge(NamedTuple):
    """Samples and scores held-out clips."""

    work: LadderWork
    params: Params
    """Those of the finished run, with the tokenizer of the shipped model."""
    subject: Subject
    clips: int
    """Of each group."""
    seeds: int

    @classmethod
    def of(cls, subject: Subject, checkout: Path, work: Path, clips: int, seeds: int) -> "Judge":
        """Return the judge by the held-out clips of a finished checkout; it keeps its files in `work`."""
        data = Layout(checkout)
        theirs = load_params(data.params, ROOT / "params.yaml")
        work.mkdir(parents=True, exist_ok=True)
        _write_tests(data.ledger, work)
        ladder = LadderWork(work, data.raw, work / _LEDGER, theirs, threads=1)
        params = dataclasses.replace(
            ladder.own(theirs, 0),
            tokenizer=dataclasses.replace(theirs.tokenizer, pretrained=str(SHIPPED / "tokenizer"), threads=1),
            encode=dataclasses.replace(theirs.encode, views=0),
        )
        return cls(ladder, params, subject, clips, seeds)

    def scores(self, sampling: SampleParams, **suite: int) -> pd.DataFrame:
        """Score the clips of a sampler: a row for each clip and kind; `suite` changes that section."""
        chosen: dict[str, Any] = {
            "simulated_clips": self.clips,
            "real_clips": self.clips,
            "seeds": self.seeds,
        }
        chosen |= {"extra_clips": 0, "long_clips": 0, "metric_clips": self.clips, "feature_clips": self.clips}
        params = dataclasses.replace(
            self.params,
            sample=sampling,
            suite=dataclasses.replace(self.params.suite, **(chosen | suite)),
        )
        return scores_in(self.work.scores_with(SHIPPED, params, self.work.root / _SEEN))


def _write_tests(ledger: Path, work: Path) -> None:
    """Write a ledger of the test clips alone, and list videos that the shipped model did not hold out.

    Latents of other clips would be encoded for nothing; clips of such videos are no test of this model.
    """
    kept = kept_clips(read_ledger(ledger))
    tests = kept[kept["split"] == SPLIT]
    # One more, because the copy of a tokenizer is refused where there is nothing to train it with.
    write_ledger(work / _LEDGER, pd.concat([tests, kept[kept["split"] == "train"].head(1)]))
    seen = sorted(set(tests["video_sha256"]) - set(read_origin()["test_clips"]))
    write_json(work / _SEEN, {SEEN: dict.fromkeys(seen, "all")})


def measure_quality(judge: Judge) -> tuple[dict[str, Any], dict[str, float]]:
    """Our sampler's clips against those of the paper's, as written and with our temperature and guidance.

    The second peer has the paper's passes and head steps, and of ours what was tuned on this model: a peer
    that is not handicapped by values that were tuned on another one.
    """
    ours, written = judge.subject.sampling, paper_sampler(judge.subject).sampling
    kept = {key: getattr(written, key) for key in ("num_unmask_steps", "num_diffusion_steps")}
    tuned = dataclasses.replace(ours, **kept, final_diffusion_steps=written.final_diffusion_steps)
    # What is carried into decoded pictures is no part of a sampler.
    written = dataclasses.replace(written, carry=ours.carry)
    scores = judge.scores(ours)
    figures: dict[str, Any] = {"clips": judge.clips, "seeds": judge.seeds}
    holds = []
    for name, sampling in (("paper", written), ("paper_tuned", tuned)):
        found = list(_differences(scores, judge.scores(sampling), judge.params.gate))
        figures[f"ours_over_{name}"] = {figure.name: _as_json(figure) for figure in found}
        figures[f"may_be_worse_than_{name}"] = [figure.name for figure in found if not _not_worse(figure)]
        holds += [_not_worse(figure) for figure in found]
    return figures, {"quality_noninferior": float(bool(holds) and all(holds))}


def measure_drift(judge: Judge) -> dict[str, Any]:
    """Simulated clips four times as long as trained: the bounded window against the cache of all frames.

    Both against what the simulator draws of the same scene: decibels over repeating the picture, the share of
    bodies lost, and jumps.
    """
    bounded = judge.subject.sampling
    length = LONG * (judge.subject.num_frames - 1) + 1
    whole = dataclasses.replace(bounded, window_frames=length)
    few = {"real_clips": 0, "seeds": 1, "long_clips": judge.clips, "feature_clips": 0, "metric_clips": 0}
    tables = {name: judge.scores(way, **few) for name, way in (("bounded", bounded), ("whole", whole))}
    found: dict[str, Any] = {"latent_frames": length}
    kinds = sorted(kind for kind in set(tables["whole"]["kind"]) if kind.startswith("image_long"))
    for kind in kinds:
        for column in _LONG_METRICS:
            means = {
                name: float(by_clip_and_seed(rows, "simulated", kind, column).mean().mean())
                for name, rows in tables.items()
            }
            figure = _difference(
                tables["bounded"], tables["whole"], ("simulated", kind, column), judge.params
            )
            found[f"{kind} {column}"] = means | {"bounded_over_whole": _as_json(figure)}
    return found


def _differences(ours: pd.DataFrame, other: pd.DataFrame, gate: GateParams) -> Iterator[Figure]:
    """Yield how much better ours is in every metric that clips of both have, with the margin as its limit."""
    for group in GROUPS:
        for kind in KINDS:
            for column in (GAIN, *_METRICS):
                pairs = paired(ours, other, (group, kind), column)
                if not len(pairs.values):
                    continue
                figure = interval(f"{group} {kind} {column}", pairs.values, gate, pairs.shots)
                margin = _margin(by_clip_and_seed(other, group, kind, column), column, gate)
                yield dataclasses.replace(figure, limit=-margin, unit="dB" if column == GAIN else "")


def _margin(theirs: pd.DataFrame, column: str, gate: GateParams) -> float:
    """How much worse a metric may be, in its own unit; `theirs` are the values of the peer's clips."""
    if column in (GAIN, "psnr"):
        return gate.margin_db
    spread = float(np.nanstd(theirs.to_numpy()))
    return gate.margins.get(column, MARGIN_SHARE * spread)


def _difference(
    own: pd.DataFrame, other: pd.DataFrame, place: tuple[str, str, str], params: Params
) -> Figure:
    group, kind, column = place
    pairs = paired(own, other, (group, kind), column)
    return interval(" ".join(place), pairs.values, params.gate, pairs.shots)


def _not_worse(figure: Figure) -> bool:
    return figure.low >= figure.limit


def _as_json(figure: Figure) -> Mapping[str, Any]:
    """The figure without its name; more is better in all of them."""
    values = {"value": figure.value, "low": figure.low, "high": figure.high, "margin": 0.0 - figure.limit}
    return {key: round(value, 4) for key, value in values.items()} | {"n": figure.n, "shots": figure.shots}

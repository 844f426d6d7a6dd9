"""How much sooner is a clip there than with the paper's sampler, and what does each part of ours buy?

`python -m benchmarks.sampling` on an idle machine; `--model medium --device cuda` on a GPU, with no more than
torch, numpy, einops and safetensors; `--data CHECKOUT` of a finished run adds the quality of the clips.
`--short` shows within two minutes of a core that it runs; its clips are shorter, and its figures say little.

Speed: our sampler and the paper's on the same weights, with the same cache, batches and recorded kernels, by
turns. Latency: one clip, and one that is padded to 16 rows. Ablation: ours with one thing taken back at a
time, and the paper's with one thing more of ours at a time. Length: clips far longer than trained, with a
cache, without, and with a window; seconds beside operations by formula. Quality: sampling_quality.py.

With one thread of a CPU the clock is that of the process: other programs make it wait, but take no time.
"""

import argparse
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from benchmarks.record import RESULTS, write_result
from benchmarks.samplers import (
    Inputs,
    Sampler,
    Subject,
    ablated,
    climbed,
    in_float32,
    load_subject,
    our_sampler,
    paper_sampler,
)
from benchmarks.sampling_cost import ClipSize, clip_operations
from videomar.compute.device import full_float32, has_bfloat16
from videomar.model import generation
from videomar.model.kv_cache import KVCache
from videomar.sampling.tasks import window_of
from videomar.training.throughput import matmul_rate, wait_for

PARTS = ("speed", "latency", "ablation", "length", "quality")
LENGTHS = (5, 9, 17, 33, 65)
OURS, PAPER = "ours", "paper"
_PADDED_ROWS = 16
"""To which batches were padded before a clip's bits were the same without."""
_SHORT_FRAMES = 3
_SAME = 1e-3
"""Largest difference that is rounding, in standard deviations of a clip, float32."""

Figures = dict[str, Any]
Ratios = dict[str, float]


class Setting(NamedTuple):
    """What is measured, and how often."""

    subject: Subject
    rounds: int
    num_frames: int
    """Latent frames of the clips of speed and ablation."""
    clock: Callable[[], float]
    """Seconds."""


class Run(NamedTuple):
    """One batch of clips, as it was generated."""

    clips: Tensor
    """New latent frames (B, C, T - 1, H, W)."""
    ready_s: list[float]
    """Seconds until each of them was there."""
    cache_bytes: int
    """Of keys and values at the end."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and store the result."""
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    subject = load_subject(options.model, options.device, options.depth)
    num_frames = min(_SHORT_FRAMES, subject.num_frames) if options.short else subject.num_frames
    # Kernels of a GPU, and further threads, run beside the process's own.
    alone = options.device.type == "cpu" and options.threads == 1
    clock = time.process_time if alone else time.perf_counter
    setting = Setting(subject, 1 if options.short else options.rounds, num_frames, clock)
    figures: Figures = {
        "model": subject.name,
        "depth": subject.shape.params.depth,
        "tokens_per_frame": subject.tokens_per_frame,
        "latent_frames": num_frames,
        "device": str(options.device),
        "threads": options.threads,
        "rounds": setting.rounds,
        "clock": "of the process" if alone else "of the wall",
        "samplers": {
            OURS: dataclasses.asdict(our_sampler(subject)),
            PAPER: dataclasses.asdict(paper_sampler(subject)),
        },
    }
    if options.device.type == "cuda":
        figures["gpu"] = torch.cuda.get_device_name(options.device)
    ratios: Ratios = {}
    for part in options.parts:
        found, shares = _measure(part, setting, options)
        figures, ratios = figures | {part: found}, ratios | shares
    write_result("sampling", figures, ratios, ["einops", "safetensors"], folder=options.out)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="default: all; quality only with --data")
    parser.add_argument("--data", type=Path, help="checkout with a finished run, whose test clips are judged")
    parser.add_argument("--model", choices=("shipped", "medium"), default="shipped")
    parser.add_argument("--depth", type=int, help="blocks of medium; default: all")
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each sampler")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), help="latent frames")
    parser.add_argument("--clips", type=int, default=48, help="of each group that quality judges")
    parser.add_argument("--seeds", type=int, default=2, help="of each of these clips")
    parser.add_argument("--short", action="store_true", help="one turn, clips of three latent frames")
    parser.add_argument("--work", type=Path, default=Path(".local/sampling"), help="files of quality")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.parts is None:
        options.parts = PARTS if options.data else PARTS[:-1]
    if "quality" in options.parts and (options.data is None or options.model != "shipped"):
        parser.error("--parts quality: expected --data, a checkout with a finished run, and --model shipped")
    return options


def _measure(part: str, setting: Setting, options: argparse.Namespace) -> tuple[Figures, Ratios]:
    if part == "speed":
        return measure_speed(setting, options.batches)
    if part == "latency":
        return measure_latency(setting)
    if part == "ablation":
        return measure_ablation(setting, max(options.batches)), {}
    if part == "length":
        return measure_length(setting, sorted(options.lengths))
    # Here: it needs the whole pipeline.
    from benchmarks.sampling_quality import Judge, measure_drift, measure_quality

    judge = Judge.of(setting.subject, options.data, options.work, options.clips, options.seeds)
    figures, ratios = measure_quality(judge)
    return figures | {"drift": measure_drift(judge)}, ratios


def measure_speed(setting: Setting, batches: Sequence[int]) -> tuple[Figures, Ratios]:
    """Seconds a clip and to the first new frame, the paper's sampler and ours, for each size of batch.

    Beside them our share of the matmul rate, in the largest batch.
    """
    subject, figures, ratios = setting.subject, {}, {}
    samplers = {PAPER: paper_sampler(subject), OURS: our_sampler(subject)}
    for batch in batches:
        runs = take_turns(setting, samplers, batch, setting.num_frames)
        rows = {name: _row(setting, samplers[name], found, batch) for name, found in runs.items()}
        figures[f"batch_{batch}"] = rows
        for ratio, key in (("clip_time", "clip_s"), ("first_frame", "first_frame_s")):
            ratios[f"{ratio}_vs_paper_batch_{batch}"] = rows[PAPER][key] / rows[OURS][key]
    rate = matmul_rate(subject.device, torch.bfloat16 if has_bfloat16(subject.device) else torch.float32)
    ours = figures[f"batch_{max(batches)}"][OURS]
    ratios["clip_time_vs_paper"] = min(ratios[f"clip_time_vs_paper_batch_{batch}"] for batch in batches)
    ratios["matmul_share"] = ours["clip_gflop"] * 1e9 / ours["clip_s"] / rate
    return figures | {"matmul_gflop_per_s": rate / 1e9}, ratios


def measure_latency(setting: Setting) -> tuple[Figures, Ratios]:
    """Seconds until one clip is there, and what it would take padded to 16 rows."""
    ours = our_sampler(setting.subject)
    samplers = {OURS: ours, "padded": dataclasses.replace(ours, least_rows=_PADDED_ROWS)}
    runs = take_turns(setting, samplers, 1, setting.num_frames)
    rows: Figures = {name: _row(setting, samplers[name], found, 1) for name, found in runs.items()}
    return rows, {"latency_over_16_rows": rows["padded"]["clip_s"] / rows[OURS]["clip_s"]}


def measure_ablation(setting: Setting, batch: int) -> Figures:
    """Seconds a clip of all samplers between the paper's and ours; None where one is no other than ours."""
    ours, paper = our_sampler(setting.subject), paper_sampler(setting.subject)
    backwards = ablated(ours, paper, setting.subject.device)
    samplers = {OURS: ours, PAPER: paper, **climbed(ours, paper)}
    samplers |= {f"ours, {name}": sampler for name, sampler in backwards.items() if sampler is not None}
    runs = take_turns(setting, samplers, batch, setting.num_frames)
    rows: Figures = {name: _row(setting, samplers[name], found, batch) for name, found in runs.items()}
    for row in rows.values():
        row["times_ours"] = row["clip_s"] / rows[OURS]["clip_s"]
    rows |= {f"ours, {name}": None for name, sampler in backwards.items() if sampler is None}
    return {"batch": batch, "samplers": rows}


def measure_length(setting: Setting, lengths: Sequence[int]) -> tuple[Figures, Ratios]:
    """Seconds a clip by its length, with a cache of all frames, without a cache, and with a window.

    Raises:
        AssertionError: the clip without a cache is another one.
    """
    subject, rows = setting.subject, []
    check_uncached(subject)
    for num_frames in lengths:
        samplers = long_samplers(subject, num_frames)
        runs = take_turns(setting, samplers, 1, num_frames)
        clips = {name: found[0].clips for name, found in runs.items()}
        row: Figures = {"latent_frames": num_frames}
        for name, found in runs.items():
            times = _row(setting, samplers[name], found, 1, num_frames)
            row[name] = times | {"cache_mb": found[0].cache_bytes / 1e6, **_frame_costs(found, subject)}
        row["uncached_difference"] = _difference(clips["cached"], clips["uncached"])
        rows.append(row)
    first, last = rows[0], rows[-1]
    figures: Figures = {"lengths": rows, "growth": _growth(rows)}
    ratios = {
        name: row["uncached"]["clip_s"] / row["cached"]["clip_s"]
        for name, row in (
            ("clip_time_vs_no_cache", first),
            (f"clip_time_vs_no_cache_{lengths[-1]}", last),
        )
    }
    if "early_over_late_frame" in last["bounded"]:
        ratios["bounded_early_over_late_frame"] = last["bounded"]["early_over_late_frame"]
    return figures, ratios


def measure_reveals(setting: Setting, lengths: Sequence[int], reveals: Sequence[int]) -> list[Figures]:
    """Seconds of one clip by its latent frames and the reveals of each, with a cache and without."""
    ours, rows = our_sampler(setting.subject), []
    for num_frames in lengths:
        ways = {
            (number, cached): dataclasses.replace(
                ours,
                sampling=dataclasses.replace(ours.sampling, num_unmask_steps=number, window_frames=0),
                cached=cached,
            )
            for number in reveals
            for cached in (True, False)
        }
        samplers = {f"{number} {cached}": sampler for (number, cached), sampler in ways.items()}
        runs = take_turns(setting, samplers, 1, num_frames)
        for number in reveals:
            cached, uncached = (
                statistics.median(run.ready_s[-1] for run in runs[f"{number} {kept}"])
                for kept in (True, False)
            )
            rows.append(
                {
                    "latent_frames": num_frames,
                    "reveals": number,
                    "cached_s": round(cached, 4),
                    "uncached_s": round(uncached, 4),
                }
            )
    return rows


def long_samplers(subject: Subject, num_frames: int) -> dict[str, Sampler]:
    """Return our sampler with a cache of all frames, without one, and with the window of long clips."""
    ours = our_sampler(subject)
    window = window_of(ours.sampling, num_frames, subject.num_frames)
    cached = dataclasses.replace(ours, sampling=dataclasses.replace(ours.sampling, window_frames=0))
    return {
        "cached": cached,
        "uncached": dataclasses.replace(cached, cached=False),
        "bounded": dataclasses.replace(
            ours, sampling=dataclasses.replace(ours.sampling, window_frames=window)
        ),
    }


def check_uncached(subject: Subject) -> None:
    """Generate a clip as long as trained with a cache and without, in float32.

    Raises:
        AssertionError: they differ by more than rounding.
    """
    inputs, samplers = Inputs.draw(subject, 2), long_samplers(subject, subject.num_frames)
    with in_float32(), full_float32():
        cached, uncached = (
            generate(subject, samplers[name], inputs, subject.num_frames, time.perf_counter).clips
            for name in ("cached", "uncached")
        )
    difference = _difference(cached, uncached)
    if difference > _SAME:
        raise AssertionError(f"without a cache: got clips that differ by {difference}, expected {_SAME}")


def take_turns(
    setting: Setting, samplers: Mapping[str, Sampler], batch: int, num_frames: int
) -> dict[str, list[Run]]:
    """Generate the same clips with each sampler by turns, so that other load slows each of them equally."""
    subject, inputs = setting.subject, Inputs.draw(setting.subject, batch)
    for sampler in samplers.values():  # the first products of a shape take longer
        few = dataclasses.replace(sampler.sampling, num_diffusion_steps=2, final_diffusion_steps=2)
        next(dataclasses.replace(sampler, sampling=few).frames(subject.model, inputs, 2))
    runs: dict[str, list[Run]] = {name: [] for name in samplers}
    for _ in range(setting.rounds):
        for name, sampler in samplers.items():
            runs[name].append(generate(subject, sampler, inputs, num_frames, setting.clock))
    return runs


def generate(
    subject: Subject, sampler: Sampler, inputs: Inputs, num_frames: int, clock: Callable[[], float]
) -> Run:
    """Generate a batch of clips and take the time of every frame."""
    caches: list[KVCache] = []

    def make_cache(*sizes: int) -> KVCache:
        caches.append(KVCache(*sizes))
        return caches[-1]

    frames, ready = [], []
    wait_for(subject.device)
    with mock.patch.object(generation, "KVCache", make_cache):
        start = clock()
        for frame in sampler.frames(subject.model, inputs, num_frames):
            wait_for(subject.device)
            ready.append(clock() - start)
            frames.append(frame)
    new = num_frames - inputs.context.shape[2]
    clips = torch.cat([torch.cat(frames[first : first + new], 2) for first in range(0, len(frames), new)])
    # Clip by clip only one exists at a time.
    held = sum(part.nbytes for pair in caches[-1]._blocks.values() for part in pair)
    return Run(clips, ready, held)


def _row(
    setting: Setting, sampler: Sampler, runs: Sequence[Run], batch: int, num_frames: int | None = None
) -> Figures:
    """Medians over the rounds and operations by formula, of a clip; the first frame is that of the batch."""
    subject, seconds = setting.subject, [run.ready_s[-1] / batch for run in runs]
    together = batch if sampler.batched else 1
    size = ClipSize.of(num_frames or setting.num_frames, subject.tokens_per_frame, together, subject.device)
    return {
        "clip_s": statistics.median(seconds),
        "clip_s_range": [min(seconds), max(seconds)],
        "first_frame_s": statistics.median(run.ready_s[0] for run in runs),
        "clip_gflop": clip_operations(subject.shape, sampler, size) / together / 1e9,
    }


def _frame_costs(runs: Sequence[Run], subject: Subject) -> Figures:
    """Seconds of a frame early and late in clips whose window has slid for at least twice its length."""
    ready = runs[0].ready_s
    frames = [
        statistics.median(run.ready_s[index] - run.ready_s[index - 1] for run in runs)
        for index in range(subject.num_frames, len(ready))
    ]
    part = len(frames) // 3
    if part < subject.num_frames:
        return {}
    early, late = statistics.median(frames[:part]), statistics.median(frames[-part:])
    return {"early_frame_s": early, "late_frame_s": late, "early_over_late_frame": early / late}


def _growth(rows: Sequence[Figures]) -> Figures:
    """Exponent with which seconds and operations grow between the two longest clips; 1 = in proportion."""
    if len(rows) < 2:
        return {}
    before, last = rows[-2:]
    longer = math.log(last["latent_frames"] / before["latent_frames"])
    return {
        name: {
            kind: math.log(last[name][key] / before[name][key]) / longer
            for kind, key in (("measured", "clip_s"), ("by_operations", "clip_gflop"))
        }
        for name in ("cached", "uncached", "bounded")
    }


def _difference(one: Tensor, other: Tensor) -> float:
    """Largest difference of clips in standard deviations."""
    return float((one - other).abs().max() / one.std())


def table(figures: Mapping[str, Any]) -> str:
    """Return the ablation of a stored result as a table for the documentation."""
    lines = ["| sampler | ms a clip | range | GFLOP | times ours |", "|---|---|---|---|---|"]
    for name, row in figures["ablation"]["samplers"].items():
        if row is None:
            lines.append(f"| {name} | no difference | | | |")
            continue
        low, high = (1000 * value for value in row["clip_s_range"])
        cells = f"{1000 * row['clip_s']:.1f} | {low:.1f} to {high:.1f} | {row['clip_gflop']:.2f}"
        lines.append(f"| {name} | {cells} | {row['times_ours']:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

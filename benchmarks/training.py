"""How much of the device does a training step use, and how much sooner does it learn than the paper's?

`python -m benchmarks.training --seconds 3600 --threads 2` on an idle machine; `--parts steps --preset paper
--size 256 --precision bfloat16 --batch 4` on a GPU. It needs no more than torch, numpy, einops, safetensors
and pyarrow.

Steps: the real parts of the loop on a cache of random latents; operations by formula over the best square
product of the same run, precision and threads. Learning: seconds of training until the loss on held-out
clips, with masks and noise that are always the same, is as low as the worse of the two objectives ever came;
for each the best of the same batches and learning rates. Runs take turns; time for validation does not count.
"""

import argparse
import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.record import RESULTS, write_result
from benchmarks.training_subjects import (
    FRAMES,
    OURS,
    PAPER,
    PRESETS,
    moving_waves,
    train_params,
    write_cache,
)
from videomar.checkpoint.manifest import ModelShape
from videomar.compute.seeding import step_generator
from videomar.config import TrainParams
from videomar.latents.dataset import LatentDataset
from videomar.model.objective import Clips
from videomar.training.loop import batches_ahead
from videomar.training.micro_batches import backward
from videomar.training.optim import ema_decay_at, learning_rate_at, update_ema
from videomar.training.parallelize import Loss, clip_grad_norm, compile_blocks, recompute_blocks
from videomar.training.state import State, new_state
from videomar.training.throughput import (
    BatchShape,
    matmul_rate,
    peak_memory_gb,
    sequence_frames,
    step_flops,
    supervised_tokens,
    wait_for,
)
from videomar.training.worker import Worker

CLIPS, VAL_CLIPS = 512, 64
POINTS = 40  # validations of a learning run
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


Curve = list[tuple[float, float]]
"""Points of (seconds of training, held-out loss)."""


class Step(NamedTuple):
    """Time of one step."""

    shape: BatchShape
    waited_s: float
    """Part of `seconds` spent waiting for the batch."""
    seconds: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and store the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training")
    parser.add_argument("--parts", nargs="+", choices=("steps", "learning"), default=["steps", "learning"])
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1800.0, help="approximate duration of each part")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="medium")
    parser.add_argument("--depth", type=int, help="blocks; default: the preset's")
    parser.add_argument("--size", type=int, help="side in pixels; default: the preset's")
    parser.add_argument("--frames", type=int, help="latent frames; default: the preset's")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--precision", choices=tuple(_DTYPES), default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--recompute", action="store_true", help="activation checkpointing")
    parser.add_argument("--seeds", type=int, default=1, help="learning runs of each kind")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[1, 2, 4], help="values for the learning runs"
    )
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3], help="values for the learning runs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    figures: dict[str, Any] = {
        "device": str(options.device),
        "threads": options.threads,
        "seconds": options.seconds,
    }
    if options.device.type == "cuda":
        figures["gpu"] = torch.cuda.get_device_name(options.device)
    ratios: dict[str, float] = {}
    for part, measure in (("steps", measure_steps), ("learning", measure_learning)):
        if part in options.parts:
            with tempfile.TemporaryDirectory(prefix="training-") as folder:
                found, shares = measure(Path(folder), options)
            figures, ratios = figures | found, ratios | shares
    write_result("training", figures, ratios, ["einops", "safetensors"], folder=options.out)


def measure_steps(folder: Path, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, float]]:
    """Steps of a preset: share of the device's matrix-product rate, and share of time spent on data."""
    preset = PRESETS[options.preset]
    model = dataclasses.replace(preset.model, depth=options.depth or preset.model.depth)
    side = (options.size or preset.size_px) // preset.space_stride
    frames = options.frames or preset.latent_frames
    clips = np.random.default_rng(0).standard_normal((4 * options.batch, 16, frames, side, side))
    data = write_cache(folder, clips, preset.caption)
    params = train_params(preset.objective, options.batch, 1e-4, options.precision)
    network = ModelShape(model, 16, *reversed(preset.caption))
    state = new_state(network, params, options.device)
    if options.recompute:
        recompute_blocks(state.model)
    if options.compile:
        compile_blocks(state.model)
    rates = [matmul_rate(options.device, _DTYPES[options.precision])]
    running, steps = take_steps(state, data, params, options.device), []
    for _ in range(3 if options.compile else 1):  # the first steps allocate and compile
        next(running)
    end = time.perf_counter() + options.seconds
    while len(steps) < 2 or time.perf_counter() < end:
        steps.append(next(running))
    rates.append(matmul_rate(options.device, _DTYPES[options.precision]))
    shape = steps[0].shape
    step_s = statistics.median(step.seconds for step in steps)
    flops = step_flops(network, shape, params)
    figures = {
        "preset": options.preset,
        "depth": model.depth,
        "parameters": sum(weight.numel() for weight in state.model.parameters()),
        "objective": params.objective,
        "precision": options.precision,
        "batch_and_latent_frames_and_tokens": list(shape),
        "steps": len(steps),
        "step_s": step_s,
        "step_tflop": flops / 1e12,
        "step_tflop_per_s": flops / step_s / 1e12,
        "matmul_tflop_per_s": max(rates) / 1e12,
        "tokens_per_s": shape.batch_size * shape.tokens_per_frame * sequence_frames(shape, params) / step_s,
        "supervised_tokens_per_s": supervised_tokens(shape, params) / step_s,
        "peak_memory_gb": peak_memory_gb(options.device),
    }
    waited = sum(step.waited_s for step in steps) / sum(step.seconds for step in steps)
    return figures, {"matmul_share": flops / step_s / max(rates), "data_wait_share": waited}


def measure_learning(folder: Path, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, float]]:
    """Time to the lowest loss that both objectives reach, the paper's over ours."""
    train = write_cache(folder / "train", moving_waves(CLIPS, 0), (2, 8))
    held_out = torch.from_numpy(moving_waves(VAL_CLIPS, 1)).float().to(options.device)
    grid = list(itertools.product(range(options.seeds), options.batches, options.rates, (PAPER, OURS)))
    running = {}
    for seed, batch, rate, objective in grid:
        params = dataclasses.replace(train_params(objective, batch, rate, "float32"), seed=seed)
        every_s = options.seconds / len(grid) / POINTS
        running[objective, batch, rate, seed] = learn(train, held_out, params, every_s, options.device)
    # All runs take turns, point by point, so that other load on the machine slows each of them equally.
    points: dict[tuple[str, int, float, int], Curve] = {key: [] for key in running}
    for _ in range(POINTS):
        for key, run in running.items():
            points[key].append(next(run))
    curves: dict[tuple[str, int, float], list[Curve]] = {}
    for (objective, batch, rate, _), curve in points.items():
        curves.setdefault((objective, batch, rate), []).append(curve)
    lowest = {
        name: min(
            statistics.median(min(loss for _, loss in curve) for curve in found)
            for (objective, _, _), found in curves.items()
            if objective == name
        )
        for name in (PAPER, OURS)
    }
    target = max(lowest.values())
    figures: dict[str, Any] = {"latent_frames": FRAMES, "target_loss": target, "seeds": options.seeds}
    figures |= {"batches": options.batches, "learning_rates": options.rates}
    figures["validations_a_run"], figures["seconds_a_run"] = POINTS, options.seconds / len(grid)
    best = {}
    for name in (PAPER, OURS):
        reached = {
            key[1:]: statistics.median(time_to(curve, target) for curve in found)
            for key, found in curves.items()
            if key[0] == name
        }
        choice = min(reached, key=lambda key: reached[key])
        best[name] = reached[choice]
        figures |= {f"{name}_s": best[name], f"{name}_lowest_loss": lowest[name]}
        figures |= {f"{name}_batch": choice[0], f"{name}_learning_rate": choice[1]}
        figures[f"{name}_curve"] = [[round(x, 4) for x in point] for point in curves[(name, *choice)][0]]
    return figures, {"time_to_loss_vs_paper": best[PAPER] / best[OURS]}


def learn(
    train: LatentDataset, held_out: Tensor, params: TrainParams, every_s: float, device: torch.device
) -> Iterator[tuple[float, float]]:
    """Yield (seconds of training, held-out loss of the moving average) after each `every_s` of training."""
    state = new_state(ModelShape(PRESETS["small"].model, 16, 8, 2), params, device)
    objective_params = dataclasses.replace(
        params, objective=OURS, cond_drop_prob=0.0, condition_drop_prob=0.0
    )
    text = torch.zeros(len(held_out), 2, 8, device=device)
    clips = Clips(held_out, text, torch.zeros(len(held_out), 2, dtype=torch.bool, device=device))
    spent, due = 0.0, every_s
    for step in take_steps(state, train, params, device):
        spent += step.seconds
        if spent >= due:
            with torch.no_grad():
                loss = state.ema.loss(clips, objective_params, step_generator(0, -2, device=device))
            yield spent, loss.item()
            due = max(due + every_s, spent)


def time_to(curve: Sequence[tuple[float, float]], target: float) -> float:
    """Seconds to the first point at or below the target; infinite without such a point."""
    return next((seconds for seconds, loss in curve if loss <= target), float("inf"))


def take_steps(
    state: State, data: LatentDataset, params: TrainParams, device: torch.device
) -> Iterator[Step]:
    """Train endlessly with the parts of the loop and yield the time of each step."""
    loss_of, worker = Loss(state.model, params.precision), Worker(device=device)
    patch_size = state.model.params.patch_size
    batches = batches_ahead(data, params, patch_size, worker)
    for number in itertools.count():
        start = time.perf_counter()
        parts = batches.take(number, 0, more=True)
        waited_s = time.perf_counter() - start
        state.optimizer.zero_grad()
        loss = backward(loss_of, parts, params, patch_size, worker)
        norm = clip_grad_norm(state.model.parameters(), params.max_grad_norm)
        torch.stack([loss, norm.double()]).tolist()
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate_at(number, params)
        state.optimizer.step()
        update_ema(state.ema, state.model, ema_decay_at(number, params.ema_decay))
        wait_for(device)
        shape = BatchShape.of(parts[0].clips, patch_size)
        yield Step(shape, waited_s, time.perf_counter() - start)


if __name__ == "__main__":
    main()

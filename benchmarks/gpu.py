"""All that needs a GPU, in one run of at most ten minutes: checks, rates, training, sampling, tokenizer.

`python -m benchmarks.gpu` on a machine with torch, numpy, einops, safetensors, pyarrow and pytest; it needs
nothing else. A part that fails is named in `errors`, and the others go on. `--dry-run` makes the same
measurements with tiny networks on any machine, to test this script; its figures mean nothing.
"""

import argparse
import contextlib
import dataclasses
import gc
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.record import RESULTS, ROOT, write_result
from benchmarks.samplers import PAPER, in_float32, random_model, without_recordings
from benchmarks.training import Step, take_steps
from benchmarks.training_subjects import PRESETS, Preset, train_params, write_cache
from videomar.checkpoint.manifest import ModelShape
from videomar.compute.device import full_float32, repeat_exactly
from videomar.compute.seeding import step_generator
from videomar.config import SampleParams
from videomar.encoders.causal import CausalShape, CausalTokenizer
from videomar.model.videomar import VideoMAR
from videomar.ops.planning.plan_memory import micro_batch, training_memory
from videomar.training.parallelize import compile_blocks, recompute_blocks
from videomar.training.state import new_state
from videomar.training.throughput import matmul_rate, peak_memory_gb, step_flops, wait_for

LATENT_CHANNELS = 16
GPU_TESTS = "tests/model/test_gpu.py"
# Share of the device's memory that a training step may take by formula.
_FILL = 0.7
_LARGEST_BATCH = 128
_PLAIN = SampleParams(
    num_unmask_steps=16, num_diffusion_steps=25, final_diffusion_steps=10, cfg_scale=2.0, cfg_from=0.2,
    temperature=0.9, final_temperature=0.9, clamp=6.0, window_frames=0, history_noise=0.0, carry=0.0,
    fps=None, motion=None,
)  # fmt: skip
SAMPLING = {
    "small": dataclasses.replace(_PLAIN, num_unmask_steps=2, num_diffusion_steps=2, final_diffusion_steps=2),
    "medium": _PLAIN,
    "paper": PAPER,
}
_SMALL_CODER = CausalShape(channels=16, time_stride=4, space_stride=8, hidden_size=16, depth=1)
_MEDIUM_CODER = dataclasses.replace(_SMALL_CODER, hidden_size=384, depth=4)

Figures = dict[str, Any]


class Setting(NamedTuple):
    """What is measured, and on what."""

    device: torch.device
    seconds: float
    """Of each measurement that is repeated."""
    presets: tuple[str, ...]
    coder: CausalShape
    video: tuple[int, int]
    """Frames and side in pixels of the tokenizer's clips."""
    depth: int | None = None
    """Blocks; None = the preset's."""
    compiled: bool = False

    def preset(self, name: str) -> Preset:
        """Return a preset, with the depth of this setting."""
        preset = PRESETS[name]
        return preset._replace(
            model=dataclasses.replace(preset.model, depth=self.depth or preset.model.depth)
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, store and print the result; return 0 if every part worked, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each repeated measurement")
    parser.add_argument("--compile", action="store_true", help="compile blocks and head: a minute more")
    parser.add_argument("--dry-run", action="store_true", help="tiny networks, on the CPU if need be")
    parser.add_argument("--out", type=Path, help="folder of gpu.json; without it a dry run keeps none")
    options = parser.parse_args(arguments)
    if not options.dry_run and not torch.cuda.is_available():
        rule = "a GPU that PyTorch can use; run it on a GPU machine, or try the script with --dry-run"
        sys.stderr.write(f"benchmarks.gpu: got no GPU, expected {rule}\n")
        return 1
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    setting = Setting(device, options.seconds, ("medium", "paper"), _MEDIUM_CODER, (33, 256))
    if options.dry_run:
        setting = Setting(device, 0.0, ("small",), _SMALL_CODER, (9, 32), depth=1)
    setting = setting._replace(compiled=options.compile)
    figures, ratios = measure(setting, options.dry_run)
    with tempfile.TemporaryDirectory(prefix="gpu-") as nowhere:
        kept = Path(nowhere) if options.dry_run else RESULTS
        write_result("gpu", figures, ratios, ["einops", "safetensors"], options.out or kept)
    return 1 if figures["errors"] else 0


def measure(setting: Setting, dry_run: bool = False) -> tuple[Figures, dict[str, float]]:
    """Run all parts; return their figures and ratios."""
    figures: Figures = {"device": str(setting.device), "dry_run": dry_run, "errors": {}}
    if setting.device.type == "cuda":
        properties = torch.cuda.get_device_properties(setting.device)
        figures |= {"gpu": properties.name, "memory_gb": properties.total_memory / 1e9}
        figures["cuda"] = torch.version.cuda
    ratios: dict[str, float] = {}
    began = time.perf_counter()
    for name, part in _parts(setting, dry_run):
        start = time.perf_counter()
        try:
            found, shares = part(figures)
        except (RuntimeError, ValueError, OSError, AssertionError) as error:
            figures["errors"][name] = " ".join(f"{type(error).__name__}: {error}".split())[:500]
            found, shares = {}, {}
        figures |= found | {f"{name}_part_s": time.perf_counter() - start}
        ratios |= shares
        gc.collect()
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()
    return figures | {"seconds": time.perf_counter() - began}, ratios


Part = Callable[[Figures], tuple[Figures, dict[str, float]]]


def _parts(setting: Setting, dry_run: bool) -> Iterator[tuple[str, Part]]:
    """Yield names and functions; each gets the figures so far. Fast ones first."""
    yield "rates", lambda _: measure_rates(setting.device)
    yield "tests", lambda _: run_tests(collect_only=dry_run)
    yield "tokenizer", lambda _: measure_tokenizer(setting)
    for name in setting.presets:
        yield f"sampling_{name}", lambda _, name=name: measure_sampling(name, setting)  # type: ignore[misc]
        yield f"training_{name}", lambda found, name=name: measure_training(name, setting, found)  # type: ignore[misc]


def measure_rates(device: torch.device) -> tuple[Figures, dict[str, float]]:
    """Operations per second of square matrix products in three formats."""
    with full_float32():
        rates = {"float32": matmul_rate(device, torch.float32)}
    with _tf32():
        rates["tf32"] = matmul_rate(device, torch.float32)
    rates["bfloat16"] = matmul_rate(device, torch.bfloat16)
    return {f"matmul_{name}_tflop_per_s": rate / 1e12 for name, rate in rates.items()}, {}


def run_tests(collect_only: bool) -> tuple[Figures, dict[str, float]]:
    """Run the tests that need a GPU in a process of their own.

    Raises:
        RuntimeError: one failed, or none ran.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", GPU_TESTS, "-p", "no:cacheprovider"]
    command += ["--collect-only"] if collect_only else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    last = (done.stdout.strip().splitlines() or ["nothing"])[-1]
    if done.returncode:
        failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        raise RuntimeError("; ".join([last, *failed, done.stderr[-200:]]))
    return {"tests": last}, {}


def measure_training(name: str, setting: Setting, found: Figures) -> tuple[dict[str, Any], dict[str, float]]:
    """Steps of a preset in bfloat16: share of the rate measured before, memory beside the formula's."""
    preset, device = setting.preset(name), setting.device
    shape = ModelShape(preset.model, LATENT_CHANNELS, *reversed(preset.caption))
    recompute = preset.objective == "single_frame"  # as `paper` has to on fewer GPUs
    params = train_params(preset.objective, 2, 1e-4, "bfloat16")
    params = dataclasses.replace(params, activation_checkpointing=recompute)
    batch = _fitting_batch(preset, shape, params, found.get("memory_gb", 0.0) * _FILL)
    params = train_params(preset.objective, batch, 1e-4, "bfloat16")
    params = dataclasses.replace(params, activation_checkpointing=recompute)
    state = new_state(shape, params, device)
    if recompute:
        recompute_blocks(state.model)
    if setting.compiled:
        compile_blocks(state.model)
    side = preset.size_px // preset.space_stride
    clips = np.random.default_rng(0).standard_normal(
        (4 * batch, LATENT_CHANNELS, preset.latent_frames, side, side)
    )
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        repeat_exactly(device)  # as training does
        running = take_steps(state, write_cache(Path(folder), clips, preset.caption), params, device)
        next(running)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        steps = _steps(running, setting.seconds)
        torch.use_deterministic_algorithms(False)
        next(running)
        any_order = _steps(running, setting.seconds / 2)
    step_s = statistics.median(step.seconds for step in steps)
    any_order_s = statistics.median(step.seconds for step in any_order)
    flops, peak = step_flops(shape, steps[0].shape, params), peak_memory_gb(device)
    formula = training_memory(shape, _part_of(preset, batch), params).total_gb
    figures = {
        "batch": batch,
        "steps": len(steps),
        "step_s": step_s,
        "step_with_kernels_of_any_order_s": any_order_s,
        "step_tflop_per_s": flops / step_s / 1e12,
    }
    figures |= {"peak_memory_gb": peak, "formula_memory_gb": formula, "compiled": setting.compiled}
    ratios = {f"memory_vs_formula_{name}": peak / formula}
    if rate := found.get("matmul_bfloat16_tflop_per_s"):
        ratios[f"matmul_share_{name}"] = flops / step_s / 1e12 / rate
    return {f"training_{name}_{key}": value for key, value in figures.items()}, ratios


def _steps(running: Iterator[Step], seconds: float) -> list[Step]:
    """Return at least two steps, and as many as fit in the time."""
    steps, end = [next(running)], time.perf_counter() + seconds
    while len(steps) < 2 or time.perf_counter() < end:
        steps.append(next(running))
    return steps


def _part_of(preset: Preset, batch: int) -> Any:
    side = preset.size_px // preset.space_stride // preset.model.patch_size
    return micro_batch(batch, preset.latent_frames, side**2, preset.caption[0], 1)


def _fitting_batch(preset: Preset, shape: ModelShape, params: Any, memory_gb: float) -> int:
    """Return the largest power of two whose step fits by formula, at least 1; 2 if memory is not known."""
    if not memory_gb:
        return 2
    batch = 1
    while batch < _LARGEST_BATCH:
        if training_memory(shape, _part_of(preset, 2 * batch), params).total_gb > memory_gb:
            break
        batch *= 2
    return batch


def measure_sampling(name: str, setting: Setting) -> tuple[Figures, dict[str, float]]:
    """One latent frame of a clip: seconds and launches, with recorded steps and without; bfloat16's error."""
    preset, device = setting.preset(name), setting.device
    shape = ModelShape(preset.model, LATENT_CHANNELS, *reversed(preset.caption))
    network = random_model(shape, device)
    sampling, short = (
        SAMPLING[name],
        dataclasses.replace(
            SAMPLING[name], num_unmask_steps=2, num_diffusion_steps=2, final_diffusion_steps=2
        ),
    )
    _generate(network, preset, short, device)
    figures: Figures = {}
    for kind, context in (("recorded", contextlib.nullcontext()), ("plain", without_recordings())):
        with context:
            start = time.perf_counter()
            _generate(network, preset, sampling, device)
            figures[f"frame_{kind}_s"] = time.perf_counter() - start
            figures[f"launches_of_4_steps_{kind}"] = _launches(
                lambda: _generate(network, preset, short, device)
            )
    narrow = _generate(network, preset, short, device)
    with in_float32(), full_float32():
        exact = _generate(network, preset, short, device)
    figures["bfloat16_difference"] = float((narrow - exact).abs().max() / exact.std())
    figures["clip_s"] = figures["frame_recorded_s"] * (preset.latent_frames - 1)
    figures["finite"] = bool(narrow.isfinite().all())
    ratios = {f"recorded_vs_launches_{name}": figures["frame_plain_s"] / figures["frame_recorded_s"]}
    return {f"sampling_{name}_{key}": value for key, value in figures.items()}, ratios


def _generate(network: VideoMAR, preset: Preset, sampling: SampleParams, device: torch.device) -> Tensor:
    """Return the second latent frame of one clip, (1, C, 1, H, W)."""
    side = preset.size_px // preset.space_stride
    noise = step_generator(3, 0, device=device)
    context = torch.randn(1, LATENT_CHANNELS, 1, side, side, generator=noise, device=device)
    text = torch.randn(1, *preset.caption, generator=noise, device=device)
    mask = torch.ones(1, preset.caption[0], dtype=torch.bool, device=device)
    made = network.generate(context, 2, text, mask, sampling, noise)[:, :, 1:]
    wait_for(device)
    return made


@contextlib.contextmanager
def _tf32() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _launches(do: Callable[[], object]) -> int:
    """Count the calls that start kernels or graphs on the GPU; 0 without one."""
    if not torch.cuda.is_available():
        do()
        return 0
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        do()
    return sum(event.count for event in profiler.key_averages() if "Launch" in event.key)


def measure_tokenizer(setting: Setting) -> tuple[Figures, dict[str, float]]:
    """Frames per second of our tokenizer, both ways, and what TF32 changes."""
    device, (num_frames, side) = setting.device, setting.video
    coder = CausalTokenizer(setting.coder).initialise(step_generator(0, 0)).to(device).eval()
    for weight in coder.parameters():
        weight.requires_grad_(False)
        if not weight.any():
            weight.normal_(0, 0.02, generator=step_generator(1, 0, device=device))
    noise = step_generator(2, 0, device=device)
    video = torch.rand(4, 3, num_frames, side, side, generator=noise, device=device) * 2 - 1
    latents = coder.encode(video)
    figures: Figures = {}
    for name, do in (("encode", lambda: coder.encode(video)), ("decode", lambda: coder.decode(latents))):
        with _tf32():
            figures[f"{name}_frames_per_s"] = 4 * num_frames / _seconds_of(do, setting)
    with full_float32():
        exact = coder.encode(video)
    figures["tf32_difference"] = float((latents - exact).abs().max() / exact.std())
    return {f"tokenizer_{key}": value for key, value in figures.items()}, {}


def _seconds_of(do: Callable[[], object], setting: Setting) -> float:
    """Return the fastest of several runs, seconds."""
    do()
    wait_for(setting.device)
    fastest, end = float("inf"), time.perf_counter() + setting.seconds / 4
    while fastest == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        do()
        wait_for(setting.device)
        fastest = min(fastest, time.perf_counter() - start)
    return fastest


if __name__ == "__main__":
    sys.exit(main())

"""What a clip costs, before it is generated: memory by a formula, seconds by a measured step.

Both are for a person who is about to wait: the formula is within a factor of two of what was measured
(tests/sampling/test_forecast.py), and the measured step is a pass over one new frame of the size asked for.

Axes: F frames, H W rows and columns in pixels, T latent frames, L tokens per frame, D hidden size.
"""

import copy
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from videomar.encoders.causal import CausalTokenizer
from videomar.encoders.tokenizer import CHUNK_FRAMES
from videomar.errors import DataError
from videomar.model.linear import smallest_batch
from videomar.sampling.generate import ClipGenerator, ClipPlan, GenerationRequest

_FLOAT = 4
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_CONV_CHANNELS = 128
"""Of the widest layers at full resolution in published convolutional decoders; three are held at once."""
_BYTES_OF_A_VALUE = 13
"""Per colour value of a finished clip while it becomes pictures: three floats and a byte."""
_WORTH_A_PROBE = 4.0
"""Below so many times the work of a trained clip, a clip is done before an estimate helps."""


def check_memory(model: ClipGenerator, plan: ClipPlan) -> None:
    """Refuse a clip that does not fit into the memory that is free now.

    Raises:
        DataError: it needs more; with both numbers.
    """
    needed, free = bytes_needed(model, plan), free_bytes(model.device)
    if free is not None and needed > free:
        width, height = plan.size
        got = f"{plan.num_frames} frames of {width}x{height} pixels, which need about {needed / 1e9:.1f} GB"
        rule = f"at most the {free / 1e9:.1f} GB that are free on {model.device.type}"
        raise DataError(f"clip: got {got}, expected {rule}; ask for fewer frames or a smaller size")


def bytes_needed(model: ClipGenerator, plan: ClipPlan) -> int:
    """Memory that a clip takes at its peak beside the weights: the cache, and a pass or the decoder."""
    params, sample = model.loaded.shape.params, model.params.sample
    rows = smallest_batch(model.device) * (1 if sample.cfg_scale == 1 else 2)
    tokens, width = plan.tokens_per_frame, params.hidden_size
    one_tensor = rows * plan.window * tokens * width * _FLOAT
    cache = 2 * params.depth * one_tensor + (one_tensor if plan.length > plan.window else 0)
    trunk = rows * tokens * width * (8 + 2 * params.mlp_ratio) * _FLOAT
    head = rows * tokens * params.head_width * 6 * _FLOAT
    return int(cache + max(trunk + head, _decoding(model, plan)))


def _decoding(model: ClipGenerator, plan: ClipPlan) -> float:
    """Bytes for the pixels of a clip, and for the layers that make a chunk of them."""
    tokenizer = model.tokenizer
    (width, height), chunk = plan.size, min(plan.length, CHUNK_FRAMES)
    if isinstance(tokenizer, CausalTokenizer):
        shape = tokenizer.params
        places = (chunk + shape.depth) * width * height / shape.space_stride**2
        layers = places * (4 * shape.hidden_size + 3 * shape.time_stride * shape.space_stride**2)
    else:
        layers = chunk * tokenizer.time_stride * width * height * _CONV_CHANNELS * 3
    return plan.num_frames * width * height * 3 * _BYTES_OF_A_VALUE + layers * _FLOAT


def free_bytes(device: torch.device) -> int | None:
    """Memory that can be had on a device now, also within a container's limit; None = unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = []
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text("utf-8").splitlines() if ":" in line)
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        pass  # not on Linux
    try:
        limit, used = ((_CGROUP / f"memory.{name}").read_text("utf-8").strip() for name in ("max", "current"))
        found.append(max(0, int(limit) - int(used)))
    except (OSError, ValueError):
        pass  # no limit
    return min(found, default=None)


def seconds_needed(
    model: ClipGenerator, context: NDArray[np.uint8], request: GenerationRequest
) -> float | None:
    """Seconds that a clip will take, from a pass over its first new frame; None if it is short anyway.

    Later frames attend to more finished ones, which the estimate adds by the number of products.
    """
    plan, sample = model.plan(context, request), model.params.sample
    ingest = model.params.ingest
    trained = ingest.size_px**2 * ingest.num_frames
    if plan.size[0] * plan.size[1] * plan.num_frames < _WORTH_A_PROBE * trained:
        return None
    first = replace(request, num_frames=plan.used_frames + model.tokenizer.time_stride)
    fixed, one_step = (_seconds_of(model, context, first, steps) for steps in (1, 2))
    head_step = max(0.0, one_step - fixed)  # of all tokens of a frame
    # Besides the new frame, every frame of the context has a pass.
    a_pass = max(0.0, fixed - head_step) / (plan.used_length + 1)
    head_steps = (sample.num_diffusion_steps + sample.final_diffusion_steps) / 2
    frame = a_pass * (sample.num_unmask_steps + 1) + head_step * head_steps
    new_frames = plan.length - plan.used_length
    return frame * new_frames * _growth(model, plan)


def _seconds_of(
    model: ClipGenerator, context: NDArray[np.uint8], request: GenerationRequest, head_steps: int
) -> float:
    """Seconds of one new frame in a single pass."""
    quick = copy.copy(model)
    steps = {"num_unmask_steps": 1, "num_diffusion_steps": head_steps, "final_diffusion_steps": head_steps}
    quick.params = replace(model.params, sample=replace(model.params.sample, **steps))
    clips = quick.partial_clips(context, request)
    next(clips)  # the pictures, encoded
    start = time.perf_counter()
    for _ in clips:
        pass
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter() - start


def _growth(model: ClipGenerator, plan: ClipPlan) -> float:
    """Products of a pass over an average frame of the clip, over those of its first new frame."""
    params = model.loaded.shape.params
    weights = params.hidden_size * (6 + 2 * params.mlp_ratio)  # products per token and channel

    def products(num_frames: float) -> float:
        return weights + 2 * num_frames * plan.tokens_per_frame

    lengths = [min(index + 1, plan.window) for index in range(plan.used_length, plan.length)]
    return products(sum(lengths) / len(lengths)) / products(plan.used_length + 1)


def warnings_of(model: ClipGenerator, plan: ClipPlan) -> list[str]:
    """Say where a clip is beyond what the model was trained on, one line each."""
    ingest, (width, height) = model.params.ingest, plan.size
    lines = []
    if width * height > ingest.size_px**2 * 1.25:  # other aspect ratios have about this area
        trained = f"{ingest.size_px}x{ingest.size_px}"
        lines.append(
            f"{width}x{height} pixels are beyond the trained size, about {trained}; expect repetition"
        )
    if plan.num_frames - plan.used_frames >= ingest.num_frames:
        lines.append(
            f"{plan.num_frames} frames are beyond the trained length, {ingest.num_frames}; "
            "the clip slides a window and gets worse with length"
        )
    return lines

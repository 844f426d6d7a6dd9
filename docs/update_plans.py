"""Write what `videomar plan --gpu` says of the presets into docs/guide/real-thing.md: `make plans`."""

import math
import re
from pathlib import Path
from typing import NamedTuple

from videomar.config import Params
from videomar.config.edit import read_preset, with_changes
from videomar.ops.planning.gpus import Fleet, parse_fleet
from videomar.ops.planning.plan_counts import (
    Cost,
    LatentShape,
    Plan,
    Strides,
    Videos,
    assumed_clips,
    cached_shapes,
)
from videomar.ops.planning.plan_flops import text_size
from videomar.ops.planning.plan_formulas import plan_for
from videomar.ops.planning.plan_memory import parameter_sizes
from videomar.ops.planning.plan_shares import read_shares
from videomar.checkpoint.manifest import ModelShape
from videomar.training.throughput import BatchShape, matrix_weights, supervised_tokens

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/guide/real-thing.md"
CLIPS = 500_000
ROWS = {
    "small": ["t4:1"],
    "medium": ["3090:1", "4090:1", "l40s:1", "a100-40:1", "h100:1", "h100:8"],
    "paper": ["l40s:8", "a100-80:8", "h100:8", "h200:8", "b200:8", "h100:32"],
}
"""GPUs that each preset is planned for."""
BY_HAND = {"medium": "h100:8", "paper": "h100:8"}
"""GPUs that the calculation is written out for, of the last stage of the curriculum."""
SHARE = 0.35


def read(name: str) -> Params:
    """Parameters of the shipped file with a preset's values."""
    return with_changes(ROOT / "params.yaml", read_preset(ROOT / "presets", name))


def planned(name: str, fleet: str) -> Plan:
    """Plan of a preset on GPUs."""
    params = read(name)
    own = params.tokenizer
    strides = Strides(own.channels, own.time_stride, own.space_stride)
    nothing = Videos(0, 0.0, [])
    return plan_for(params, assumed_clips(CLIPS, params), nothing, strides, parse_fleet(fleet))


def plans_table() -> str:
    """Return the presets on all their GPUs as a Markdown table."""
    lines = [
        "| preset | GPUs | GB of a GPU, needed | fixed | copies | activations | s a step, by stage | hours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, fleets in ROWS.items():
        for fleet in fleets:
            lines.append(_row(name, parse_fleet(fleet), planned(name, fleet)))
    return "\n".join(lines)


def _row(name: str, fleet: Fleet, plan: Plan) -> str:
    stage, parts = max(plan.memory.items(), key=lambda item: sum(item[1].values()))
    need, has = sum(parts.values()), fleet.gpu.memory_gb
    fixed = sum(parts[part] for part in ("weights", "gradients", "moments", "average"))
    stages = [cost for cost in plan.costs if cost.stage in plan.memory]
    steps = ", ".join(f"{cost.step_s:.2g}" for cost in stages)
    [train] = [cost for cost in plan.costs if cost.stage == "train"]
    fits = f"{need:.1f} of {has:g}" if need <= has else f"**{need:.1f} of {has:g}**"
    hours = f"{train.hours:.1f}" if need <= has else "does not fit"
    cells = (name, f"`{fleet}`", fits, f"{fixed:.1f}", f"{parts['copies']:.1f}", f"{parts['activations']:.1f}")
    return f"| {' | '.join(cells)} | {steps} | {hours} |"


class Sums(NamedTuple):
    """The calculation by hand: its lines, and the results that must be those of the plan."""

    lines: list[str]
    gb: float
    step_s: float


def by_hand() -> str:
    """Return the calculation of every preset in BY_HAND, with what the plan says."""
    parts = []
    for name, fleet in BY_HAND.items():
        sums, plan = calculate(name, fleet), planned(name, fleet)
        cost = [cost for cost in plan.costs if cost.stage in plan.memory][-1]
        said = f"`videomar plan --gpu {fleet} --preset {name}` says {cost.peak_memory_gb:.1f} GB and {cost.step_s:.3g} s"
        parts.append("\n".join([f"**{name} on {fleet}**, last stage of the curriculum:", "", *sums.lines, "", f"{said}."]))
    return "\n\n".join(parts)


def calculate(name: str, fleet: str) -> Sums:
    """Calculate memory and seconds of a step of the last stage without the plan's own functions.

    Only counts are taken from the code: parameters of the network, and expected hidden tokens.
    """
    params, gpus = read(name), parse_fleet(fleet)
    train, net, gpu = params.train, params.model, gpus.gpu
    stage, count = train.curriculum[-1], gpus.count
    text = text_size(params.text)
    model = ModelShape(net, params.tokenizer.channels, text.channels, params.text.max_tokens)
    weights, sizes = matrix_weights(model), parameter_sizes(model)
    side = params.ingest.size_px // params.tokenizer.space_stride // net.patch_size
    frames = 1 + (params.ingest.num_frames - 1) // params.tokenizer.time_stride
    tokens = side * side
    clips = math.ceil(int(stage.batch_size) / count / train.accumulation)
    everything = train.objective == "all_frames"
    sequence = (2 * (frames - 1) if everything else frames) * tokens
    hidden = supervised_tokens(BatchShape(clips, frames, tokens), train)
    draws = hidden * train.batch_multiplier
    width, heads = net.hidden_size, net.head_width
    words = clips * params.text.max_tokens

    fixed = 20 * sizes.all
    copies = 2 * sum(weights) + 4 * sizes.all
    inner = int(width * net.mlp_ratio)
    block = clips * sequence * (42 * width + 4 * inner) + words * 10 * width + 2 * sequence**2
    stream = clips * sequence * 4 * width
    head = draws * (2 * heads * (11 * net.head_depth + 8) + 2 * width)
    head += draws * 4 * (6 if net.head == "flow" else 20) * model.latent_channels * net.patch_size**2
    ends = stream + 2 * words * (text.channels + width)
    again = clips * sequence * 4 * inner + (block if train.activation_checkpointing else 0)
    kept = net.depth * (stream if train.activation_checkpointing else block) + ends + head + again
    gb = 1.1 * (fixed + copies + kept) / 1e9 + 0.6

    seen = frames - 1
    # Frames that single_frame reads: to the last of the clips' targets, which are uniform over frames 1 to T-1.
    mean = 2.0 * seen if everything else 1 + sum(1 - ((f - 1) / seen) ** clips for f in range(1, frames))
    read_tokens = clips * mean * tokens
    attention = 12 * net.depth * width * (mean * tokens + params.text.max_tokens)
    trunk = read_tokens * (6 * weights.tokens + attention) + words * 6 * weights.captions
    head_flops = draws * 6 * weights.head
    flops = trunk * (4 / 3 if train.activation_checkpointing else 1) + head_flops
    share = read_shares(ROOT / "benchmarks/results/gpu.json").of("train")
    rate = gpu.tflops(train.precision) * 1e12 * share
    launches = (200 + (60 if train.activation_checkpointing else 0)) * net.depth + 500
    compute = train.accumulation * max(flops / rate, launches * 5e-6)
    update = 52 * sizes.all / gpu.bandwidth_gb_s / 1e9
    exchange = 8 * sizes.all * (count - 1) / count / gpus.link_gb_s / 1e9
    again_words = " and is computed twice: one block's more" if train.activation_checkpointing else ""
    lines = [
        f"1. {sizes.all / 1e6:,.1f} M parameters, {sum(weights) / 1e6:,.1f} M of them in matrices. Weights, gradients, two "
        f"moments, average: 20 bytes each = {fixed / 1e9:.2f} GB. Copies: 2 bytes of a matrix, 4 of a bucket = "
        f"{copies / 1e9:.2f} GB.",
        f"2. Micro-batch: {stage.batch_size} clips / {count} GPUs / accumulation {train.accumulation} = {clips} clips of "
        f"{frames} latent frames of {tokens} tokens; {train.objective} reads {sequence:,} tokens of each.",
        f"3. A block keeps, per token, 42 bytes x {width} channels + 4 x {inner} = {(42 * width + 4 * inner) / 1e3:.1f} kB; with "
        f"{params.text.max_tokens} caption tokens at 10 x {width} bytes and a mask of 2 x {sequence:,}^2 bytes: {block / 1e9:.3f} GB.",
        f"4. {net.depth} blocks keep {'their input, 4 bytes a channel' if train.activation_checkpointing else 'all of it'} = "
        f"{net.depth * (stream if train.activation_checkpointing else block) / 1e9:.2f} GB; the feed-forward's gradients"
        f"{again_words} = {again / 1e9:.2f} GB; the ends {ends / 1e9:.2f} GB.",
        f"5. Head: {hidden:,.0f} hidden tokens x {train.batch_multiplier} draws, {head / draws / 1e3:.1f} kB each = {head / 1e9:.2f} GB.",
        f"6. Memory: 1.1 x ({fixed / 1e9:.2f} + {copies / 1e9:.2f} + {kept / 1e9:.2f}) + 0.6 = **{gb:.1f} GB** of {gpu.memory_gb:g}.",
        f"7. Operations of a micro-batch: {read_tokens:,.0f} tokens (the expected {mean:.2f} frames) x (6 x {weights.tokens / 1e6:,.0f} M + "
        f"{attention / 1e6:,.0f} M for attention) + {words:,} caption tokens x 6 x {weights.captions / 1e6:,.0f} M"
        f"{', x 4/3 for what is computed twice,' if train.activation_checkpointing else ''} + {draws:,.0f} draws x 6 x "
        f"{weights.head / 1e6:.1f} M = {flops / 1e12:.2f} TFLOP.",
        f"8. {train.accumulation} x {flops / 1e12:.2f} TFLOP / ({gpu.tflops(train.precision):g} TFLOPS x {share:g}) = "
        f"{train.accumulation * flops / rate:.3f} s; {launches:,} launches of 5 microseconds would take "
        f"{train.accumulation * launches * 5e-6:.3f} s, and the longer counts. Update: 52 bytes x parameters / "
        f"{gpu.bandwidth_gb_s:g} GB/s = {1e3 * update:.1f} ms. Exchange: 8 bytes x {count - 1}/{count} / {gpus.link_gb_s:g} GB/s = "
        f"{1e3 * exchange:.1f} ms. Together **{compute + update + exchange:.3g} s** a step.",
    ]
    return Sums(lines, gb, compute + update + exchange)


def filled(page: str) -> str:
    """Return the page with its generated blocks written again."""
    for name, content in (("plans", plans_table()), ("by hand", by_hand())):
        block = re.compile(rf"(<!-- {name}: .*? -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        page = block.sub(lambda match, content=content: f"{match[1]}\n{content}\n\n{match[2]}", page)
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text("utf-8")), encoding="utf-8")

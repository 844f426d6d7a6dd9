"""Write what `videomar plan --gpu` says of the presets into the page "The real thing" and their heads."""

import math
import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

from videomar.checkpoint.manifest import ModelShape
from videomar.config import Params
from videomar.config.edit import read_preset, with_changes
from videomar.ops.planning.gpus import Fleet, parse_fleet
from videomar.ops.planning.plan_counts import Cost, Plan, PlannedStrides, Videos, assumed_clips
from videomar.ops.planning.plan_flops import text_size
from videomar.ops.planning.plan_formulas import plan_for
from videomar.ops.planning.plan_memory import parameter_sizes
from videomar.ops.planning.plan_shares import RESULTS, read_shares
from videomar.training.throughput import BatchShape, matrix_weights, supervised_tokens

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/guide/real-thing.md"
CLIPS = 500_000
ROWS = {
    "small": ["t4:1"],
    "medium": ["3090:1", "4090:1", "l40s:1", "a100-40:1", "h100:1", "h100:8"],
    "paper": ["l40s:8", "h100:4", "a100-80:8", "h100:8", "h200:8", "b200:8", "h100:32"],
}
"""GPUs that each preset is planned for."""
BY_HAND = {"medium": "h100:8", "paper": "h100:8"}
"""GPUs that the calculation is written out for, of the last stage of the curriculum."""
HEADER = re.compile(
    r"For (\S+), by formula \(docs/guide/real-thing\.md\): "
    r"([\d.]+) of (\d+) GB a GPU, ([\d.]+) hours of training\."
)
"""Claim in the head of a preset: GPUs, memory needed and there, hours."""


@cache
def read(name: str) -> Params:
    """Parameters of the shipped file with a preset's values."""
    return with_changes(ROOT / "params.yaml", read_preset(ROOT / "presets", name))


def planned(name: str, fleet: str) -> Plan:
    """Plan of a preset on GPUs."""
    params = read(name)
    own = params.tokenizer
    strides = PlannedStrides(own.channels, own.time_stride, own.space_stride)
    nothing = Videos(0, 0.0, [])
    return plan_for(params, assumed_clips(CLIPS, params), nothing, strides, parse_fleet(fleet))


def train_of(plan: Plan) -> Cost:
    """Cost of the whole stage `train`."""
    return next(cost for cost in plan.costs if cost.stage == "train")


def stages_of(plan: Plan) -> list[Cost]:
    """Costs of the stages of the curriculum."""
    return [cost for cost in plan.costs if cost.stage in plan.memory]


def plans_table() -> str:
    """Return the presets on all their GPUs as a Markdown table."""
    lines = [
        "| preset | GPUs | GB of a GPU, needed | fixed | copies | activations | s a step, by stage | hours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, fleets in ROWS.items():
        lines += [_row(name, parse_fleet(fleet), planned(name, fleet)) for fleet in fleets]
    return "\n".join(lines)


def _row(name: str, fleet: Fleet, plan: Plan) -> str:
    parts = max(plan.memory.values(), key=lambda parts: sum(parts.values()))
    need, has = sum(parts.values()), fleet.gpu.memory_gb
    fixed = sum(parts[part] for part in ("weights", "gradients", "moments", "average"))
    sizes = f"{need:.1f} of {has:g}", f"{fixed:.1f}", f"{parts['copies']:.1f}", f"{parts['activations']:.1f}"
    steps = ", ".join(f"{cost.step_s:.2g}" for cost in stages_of(plan))
    hours = f"{train_of(plan).hours:.1f}" if need <= has else "does not fit"
    return f"| {' | '.join((name, f'`{fleet}`', *sizes, steps, hours))} |"


class Seconds(NamedTuple):
    """Seconds of a step by part."""

    products: float
    launches: float
    update: float
    exchange: float

    @property
    def total(self) -> float:
        """The longer of products and launches, and the rest."""
        return max(self.products, self.launches) + self.update + self.exchange


@dataclass(frozen=True)
class ByHand:
    """Memory and seconds of a step of a preset's last stage, without the plan's own functions.

    Only counts are taken from the code: parameters of the network, and expected hidden tokens.
    """

    name: str
    fleet: Fleet

    @cached_property
    def params(self) -> Params:
        """Parameters of the preset."""
        return read(self.name)

    @cached_property
    def model(self) -> ModelShape:
        """Shape of the network."""
        text = self.params.text
        channels = text_size(text).channels
        return ModelShape(self.params.model, self.params.tokenizer.channels, channels, text.max_tokens)

    @property
    def recomputes(self) -> bool:
        """Whether blocks are computed twice."""
        return self.params.train.activation_checkpointing

    @property
    def shape(self) -> BatchShape:
        """Clips of a micro-batch, latent frames, tokens of a frame."""
        params, train = self.params, self.params.train
        side = params.ingest.size_px // params.tokenizer.space_stride // params.model.patch_size
        frames = 1 + (params.ingest.num_frames - 1) // params.tokenizer.time_stride
        clips = int(train.curriculum[-1].batch_size) / self.fleet.count / train.accumulation
        return BatchShape(math.ceil(clips), frames, side * side)

    @property
    def sequence(self) -> int:
        """Most tokens that are read of a clip."""
        frames = self.shape.num_frames
        all_frames = self.params.train.objective == "all_frames"
        return (2 * (frames - 1) if all_frames else frames) * self.shape.tokens_per_frame

    @property
    def mean_frames(self) -> float:
        """Frames that are read; of single_frame, those up to the last target."""
        clips, frames, _ = self.shape
        if self.params.train.objective == "all_frames":
            return 2.0 * (frames - 1)
        return 1 + sum(1 - ((frame - 1) / (frames - 1)) ** clips for frame in range(1, frames))

    @property
    def draws(self) -> float:
        """Expected draws of the head."""
        train = self.params.train
        return supervised_tokens(self.shape, train) * train.batch_multiplier

    def memory(self) -> dict[str, float]:
        """Bytes by part."""
        model, net, clips = self.model, self.params.model, self.shape.batch_size
        sizes, width = parameter_sizes(model), net.hidden_size
        inner, words = int(width * net.mlp_ratio), clips * model.max_text_tokens
        tokens = clips * self.sequence
        block = tokens * (42 * width + 4 * inner) + words * 10 * width + 2 * self.sequence**2
        stream = tokens * 4 * width
        head = 2 * net.head_width * (11 * net.head_depth + 8) + 2 * width
        head += 4 * (6 if net.head == "flow" else 20) * model.latent_channels * net.patch_size**2
        return {
            "fixed": 20 * sizes.all,
            "copies": 2 * sum(matrix_weights(model)) + (4 * sizes.all if self.fleet.count > 1 else 0),
            "block": block,
            "blocks": net.depth * (stream if self.recomputes else block),
            "again": tokens * 4 * inner + (block if self.recomputes else 0),
            "ends": stream + 2 * words * (model.text_channels + width),
            "head": self.draws * head,
        }

    def gb(self) -> float:
        """All memory, 10^9 bytes."""
        parts = self.memory()
        return 1.1 * sum(value for part, value in parts.items() if part != "block") / 1e9 + 0.6

    def flops(self) -> float:
        """Operations of a micro-batch."""
        model, net, weights = self.model, self.params.model, matrix_weights(self.model)
        tokens = self.mean_frames * self.shape.tokens_per_frame
        attention = 12 * net.depth * net.hidden_size * (tokens + model.max_text_tokens)
        trunk = tokens * (6 * weights.tokens + attention) + model.max_text_tokens * 6 * weights.captions
        trunk *= self.shape.batch_size * (4 / 3 if self.recomputes else 1)
        return trunk + self.draws * 6 * weights.head

    def share(self) -> float:
        """Share of the published rate."""
        return read_shares(ROOT / RESULTS).of("train")

    def seconds(self) -> Seconds:
        """Seconds of a step."""
        train, gpu, count = self.params.train, self.fleet.gpu, self.fleet.count
        sizes = parameter_sizes(self.model)
        launches = (260 if self.recomputes else 200) * self.params.model.depth + 500
        return Seconds(
            train.accumulation * self.flops() / (gpu.tflops(train.precision) * 1e12 * self.share()),
            train.accumulation * launches * 5e-6,
            52 * sizes.all / gpu.bandwidth_gb_s / 1e9,
            8 * sizes.all * (count - 1) / count / self.fleet.link_gb_s / 1e9,
        )

    def lines(self) -> list[str]:
        """The calculation as a numbered list."""
        return [
            f"{number}. {line}" for number, line in enumerate([*self._memory_lines(), *self._time_lines()], 1)
        ]

    def _memory_lines(self) -> list[str]:
        net, train, shape = self.params.model, self.params.train, self.shape
        sizes, weights = parameter_sizes(self.model), matrix_weights(self.model)
        parts = {part: value / 1e9 for part, value in self.memory().items()}
        width, inner = net.hidden_size, int(net.hidden_size * net.mlp_ratio)
        kept = "their inputs" if self.recomputes else "all of it"
        twice = ", and one block that is computed again" if self.recomputes else ""
        summed = " + ".join(f"{value:.2f}" for part, value in parts.items() if part != "block")
        return [
            f"{sizes.all / 1e6:,.1f} million parameters, {sum(weights) / 1e6:,.1f} of them in matrices. "
            f"Weights, gradients, two moments, average: 20 bytes each, {parts['fixed']:.2f} GB. Copies: 2 "
            f"bytes of a matrix, 4 of a bucket, {parts['copies']:.2f} GB.",
            f"{train.curriculum[-1].batch_size} clips / {self.fleet.count} GPUs / accumulation "
            f"{train.accumulation} = {shape.batch_size} clips of {shape.num_frames} latent frames of "
            f"{shape.tokens_per_frame} tokens; `{train.objective}` reads at most {self.sequence:,} tokens "
            "of each.",
            f"A block keeps (42 x {width} + 4 x {inner}) bytes of a token, 10 x {width} of each of "
            f"{self.model.max_text_tokens} caption tokens, and 2 of each pair of tokens: "
            f"{parts['block']:.3f} GB. Of {net.depth} blocks {kept}: {parts['blocks']:.2f} GB. Gradients of "
            f"the feed-forward{twice}: {parts['again']:.2f} GB. First and last "
            f"layers: {parts['ends']:.2f} GB.",
            f"Head: {self.draws:,.0f} draws of {1e6 * parts['head'] / self.draws:.1f} kB, "
            f"{parts['head']:.2f} GB.",
            f"Memory: 1.1 x ({summed}) + 0.6 = **{self.gb():.1f} GB**.",
        ]

    def _time_lines(self) -> list[str]:
        net, gpu, count = self.params.model, self.fleet.gpu, self.fleet.count
        train, weights, seconds, shape = (
            self.params.train,
            matrix_weights(self.model),
            self.seconds(),
            self.shape,
        )
        tokens, words = self.mean_frames * shape.tokens_per_frame, self.model.max_text_tokens
        twice = ", times 4/3 for blocks computed twice" if self.recomputes else ""
        return [
            f"Operations of a micro-batch: {shape.batch_size} x {tokens:,.0f} tokens ({self.mean_frames:.2f} "
            f"frames) x (6 x {weights.tokens / 1e6:,.0f} million weights + 12 x {net.depth} x "
            f"{net.hidden_size} x {tokens + words:,.0f} for attention) + {shape.batch_size} x {words} "
            f"caption tokens x 6 x {weights.captions / 1e6:,.0f} million{twice}; + {self.draws:,.0f} draws "
            f"x 6 x {weights.head / 1e6:.1f} million = {self.flops() / 1e12:.2f} x 10^12.",
            f"{train.accumulation} x {self.flops() / 1e12:.2f} / ({gpu.tflops(train.precision):g} TFLOPS x "
            f"{self.share():g}) = {seconds.products:.3f} s; its launches, 5 microseconds each, "
            f"{seconds.launches:.3f} s; the longer counts.",
            f"Update: 52 bytes of a parameter / {gpu.bandwidth_gb_s:g} GB/s = {1e3 * seconds.update:.1f} ms. "
            f"Exchange: 8 bytes x {count - 1}/{count} / {self.fleet.link_gb_s:g} GB/s = "
            f"{1e3 * seconds.exchange:.1f} ms. A step: **{seconds.total:.3g} s**.",
        ]


def by_hand() -> str:
    """Return the calculation of every preset in BY_HAND, with what the plan says."""
    parts = []
    for name, fleet in BY_HAND.items():
        cost = stages_of(planned(name, fleet))[-1]
        said = f"`videomar plan --gpu {fleet} --preset {name}`"
        said += f" says {cost.peak_memory_gb:.1f} GB and {cost.step_s:.3g} s."
        head = f"**{name} on {fleet}**, the last stage of the curriculum:"
        parts += [head, "\n".join(ByHand(name, parse_fleet(fleet)).lines()), said]
    return "\n\n".join(parts)


def filled(page: str) -> str:
    """Return the page with its generated blocks written again."""
    for name, content in (("plans", plans_table()), ("by hand", by_hand())):
        block = re.compile(rf"(<!-- {name}: .*? -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        page = block.sub(lambda match, content=content: f"{match[1]}\n{content}\n\n{match[2]}", page)
    return page


def claimed(name: str, preset: str) -> str:
    """Return a preset's text with what it says of GPUs in its head written again."""

    def claim(match: re.Match[str]) -> str:
        plan, fleet = planned(name, match[1]), parse_fleet(match[1])
        need = max(sum(parts.values()) for parts in plan.memory.values())
        source = f"For {fleet}, by formula (docs/guide/real-thing.md)"
        hours = f"{train_of(plan).hours:.2g} hours of training."
        return f"{source}: {need:.1f} of {fleet.gpu.memory_gb:g} GB a GPU, {hours}"

    return HEADER.sub(claim, preset)


if __name__ == "__main__":
    for path in sorted((ROOT / "presets").glob("*.yaml")):
        path.write_text(claimed(path.stem, path.read_text("utf-8")), encoding="utf-8")
    PAGE.write_text(filled(PAGE.read_text("utf-8")), encoding="utf-8")

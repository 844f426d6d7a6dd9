"""The diffusion head: a small network that draws one token from its hidden vector.

Source: the per-token head of MAR (arXiv 2406.11838), section 3.3. Two ways to train and draw: rectified flow
(arXiv 2209.03003) here, and the paper's DDPM in `ddpm.py`; the network is the same.

Axes: n tokens, P token channels, D hidden size, W head width.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from videomar.config import ModelParams
from videomar.model.linear import Linear

SINUSOID_CHANNELS = 256
LAYER_NORM_EPS = 1e-6
# The sinusoids were made for integer steps of a thousand; flow time runs from 0 to 1.
TIME_SCALE = 1000.0

Draw = Callable[[], Tensor]
"""Returns standard normal noise, different at every call."""
TakeStep = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
"""Evaluates the network for noisy tokens at a place of the schedule."""


class GuidedHidden(NamedTuple):
    """Hidden vectors that tokens are sampled from, and the strength of guidance."""

    hidden: Tensor
    """With the caption, (..., D)."""
    null: Tensor | None = None
    """Without the caption, (..., D); None = no guidance."""
    weight: float = 1.0
    """Guidance weight; not used without `null`."""


def sinusoid(time: Tensor, channels: int = SINUSOID_CHANNELS) -> Tensor:
    """(...) -> (..., channels): [cos, sin] of time * 10000^(-i / half)."""
    half = channels // 2
    exponents = torch.arange(half, device=time.device, dtype=torch.float32) / half
    angles = time[..., None] * torch.exp(-math.log(10_000) * exponents)
    return torch.cat([angles.cos(), angles.sin()], -1)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


def _two_layers(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(Linear(inputs, width), nn.SiLU(), Linear(width, width))


class HeadBlock(nn.Module):
    """Residual MLP whose shift, scale and gate come from the condition; starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_ln = nn.LayerNorm(width, LAYER_NORM_EPS)
        self.mlp = _two_layers(width, width)
        self.modulation = nn.Sequential(nn.SiLU(), Linear(width, 3 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(..., W) -> (..., W)."""
        shift, scale, gate = self.modulation(condition).chunk(3, -1)
        return x + gate * self.mlp(_modulate(self.in_ln(x), shift, scale))


class HeadNetwork(nn.Module):
    """MLP on a noisy token, conditioned on the time and the token's hidden vector."""

    def __init__(self, params: ModelParams, token_channels: int, outputs: int) -> None:
        super().__init__()
        width = params.head_width
        self.input_proj = Linear(token_channels, width)
        self.cond_embed = Linear(params.hidden_size, width)
        self.time_embed = _two_layers(SINUSOID_CHANNELS, width)
        self.blocks = nn.ModuleList(HeadBlock(width) for _ in range(params.head_depth))
        self.final_norm = nn.LayerNorm(width, LAYER_NORM_EPS, elementwise_affine=False)
        self.final_modulation = nn.Sequential(nn.SiLU(), Linear(width, 2 * width))
        self.final = Linear(width, outputs)

    def forward(self, noisy: Tensor, time: Tensor, embedded: Tensor) -> Tensor:
        """Tokens (..., P), steps of a thousand (...), embedded hidden vectors (..., W) -> (..., outputs)."""
        condition = self.time_embed(sinusoid(time).to(embedded.dtype)) + embedded
        x = self.input_proj(noisy)
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.final_modulation(condition).chunk(2, -1)
        return self.final(_modulate(self.final_norm(x), shift, scale)).to(noisy.dtype)

    def zero_init(self) -> None:
        """Start every modulation and the last layer at zero, so that the untrained head predicts zero."""
        blocks = (block.modulation for block in self.blocks if isinstance(block, HeadBlock))
        for layer in [*(m[1] for m in (*blocks, self.final_modulation)), self.final]:
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


class DiffusionHead(nn.Module, ABC):
    """Common base of both heads: the network, a training error per token, and sampling of tokens."""

    outputs_per_channel = 1

    def __init__(self, params: ModelParams, token_channels: int) -> None:
        super().__init__()
        self.token_channels = token_channels
        self.residual_scale: Tensor | None
        # A buffer of value None is in no checkpoint.
        self.register_buffer("residual_scale", torch.ones(token_channels) if params.residual else None)
        self.net = HeadNetwork(params, token_channels, self.outputs_per_channel * token_channels)

    def to_drawn(self, tokens: Tensor, previous: Tensor) -> Tensor:
        """Return what the head draws in place of tokens (..., P), given those before them, (..., P).

        With `residual` the difference to these, over the scale of such differences; else the tokens.
        Source: residual video diffusion (arXiv 2203.09481), here token by token and without a learned mean.
        """
        return tokens if self.residual_scale is None else (tokens - previous) / self.residual_scale

    def from_drawn(self, drawn: Tensor, previous: Tensor) -> Tensor:
        """Return the tokens (..., P) that the head has drawn: the inverse of `to_drawn`."""
        return drawn if self.residual_scale is None else previous + self.residual_scale * drawn

    @abstractmethod
    def draw_time(self, count: int, distribution: str, generator: torch.Generator) -> Tensor:
        """Times (count,) at which tokens are trained."""

    @abstractmethod
    def predict(self, noisy: Tensor, time: Tensor, hidden: Tensor) -> Tensor:
        """Output of the network for noisy tokens (n, P) at times (n,), given hidden vectors (n, D)."""

    @abstractmethod
    def errors(self, tokens: Tensor, hidden: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """Training error of each token, (n,): tokens and noise (n, P), hidden vectors (n, D), times (n,)."""

    @abstractmethod
    def step(
        self, tokens: Tensor, now: Tensor, embedded: Tensor, null: Tensor | None, weight: float | Tensor
    ) -> tuple[Tensor, ...]:
        """Evaluate the network for one step of sampling, without drawing anything.

        Args:
            tokens: noisy tokens (..., P).
            now: where the step starts, in the head's own terms.
            embedded: embedded hidden vectors (..., W).
            null: the same without the caption; None = no guidance.
            weight: guidance weight.
        """

    @abstractmethod
    def walk(self, take: TakeStep, temperature: float, num_steps: int, draw: Draw) -> Tensor:
        """Tokens (..., P) by `num_steps` steps from noise; `take` is `step` of tokens and `now`."""

    def sample(
        self,
        guided: GuidedHidden,
        temperature: float,
        num_steps: int,
        draw: Draw,
        step: Callable[..., tuple[Tensor, ...]] | None = None,
    ) -> Tensor:
        """Sample tokens (..., P); as (B, r, P), those of a clip do not depend on the other clips.

        Args:
            guided: hidden vectors, and how strongly they are guided by the caption.
            temperature: scale of the noise; 1 = as trained, 0 = the same tokens whatever the noise.
            num_steps: evaluations of the network.
            draw: returns standard normal noise (..., P), different at every call.
            step: computes the same as the method `step`, see `Replayed`; None = that method.
        """
        evaluate = step or self.step
        embedded = self.net.cond_embed(guided.hidden)
        null = None if guided.null is None else self.net.cond_embed(guided.null)

        def take(tokens: Tensor, now: Tensor) -> tuple[Tensor, ...]:
            return evaluate(tokens, now, embedded, null, guided.weight)

        return self.walk(take, temperature, num_steps, draw)

    def losses(self, tokens: Tensor, hidden: Tensor, distribution: str, generator: torch.Generator) -> Tensor:
        """Error of each of tokens (n, P), (n,): each at a time and with noise of its own."""
        time = self.draw_time(len(tokens), distribution, generator)
        noise = torch.randn(tokens.shape, generator=generator, device=tokens.device)
        return self.errors(tokens, hidden, time, noise)

    def loss(self, tokens: Tensor, hidden: Tensor, distribution: str, generator: torch.Generator) -> Tensor:
        """Mean of `losses`."""
        return self.losses(tokens, hidden, distribution, generator).mean()


class FlowHead(DiffusionHead):
    """Rectified flow: x_t = (1 - t) token + t noise, t in 0..1; the network predicts token - noise."""

    def draw_time(self, count: int, distribution: str, generator: torch.Generator) -> Tensor:
        """`logit_normal` (arXiv 2403.03206) or `uniform`, (count,) in 0..1."""
        if distribution == "uniform":
            return torch.rand(count, generator=generator, device=generator.device)
        return torch.randn(count, generator=generator, device=generator.device).sigmoid()

    def predict(self, noisy: Tensor, time: Tensor, hidden: Tensor) -> Tensor:
        """Direction token - noise (n, P) at tokens (n, P), times (n,) in 0..1, hidden vectors (n, D)."""
        return self.net(noisy, time * TIME_SCALE, self.net.cond_embed(hidden))

    def errors(self, tokens: Tensor, hidden: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error of the direction, (n,)."""
        noisy = torch.lerp(tokens, noise, time[:, None])
        return (self.predict(noisy, time, hidden) - (tokens - noise)).square().mean(-1)

    def step(
        self, tokens: Tensor, now: Tensor, embedded: Tensor, null: Tensor | None, weight: float | Tensor
    ) -> tuple[Tensor, ...]:
        """Guided direction token - noise (..., P) at `now`, a time of a thousand, one for all tokens."""
        direction = self.net(tokens, now, embedded)
        if null is not None:
            direction = torch.lerp(self.net(tokens, now, null), direction, weight)
        return (direction,)

    def walk(self, take: TakeStep, temperature: float, num_steps: int, draw: Draw) -> Tensor:
        """Tokens (..., P) by Euler steps from time 1 to 0; the temperature scales the starting noise."""
        tokens = temperature * draw()
        same = (1,) * (tokens.ndim - 1)  # all tokens are at the same time: embed it once
        for now, then in itertools.pairwise(torch.linspace(1, 0, num_steps + 1).tolist()):
            [direction] = take(tokens, torch.full(same, now * TIME_SCALE, device=tokens.device))
            tokens = tokens + (now - then) * direction
        return tokens

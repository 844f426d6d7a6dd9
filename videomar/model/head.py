"""The diffusion head: a small network that draws one token from its hidden vector, by rectified flow.

Source: the per-token head of MAR (arXiv 2406.11838), section 3.3, with the rectified-flow objective of
arXiv 2209.03003 in place of DDPM: x_t = (1 - t) x_0 + t noise, and the network predicts x_0 - noise.

Axes: n tokens, P token channels, D hidden size, W head width.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videomar.config import ModelParams

SINUSOID_CHANNELS = 256
LAYER_NORM_EPS = 1e-6
# The sinusoids were made for integer steps of a thousand; flow time runs from 0 to 1.
TIME_SCALE = 1000.0


def sinusoid(time: Tensor, channels: int = SINUSOID_CHANNELS) -> Tensor:
    """(n,) -> (n, channels): [cos, sin] of time * 10000^(-i / half)."""
    half = channels // 2
    frequencies = torch.exp(-math.log(10_000) / half * torch.arange(half, device=time.device))
    angles = time[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


class HeadBlock(nn.Module):
    """Residual MLP whose shift, scale and gate come from the condition; starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_ln = nn.LayerNorm(width, LAYER_NORM_EPS)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(n, W) -> (n, W)."""
        shift, scale, gate = self.modulation(condition).chunk(3, -1)
        return x + gate * self.mlp(_modulate(self.in_ln(x), shift, scale))


class FlowHead(nn.Module):
    """Draws tokens given hidden vectors. Remembers its weights only."""

    def __init__(self, params: ModelParams, token_channels: int) -> None:
        super().__init__()
        width = params.head_width
        self.token_channels = token_channels
        self.input_proj = nn.Linear(token_channels, width)
        self.cond_embed = nn.Linear(params.hidden_size, width)
        self.time_embed = nn.Sequential(
            nn.Linear(SINUSOID_CHANNELS, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.blocks = nn.ModuleList(HeadBlock(width) for _ in range(params.head_depth))
        self.final_norm = nn.LayerNorm(width, LAYER_NORM_EPS, elementwise_affine=False)
        self.final_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.final = nn.Linear(width, token_channels)

    def zero_init(self) -> None:
        """Start every modulation and the last layer at zero, so that the untrained head predicts zero."""
        networks = [module for name, module in self.named_modules() if name.endswith("modulation")]
        layers = [
            layer for network in networks for layer in network.modules() if isinstance(layer, nn.Linear)
        ]
        for layer in [*layers, self.final]:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def predict(self, noisy: Tensor, time: Tensor, hidden: Tensor) -> Tensor:
        """Direction x_0 - noise (n, P) at tokens (n, P), flow times (n,) in 0..1, hidden vectors (n, D)."""
        return self._predict(noisy, time, self.cond_embed(hidden))

    def _predict(self, noisy: Tensor, time: Tensor, embedded: Tensor) -> Tensor:
        condition = self.time_embed(sinusoid(time * TIME_SCALE)) + embedded
        x = self.input_proj(noisy)
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.final_modulation(condition).chunk(2, -1)
        return self.final(_modulate(self.final_norm(x), shift, scale))

    def loss(self, tokens: Tensor, hidden: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared error of the direction for tokens (n, P), at logit-normal times (arXiv 2403.03206)."""
        time = torch.randn(len(tokens), generator=generator, device=tokens.device).sigmoid()
        noise = torch.randn(tokens.shape, generator=generator, device=tokens.device)
        noisy = torch.lerp(tokens, noise, time[:, None])
        return F.mse_loss(self.predict(noisy, time, hidden), tokens - noise)

    def sample(
        self, hidden: Tensor, null: Tensor | None, weight: float, noise: Tensor, num_steps: int
    ) -> Tensor:
        """Tokens (n, P) by Euler steps from `noise` (n, P) at time 1 to time 0.

        Args:
            hidden: hidden vectors with the caption, (n, D).
            null: the same with the null text; None = no guidance.
            weight: guidance weight; 1 = the caption's direction as it is.
            noise: starting points, standard normal times the temperature.
            num_steps: Euler steps.
        """
        embedded = self.cond_embed(hidden)
        embedded_null = None if null is None else self.cond_embed(null)
        times = torch.linspace(1, 0, num_steps + 1).tolist()
        tokens = noise
        for now, then in itertools.pairwise(times):
            time = torch.full((len(tokens),), now, device=tokens.device)
            direction = self._predict(tokens, time, embedded)
            if embedded_null is not None:
                unguided = self._predict(tokens, time, embedded_null)
                direction = torch.lerp(unguided, direction, weight)
            tokens = tokens + (now - then) * direction
        return tokens

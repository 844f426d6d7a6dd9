"""The paper's diffusion head: noise prediction with a learned variance, drawn by respaced ancestral steps.

Source: DDPM (arXiv 2006.11239) and Improved DDPM (arXiv 2102.09672), whose equations are named below, as used
per token by MAR (arXiv 2406.11838). Differences: at temperature 0 the starting noise is zero too, and in
sampling the token that a step predicts is cut off at `_MAX_TOKEN`.

Axes: n tokens, P token channels, D hidden size.
"""

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from videomar.compute.device import send
from videomar.config.section import require
from videomar.model.head import DiffusionHead, Draw, TakeStep

NUM_TRAIN_STEPS = 1000
_COSINE_OFFSET = 0.008
_MAX_BETA = 0.999
# Keeps the logarithm finite for a token far outside what the network expects.
_SMALLEST_PROBABILITY = 1e-12
# In standard deviations of tokens. At step 999 the token is 2e-9 of the variance: an error of 0.02 in the
# noise is one of 400 in the token, from which a network that was not trained for long does not come back.
_MAX_TOKEN = 20.0
_CPU = torch.device("cpu")


def cosine_alpha_bars(num_steps: int = NUM_TRAIN_STEPS) -> Tensor:
    """Return the share of the token's variance left after each step, (num_steps,) float64.

    Source: Improved DDPM, eq. 17; betas, 1 minus the ratio of neighbours, are cut off at 0.999.
    """
    time = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    curve = ((time + _COSINE_OFFSET) / (1 + _COSINE_OFFSET) * math.pi / 2).cos().square()
    betas = (1 - curve[1:] / curve[:-1]).clamp_max(_MAX_BETA)
    return (1 - betas).cumprod(0)


class Coefficients(NamedTuple):
    """What a step back needs of the schedule, each (..., 1)."""

    alpha_bar: Tensor
    token_weight: Tensor
    noisy_weight: Tensor
    smallest: Tensor
    """Lower bound of the log-variance."""
    largest: Tensor
    """Upper bound of the same."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A chain of noising steps; column i belongs to step `steps[i]` of the thousand.

    Posterior q(x_{i-1} | x_i, x_0): DDPM, eq. 6 and 7. Columns (num_steps,), `steps` int64, others float64.
    """

    steps: Tensor
    alpha_bars: Tensor
    betas: Tensor
    posterior_variance: Tensor
    token_weight: Tensor
    noisy_weight: Tensor

    def at(self, index: Tensor, dtype: torch.dtype) -> "Coefficients":
        """Return what a step back from columns (...) needs."""
        return Coefficients(*(column[index][..., None].to(dtype) for column in self._columns()))

    def rows(self) -> Tensor:
        """Return for each column its step of the thousand and its coefficients, (num_steps, 6) float64."""
        return torch.stack([self.steps.double(), *self._columns()], 1)

    def _columns(self) -> tuple[Tensor, ...]:
        return self.alpha_bars, self.token_weight, self.noisy_weight, *self.log_variance_range()

    def log_variance_range(self) -> tuple[Tensor, Tensor]:
        """Return the smallest and largest log-variance of a backward step, (num_steps,): posterior and beta.

        The first step's posterior variance is 0; the second's stands in for it, as in Improved DDPM's code.
        """
        smallest = self.posterior_variance.clone()
        smallest[0] = smallest[1] if len(smallest) > 1 else self.betas[0]
        return smallest.log(), self.betas.log()


@functools.cache
def respaced(num_steps: int, device: torch.device = _CPU) -> Schedule:
    """Return the chain of `num_steps` of the thousand steps, evenly spaced with both ends; one = the last.

    Raises:
        ParamsError: `num_steps` is out of range.
    """
    rule = f"1 to {NUM_TRAIN_STEPS} with the ddpm head"
    require(1 <= num_steps <= NUM_TRAIN_STEPS, "sample.num_diffusion_steps", num_steps, rule)
    steps = torch.linspace(NUM_TRAIN_STEPS - 1, 0, num_steps, dtype=torch.float64).round().long().flip(0)
    bars = cosine_alpha_bars()[steps]
    before = torch.cat([bars.new_ones(1), bars[:-1]])
    betas = 1 - bars / before
    return Schedule(
        steps=send(steps, device),
        alpha_bars=send(bars, device),
        betas=send(betas, device),
        posterior_variance=send(betas * (1 - before) / (1 - bars), device),
        token_weight=send(betas * before.sqrt() / (1 - bars), device),
        noisy_weight=send((1 - before) * (1 - betas).sqrt() / (1 - bars), device),
    )


class DDPMHead(DiffusionHead):
    """Predicts the noise and, between the two bounds of the schedule, the log-variance of a step."""

    outputs_per_channel = 2

    def draw_time(self, count: int, distribution: str, generator: torch.Generator) -> Tensor:
        """Steps of the thousand, uniform, (count,); `distribution` is ignored (flow head only)."""
        return torch.randint(NUM_TRAIN_STEPS, (count,), generator=generator, device=generator.device)

    def predict(self, noisy: Tensor, time: Tensor, hidden: Tensor) -> Tensor:
        """(noise, variance) (n, 2P) at tokens (n, P), steps 0..999 (n,), hidden vectors (n, D)."""
        return self.net(noisy, time, self.net.cond_embed(hidden))

    def errors(self, tokens: Tensor, hidden: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """Squared error of the noise, which trains the mean, plus the variational term in bits, (n,).

        The variational term sees the mean as given, so it trains the variance alone. Its weight is 1:
        Improved DDPM, eq. 16, weighs the sum over 1000 steps by 0.001.
        """
        schedule = respaced(NUM_TRAIN_STEPS, tokens.device)
        bars = schedule.alpha_bars[time][..., None].to(tokens.dtype)
        noisy = bars.sqrt() * tokens + (1 - bars).sqrt() * noise
        predicted, fraction = self.predict(noisy, time, hidden).chunk(2, -1)
        simple = (predicted - noise).square().mean(-1)
        return simple + _variational_bits(schedule, tokens, noisy, time, predicted.detach(), fraction)

    def step(
        self, tokens: Tensor, now: Tensor, embedded: Tensor, null: Tensor | None, weight: float | Tensor
    ) -> tuple[Tensor, ...]:
        """Mean and deviation (..., P) of the tokens one step back; `now` is a row of `Schedule.rows`."""
        columns = now.view(-1, *(1,) * tokens.ndim)
        time = columns[0, ..., 0].float()  # all tokens are at the same step: embed it once
        at = Coefficients(*columns[1:].to(tokens.dtype).unbind(0))
        noise, fraction = self.net(tokens, time, embedded).chunk(2, -1)
        if null is not None:
            unguided = self.net(tokens, time, null)[..., : self.token_channels]
            noise = torch.lerp(unguided, noise, weight)
        mean, log_variance = _backward(at, tokens, noise, fraction, _MAX_TOKEN)
        return mean, (log_variance / 2).exp()

    def walk(self, take: TakeStep, temperature: float, num_steps: int, draw: Draw) -> Tensor:
        """Tokens (..., P) by `num_steps` ancestral steps; the temperature scales the noise of every step.

        The noise at the start is not scaled, except that temperature 0 leaves no noise at all.
        """
        tokens = draw() * float(temperature > 0)
        rows = respaced(num_steps, tokens.device).rows()
        for place in reversed(range(num_steps)):
            mean, deviation = take(tokens, rows[place])
            noisy = place > 0 and temperature > 0
            # A copy, because a replayed step overwrites its results.
            tokens = mean + temperature * deviation * draw() if noisy else mean.clone()
        return tokens


def _posterior_mean(at: Coefficients, tokens: Tensor, noisy: Tensor) -> Tensor:
    """Mean of the tokens (..., P) one step before, given noisy and clean tokens: DDPM, eq. 7."""
    return at.token_weight * tokens + at.noisy_weight * noisy


def _backward(
    at: Coefficients, noisy: Tensor, noise: Tensor, fraction: Tensor, max_token: float = math.inf
) -> tuple[Tensor, Tensor]:
    """Mean and log-variance (..., P) of a step back from noisy tokens.

    `fraction` in -1..1 interpolates between the bounds of the log-variance: Improved DDPM, eq. 15. The token
    that `noise` leaves is clamped to `max_token` on both sides.
    """
    bars = at.alpha_bar
    tokens = ((noisy - (1 - bars).sqrt() * noise) / bars.sqrt()).clamp(-max_token, max_token)
    mean = _posterior_mean(at, tokens, noisy)
    log_variance = torch.lerp(
        at.smallest.expand_as(fraction), at.largest.expand_as(fraction), (fraction + 1) / 2
    )
    return mean, log_variance


def _variational_bits(
    schedule: Schedule, tokens: Tensor, noisy: Tensor, index: Tensor, noise: Tensor, fraction: Tensor
) -> Tensor:
    """Bits per channel (n,): KL to the posterior; at step 0 the likelihood in 256 levels (DDPM, eq. 13)."""
    at = schedule.at(index, noisy.dtype)
    mean, log_variance = _backward(at, noisy, noise, fraction)
    true_mean = _posterior_mean(at, tokens, noisy)
    gap = log_variance - at.smallest
    kl = (gap + (-gap).exp() + (true_mean - mean).square() * (-log_variance).exp() - 1) / 2
    bits = torch.where(index[:, None] == 0, _level_nats(tokens, mean, log_variance), kl)
    return bits.mean(-1) / math.log(2)


def _level_nats(tokens: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Negative log-probability (n, P) of a token's level: 256 of them, 2/255 apart, those at +-1 open."""
    scale = (-log_variance / 2).exp()
    above = torch.special.ndtr((tokens + 1 / 255 - mean) * scale)
    below = torch.special.ndtr((tokens - 1 / 255 - mean) * scale)
    inside = torch.where(tokens > 0.999, 1 - below, above - below)
    return -torch.where(tokens < -0.999, above, inside).clamp_min(_SMALLEST_PROBABILITY).log()

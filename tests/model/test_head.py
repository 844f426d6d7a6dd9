"""What both diffusion heads keep, and the flow head against plain floats; DDPM's chain is in test_ddpm.py.

Axes: n tokens, P token channels.
"""

import dataclasses
import itertools
import math

import pytest
import torch
from torch import nn

from tests.conftest import lively_model
from videomar.compute.seeding import step_generator
from videomar.model.ddpm import respaced
from videomar.model.head import TIME_SCALE, GuidedHidden
from videomar.model.videomar import VideoMAR

KINDS = pytest.mark.parametrize("kind", ["flow", "ddpm"])
# A mixture of three round Gaussians in two channels, its standard deviation about 1.
WEIGHTS = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
MEANS = torch.tensor([[-1.2, -0.8], [1.2, -0.6], [0.0, 1.2]], dtype=torch.float64)
STDS = torch.tensor([0.15, 0.25, 0.3], dtype=torch.float64)


def draw_mixture(count, generator):
    """Tokens (count, 2) of the mixture, float32."""
    which = torch.multinomial(WEIGHTS, count, True, generator=generator)
    return (MEANS[which] + STDS[which, None] * torch.randn(count, 2, generator=generator)).float()


def expected_token(noisy, keep, spread):
    """Mean and variance (n, 2) of a token of the mixture, given keep * token + spread * noise."""
    variances = keep**2 * STDS**2 + spread**2
    gaps = noisy[:, None] - keep * MEANS
    shares = (WEIGHTS.log() - variances.log() - gaps.square().sum(-1) / (2 * variances)).softmax(-1)[
        ..., None
    ]
    means = MEANS + (keep * STDS**2 / variances)[:, None] * gaps
    mean = (shares * means).sum(1)
    around = (STDS**2 * spread**2 / variances)[:, None] + (means - mean[:, None]).square()
    return mean, (shares * around).sum(1)


def mixture_errors(tokens):
    """Largest errors of weights, means and standard deviations, each token counted with its nearest mean."""
    tokens = tokens.double()
    nearest = torch.cdist(tokens, MEANS).argmin(1)
    groups = [tokens[nearest == index] for index in range(3)]
    weights = torch.tensor([len(group) / len(tokens) for group in groups])
    means, stds = (torch.stack([fact(group, 0) for group in groups]) for fact in (torch.mean, torch.std))
    gaps = (weights - WEIGHTS, means - MEANS, stds - STDS[:, None])
    return [gap.abs().max().item() for gap in gaps]


class BestNetwork(nn.Module):
    """What a network of either kind says that knows the mixture; for DDPM in a chain of `num_steps`."""

    def __init__(self, kind, num_steps):
        super().__init__()
        self.kind, self.schedule = kind, respaced(num_steps)

    def cond_embed(self, hidden):
        return hidden

    def forward(self, noisy, time, embedded):
        if self.kind == "flow":
            t = time[0].item() / TIME_SCALE
            return (expected_token(noisy, 1 - t, t)[0] - noisy) / t
        schedule = self.schedule
        place = schedule.steps.tolist().index(int(time[0]))
        bar = schedule.alpha_bars[place]
        token, variance = expected_token(noisy, bar.sqrt(), (1 - bar).sqrt())
        smallest, largest = (bound[place] for bound in schedule.log_variance_range())
        log_variance = schedule.posterior_variance[place] + schedule.token_weight[place] ** 2 * variance
        share = (log_variance.log() - smallest) / (largest - smallest)
        return torch.cat([(noisy - bar.sqrt() * token) / (1 - bar).sqrt(), 2 * share - 1], -1)


class Told(nn.Module):
    """A network that says what the hidden vector says."""

    def cond_embed(self, hidden):
        return hidden

    def forward(self, noisy, time, embedded):
        return embedded


def untrained(params, kind, channels):
    model = VideoMAR(dataclasses.replace(params.model, head=kind), channels, 6, 5)
    return model.initialise(step_generator(0, -1)).head


def lively(params, kind):
    """A head without zeros, for 4 channels."""
    return lively_model(dataclasses.replace(params.model, head=kind)).head


def noise_source(count, channels, seed=0, dtype=torch.float32):
    generator = step_generator(seed, 1)
    return lambda: torch.randn(count, channels, generator=generator, dtype=dtype)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=step_generator(seed, 0))


def train(head, tokens_at, steps, batch_size=256):
    """Train on batches `tokens_at(generator)`, with a constant hidden vector; the rate rises, then falls."""
    optimizer = torch.optim.Adam(head.parameters(), betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, steps, pct_start=0.1)
    hidden = torch.ones(batch_size, 32)
    for step in range(steps):
        generator = step_generator(0, step)
        optimizer.zero_grad()
        head.loss(tokens_at(generator), hidden, "logit_normal", generator).backward()
        optimizer.step()
        schedule.step()


@KINDS
def test_untrained_head_predicts_zero(params, kind):
    head = untrained(params, kind, 4)
    time = head.draw_time(5, "uniform", step_generator(0, 0))
    assert not head.predict(normal(5, 4), time, normal(5, 32)).any()
    assert lively(params, kind).predict(normal(5, 4), time, normal(5, 32)).all()


@KINDS
def test_gradients_reach_every_parameter(params, kind):
    """At the third step: the first moves the last layer alone, the second what was behind its zeros."""
    head = untrained(params, kind, 4)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    for step in range(3):
        optimizer.step()
        optimizer.zero_grad()
        head.loss(normal(64, 4), normal(64, 32), "uniform", step_generator(0, step)).backward()
    for name, weight in head.named_parameters():
        assert weight.grad.isfinite().all(), name
        assert (weight.grad != 0).float().mean() > 0.9, name


@KINDS
def test_loss_in_bfloat16_is_near_float32(params, kind, measured):
    head = lively(params, kind)

    def loss():
        return head.loss(normal(256, 4), normal(256, 32), "uniform", step_generator(0, 0)).item()

    exact = loss()
    with torch.autocast("cpu", torch.bfloat16):
        measured(f"{kind}: loss in bf16 autocast against float32 (relative)", abs(loss() / exact - 1), 2e-2)


@KINDS
@torch.no_grad()
def test_guidance_of_weight_one_is_none(params, kind):
    head, hidden = lively(params, kind), normal(6, 32)
    plain = head.sample(GuidedHidden(hidden), 1.0, 5, noise_source(6, 4))
    guided = {
        weight: head.sample(GuidedHidden(hidden, -hidden, weight), 1.0, 5, noise_source(6, 4))
        for weight in (1.0, 2.0)
    }
    assert torch.equal(guided[1.0], plain)
    assert not torch.allclose(guided[2.0], plain, atol=1e-2)


@KINDS
@torch.no_grad()
def test_temperature_zero_is_deterministic(params, kind):
    head, condition = lively(params, kind), GuidedHidden(normal(6, 32))
    cold, other = (head.sample(condition, 0.0, 5, noise_source(6, 4, seed)) for seed in (1, 2))
    warm, warm_other = (head.sample(condition, 1.0, 5, noise_source(6, 4, seed)) for seed in (1, 2))
    assert torch.equal(cold, other)
    assert not torch.allclose(warm, warm_other, atol=1e-2)


@KINDS
@torch.no_grad()
def test_best_network_draws_the_mixture(params, kind, measured):
    """20,000 tokens in 100 steps. As many tokens of the mixture itself give 0.004, 0.006, 0.003."""
    head = untrained(params, kind, 2)
    head.net = BestNetwork(kind, 100)
    drawn = head.sample(
        GuidedHidden(torch.zeros(20_000, 1)), 1.0, 100, noise_source(20_000, 2, dtype=torch.float64)
    )
    for what, error in zip(("weights", "means", "deviations"), mixture_errors(drawn), strict=True):
        measured(f"{kind}: mixture drawn with the best network, {what}", error, 0.015)


@KINDS
def test_trained_head_draws_the_mixture(params, kind, measured):
    """8,000 tokens in 100 steps. Without a bound on predicted tokens those of ddpm are in the hundreds."""
    head = untrained(params, kind, 2)
    train(head, lambda generator: draw_mixture(256, generator), 1000)
    with torch.no_grad():
        drawn = head.sample(GuidedHidden(torch.ones(8000, 32)), 1.0, 100, noise_source(8000, 2))
    bounds = {"weights": 0.04, "means": 0.08, "deviations": 0.08}
    for (what, bound), error in zip(bounds.items(), mixture_errors(drawn), strict=True):
        measured(f"{kind}: mixture drawn after 1,000 training steps, {what}", error, bound)


@torch.no_grad()
def test_perfect_direction_reaches_the_token_in_any_number_of_steps(params):
    """The direction token - noise is the same all along the way, so that Euler steps make no error."""
    head = untrained(params, "flow", 4)
    head.net = Told()
    token, noise = normal(6, 4), normal(6, 4, seed=1)
    for num_steps in (1, 3, 12):
        drawn = head.sample(GuidedHidden(token - noise), 1.0, num_steps, lambda: noise)
        assert torch.allclose(drawn, token, atol=1e-6)


@torch.no_grad()
def test_guidance_extrapolates_the_direction_from_scaled_noise(params):
    """Directions c and u at weight 2 and temperature 0.7 lead from 0.7 noise to 0.7 noise + 2 c - u."""
    head = untrained(params, "flow", 4)
    head.net = Told()
    told, untold, noise = normal(3, 6, 4)
    drawn = head.sample(GuidedHidden(told, untold, 2.0), 0.7, 3, lambda: noise)
    assert torch.allclose(drawn, 0.7 * noise + 2 * told - untold, atol=1e-6)


@torch.no_grad()
def test_flow_samples_are_those_of_plain_steps(params):
    """Euler's steps in floats; only the network works on tensors. Measured: 1e-7 (time is float32)."""
    head = lively(params, "flow").double()
    hidden, null, noise = normal(3, 32).double(), normal(3, 32, seed=1).double(), normal(3, 4).double()
    tokens = [[0.7 * value for value in row] for row in noise.tolist()]
    for step in range(5):
        noisy, time = noise.new_tensor(tokens), torch.full((3,), 1 - step / 5)
        told, untold = (head.predict(noisy, time, vectors).tolist() for vectors in (hidden, null))
        for row, column in itertools.product(range(3), range(4)):
            plain = untold[row][column]
            tokens[row][column] += (plain + 2 * (told[row][column] - plain)) / 5
    drawn = head.sample(GuidedHidden(hidden, null, 2.0), 0.7, 5, lambda: noise)
    assert torch.allclose(drawn, noise.new_tensor(tokens), rtol=0, atol=1e-6)


def test_flow_errors_are_those_of_plain_floats(params):
    """Measured: relative 1e-15."""
    head = lively(params, "flow").double()
    tokens, noise, hidden = normal(5, 4).double(), normal(5, 4, seed=1).double(), normal(5, 32).double()
    time = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    rows = list(zip(tokens.tolist(), noise.tolist(), time.tolist(), strict=True))
    noisy = [[(1 - t) * a + t * b for a, b in zip(x, e, strict=True)] for x, e, t in rows]
    plain = []
    for said, (x, e, _) in zip(
        head.predict(tokens.new_tensor(noisy), time, hidden).tolist(), rows, strict=True
    ):
        plain.append(sum((v - (a - b)) ** 2 for v, a, b in zip(said, x, e, strict=True)) / 4)
    assert head.errors(tokens, hidden, time, noise).tolist() == pytest.approx(plain, rel=1e-12)


def test_flow_times_follow_their_distribution(params):
    """Moments of 20,000 times; tolerances are four standard errors."""
    head = untrained(params, "flow", 4)
    logits = head.draw_time(20_000, "logit_normal", step_generator(0, 0)).double().logit()
    assert logits.mean().item() == pytest.approx(0, abs=0.029)
    assert logits.std().item() == pytest.approx(1, abs=0.02)
    time = head.draw_time(20_000, "uniform", step_generator(0, 0)).double()
    assert time.mean().item() == pytest.approx(0.5, abs=0.0082)
    assert time.std().item() == pytest.approx(math.sqrt(1 / 12), abs=0.0037)
    assert 0 <= time.min() < 0.001
    assert 0.999 < time.max() <= 1

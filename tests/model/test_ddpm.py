"""The DDPM head against a chain of plain floats; what it shares with the flow head is in test_head.py.

Axes: n tokens, P token channels.
"""

import dataclasses
import functools
import math
from statistics import NormalDist

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from tests.conftest import lively_model
from videomar.compute.seeding import step_generator
from videomar.errors import ParamsError
from videomar.model.ddpm import DDPMHead, cosine_alpha_bars, respaced
from videomar.model.head import GuidedHidden

CHAINS = pytest.mark.parametrize("num_steps", [1, 2, 100, 1000])
# Steps at the ends of the chain and in between; the first is the one with a likelihood in place of a KL.
STEPS = (0, 1, 2, 30, 500, 990, 998, 999)


@functools.cache
def plain_alphas():
    """1 - beta of the thousand steps, as Improved DDPM's eq. 17 defines them, floats."""

    def curve(step):
        return math.cos((step / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    return [1 - min(1 - curve(step + 1) / curve(step), 0.999) for step in range(1000)]


def plain_chain(num_steps):
    """(step of the thousand, share of the token's variance before it, after it) for each step of a chain."""
    steps = [round(999 * place / (num_steps - 1)) for place in range(num_steps)] if num_steps > 1 else [999]
    bars = [math.prod(plain_alphas()[: step + 1]) for step in steps]
    return list(zip(steps, [1.0, *bars[:-1]], bars, strict=True))


def given(prior_mean, prior_variance, gain, noise_variance, seen):
    """Mean and variance of x ~ N(prior) once gain * x + noise was seen, from their joint Gaussian."""
    covariance = gain * prior_variance
    seen_variance = gain * covariance + noise_variance
    surprise = seen - gain * prior_mean
    return (
        prior_mean + covariance / seen_variance * surprise,
        prior_variance - covariance**2 / seen_variance,
    )


def plain_posterior(before, bar, token, noisy):
    """Mean and variance of the noisy token one step earlier."""
    alpha = bar / before
    return given(math.sqrt(before) * token, 1 - before, math.sqrt(alpha), 1 - alpha, noisy)


def plain_backward(chain, place, noisy, noise, fraction, max_token=math.inf):
    """Mean and variance of a step back, for one channel."""
    _, before, bar = chain[place]
    token = (noisy - math.sqrt(1 - bar) * noise) / math.sqrt(bar)
    token = max(-max_token, min(max_token, token))
    mean, _ = plain_posterior(before, bar, token, noisy)
    largest = 1 - bar / before
    smallest = plain_posterior(*chain[max(place, 1)][1:], 0.0, 0.0)[1] if len(chain) > 1 else largest
    share = (fraction + 1) / 2
    return mean, smallest ** (1 - share) * largest**share


def plain_error(token, noise, step, predicted, fraction):
    """Training error of one token: lists of floats, one number a channel."""
    chain = plain_chain(1000)
    _, before, bar = chain[step]
    squares, nats = 0.0, 0.0
    for x, e, e_net, v_net in zip(token, noise, predicted, fraction, strict=True):
        squares += (e_net - e) ** 2
        noisy = math.sqrt(bar) * x + math.sqrt(1 - bar) * e
        mean, variance = plain_backward(chain, step, noisy, e_net, v_net)
        if step > 0:
            pairs = torch.tensor(
                [plain_posterior(before, bar, x, noisy), (mean, variance)], dtype=torch.float64
            )
            nats += kl_divergence(*(Normal(mean, variance.sqrt()) for mean, variance in pairs)).item()
        else:
            # A level reaches half the 2 / 255 between neighbours to both sides, an outer one to infinity.
            backward = NormalDist(mean, math.sqrt(variance))
            high = 1.0 if x > 0.999 else backward.cdf(x + 1 / 255)
            low = 0.0 if x < -0.999 else backward.cdf(x - 1 / 255)
            nats -= math.log(high - low)
    return (squares + nats / math.log(2)) / len(token)


def plain_sample(head, condition, temperature, num_steps, draws):
    """Tokens (n, P) by ancestral steps, channel by channel in floats; only the network works on tensors.

    Guidance acts on the noise; the variance is that of the condition.
    """
    chain = plain_chain(num_steps)
    tokens = draws[0].tolist()
    for place in range(num_steps - 1, -1, -1):
        time = torch.full((len(tokens),), chain[place][0])
        noisy = torch.tensor(tokens, dtype=torch.float64)
        told = head.predict(noisy, time, condition.hidden).tolist()
        untold = head.predict(noisy, time, condition.null).tolist()
        kick = draws[num_steps - place].tolist() if place else None
        for row, channels in enumerate(tokens):
            for column, value in enumerate(channels):
                plain = untold[row][column]
                noise = plain + condition.weight * (told[row][column] - plain)
                fraction = told[row][len(channels) + column]
                mean, variance = plain_backward(chain, place, value, noise, fraction, max_token=20.0)
                shake = temperature * math.sqrt(variance) * kick[row][column] if kick else 0.0
                tokens[row][column] = mean + shake
    return torch.tensor(tokens, dtype=torch.float64)


@pytest.fixture
def head(params):
    """A lively head in float64 for 4 channels."""
    return lively_model(dataclasses.replace(params.model, head="ddpm")).head.double()


def normal(*shape, seed=0):
    return torch.randn(shape, generator=step_generator(seed, 0), dtype=torch.float64)


class Answers(nn.Module):
    """A network that says the same whatever it is asked."""

    def __init__(self, answers):
        super().__init__()
        self.answers = nn.Parameter(answers)

    def cond_embed(self, hidden):
        return hidden

    def forward(self, noisy, time, embedded):
        return self.answers


class BestForGaussian(nn.Module):
    """What the best network says of tokens from N(mean, std^2), one channel, in a chain of `num_steps`."""

    def __init__(self, mean, std, num_steps):
        super().__init__()
        self.mean, self.std, self.chain = mean, std, plain_chain(num_steps)

    def cond_embed(self, hidden):
        return hidden

    def forward(self, noisy, time, embedded):
        place = [step for step, _, _ in self.chain].index(int(time[0]))
        _, before, bar = self.chain[place]
        token, _ = given(self.mean, self.std**2, math.sqrt(bar), 1 - bar, noisy)
        noise = (noisy - math.sqrt(bar) * token) / math.sqrt(1 - bar)
        # A step back, noisy tokens have variance before * std^2 + 1 - before; less is left once one is seen.
        alpha = bar / before
        variance = given(0.0, before * self.std**2 + 1 - before, math.sqrt(alpha), 1 - alpha, 0.0)[1]
        smallest, largest = (plain_backward(self.chain, place, 0.0, 0.0, bound)[1] for bound in (-1, 1))
        share = math.log(variance / smallest) / math.log(largest / smallest)
        return torch.cat([noise, torch.full_like(noise, 2 * share - 1)], -1)


def test_cosine_schedule_is_a_product_of_alphas(measured):
    plain = torch.tensor([math.prod(plain_alphas()[: step + 1]) for step in range(1000)], dtype=torch.float64)
    error = (cosine_alpha_bars() / plain - 1).abs().max()
    measured("ddpm: cosine schedule against products of floats (relative)", error, 1e-13)


@CHAINS
def test_respaced_chain_is_that_of_plain_products(num_steps):
    chain, schedule = plain_chain(num_steps), respaced(num_steps)
    assert schedule.steps.tolist() == [step for step, _, _ in chain]
    assert schedule.alpha_bars.tolist() == pytest.approx([bar for _, _, bar in chain], rel=1e-13)
    betas = [1 - bar / before for _, before, bar in chain]
    assert schedule.betas.tolist() == pytest.approx(betas, rel=1e-12)


@CHAINS
def test_posterior_is_that_of_the_joint_gaussian(num_steps, measured):
    """Mean weights and variance of every step by Bayes' rule."""
    schedule = respaced(num_steps)
    for place, (_, before, bar) in enumerate(plain_chain(num_steps)):
        of_token, variance = plain_posterior(before, bar, 1.0, 0.0)
        of_noisy, _ = plain_posterior(before, bar, 0.0, 1.0)
        columns = (schedule.token_weight, schedule.noisy_weight, schedule.posterior_variance)
        for column, plain in zip(columns, (of_token, of_noisy, variance), strict=True):
            measured("ddpm: posterior against the joint Gaussian", abs(column[place].item() - plain), 1e-11)


@CHAINS
def test_log_variance_range_is_finite_and_ordered(num_steps):
    smallest, largest = respaced(num_steps).log_variance_range()
    assert smallest.isfinite().all()
    assert (smallest <= largest).all()
    assert num_steps == 1 or smallest[0] == smallest[1]


def test_every_number_of_steps_visits_as_many_different_ones():
    for num_steps in range(2, 1001):
        steps = respaced(num_steps).steps
        assert (steps[0], steps[-1]) == (0, 999)
        assert (steps.diff() > 0).all()


@pytest.mark.parametrize("num_steps", [0, 1001])
def test_chain_that_does_not_exist_is_refused(num_steps):
    with pytest.raises(ParamsError, match=f"num_diffusion_steps: got {num_steps}, expected 1 to 1000"):
        respaced(num_steps)


def test_times_are_uniform_steps_whatever_the_distribution(head):
    time = head.draw_time(20_000, "logit_normal", step_generator(0, 0))
    assert (time.min(), time.max()) == (0, 999)
    # A mean of 20,000 uniform steps has a standard error of 2.0, their standard deviation one of 0.9.
    assert time.double().mean().item() == pytest.approx(499.5, abs=8)
    assert time.double().std().item() == pytest.approx(288.7, abs=4)


def test_errors_are_those_of_plain_floats(head, measured):
    """The loss at eight steps, with tokens in the open outer levels."""
    tokens, noise, hidden = normal(8, 4), normal(8, 4, seed=1), normal(8, 32, seed=2)
    tokens[0] = torch.tensor([-1.2, 1.1, 0.3, -0.4])
    time = torch.tensor(STEPS)
    bars = torch.tensor([plain_chain(1000)[step][2] for step in STEPS])[:, None]
    # At step 0 the noise is known but for a little, as a trained network would know it.
    answers = head.predict(bars.sqrt() * tokens + (1 - bars).sqrt() * noise, time, hidden).detach()
    answers[0, :4] = noise[0] + 0.3 * answers[0, :4]
    head.net = Answers(answers)
    rows = zip(tokens, noise, STEPS, *answers.chunk(2, -1), strict=True)
    plain = [plain_error(x.tolist(), e.tolist(), t, p.tolist(), v.tolist()) for x, e, t, p, v in rows]
    error = (
        (head.errors(tokens, hidden, time, noise) / torch.tensor(plain, dtype=torch.float64) - 1).abs().max()
    )
    measured("ddpm: loss against plain floats, variational term included (relative)", error, 1e-10)


def test_errors_in_float32_are_near_float64(params, head, measured):
    """The same steps in the precision of training; step 0 is the worst."""
    tokens, noise, hidden = normal(8, 4), normal(8, 4, seed=1), normal(8, 32, seed=2)
    exact = head.errors(tokens, hidden, torch.tensor(STEPS), noise)
    near = head.float().errors(tokens.float(), hidden.float(), torch.tensor(STEPS), noise.float())
    measured("ddpm: loss in float32 against float64 (relative)", (near / exact - 1).abs().max(), 1e-3)


def test_variational_term_trains_the_variance_alone(head):
    """The noise output feels its squared error only; the variance output the slope of the plain error."""
    tokens, noise = normal(8, 4), normal(8, 4, seed=1)
    head.net = Answers(torch.cat([noise + 0.3 * normal(8, 4, seed=2), normal(8, 4, seed=3)], -1))
    head.errors(tokens, normal(8, 32), torch.tensor(STEPS), noise).sum().backward()
    predicted, fraction = head.net.answers.detach().chunk(2, -1)
    of_noise, of_variance = head.net.answers.grad.chunk(2, -1)
    assert torch.allclose(of_noise, (predicted - noise) / 2, rtol=1e-12)
    for row, step in enumerate(STEPS):
        shifted = [(fraction[row] + shift * torch.eye(4)[0]).tolist() for shift in (1e-5, -1e-5)]
        lists = (tokens[row].tolist(), noise[row].tolist(), step, predicted[row].tolist())
        up, down = (plain_error(*lists, moved) for moved in shifted)
        assert of_variance[row, 0].item() == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_samples_are_those_of_plain_floats(head, num_steps, measured):
    """Guidance 2, temperature 0.7; the network's wild first guesses meet the bound."""
    condition = GuidedHidden(normal(3, 32), normal(3, 32, seed=1), 2.0)
    draws = normal(num_steps, 3, 4, seed=2)
    with torch.no_grad():
        drawn = head.sample(condition, 0.7, num_steps, iter(draws).__next__)
        plain = plain_sample(head, condition, 0.7, num_steps, draws)
    measured("ddpm: samples against plain floats, guidance 2", (drawn - plain).abs().max(), 1e-9)


def impulses(params, num_steps, temperature):
    """Tokens N(0.7, 0.5^2) by the best network: what each draw alone, of size 1, adds; those of no draw."""
    head = DDPMHead(params, 1)
    head.net = BestForGaussian(0.7, 0.5, num_steps)
    draws = torch.eye(num_steps, num_steps + 1, dtype=torch.float64)[..., None]
    drawn = head.sample(
        GuidedHidden(torch.zeros(num_steps + 1, 1)), temperature, num_steps, iter(draws).__next__
    )
    return drawn[:-1, 0] - drawn[-1, 0], drawn[-1, 0]


@pytest.mark.parametrize("num_steps", [2, 5, 100])
def test_best_network_draws_a_gaussian_exactly_in_any_number_of_steps(params, num_steps):
    """Draws act linearly, so that their squared effects sum to the variance. Measured: relative 6e-10, 7e-14.

    The variance lacks what is not known of the token at step 0, where no noise is added.
    """
    effects, mean = impulses(params.model, num_steps, 1.0)
    bar = plain_chain(num_steps)[0][2]
    variance = 0.25 - given(0.7, 0.25, math.sqrt(bar), 1 - bar, 0.0)[1]
    assert mean.item() == pytest.approx(0.7, rel=1e-8)
    assert effects.square().sum().item() == pytest.approx(variance, rel=1e-11)


def test_temperature_scales_the_noise_of_every_step_but_not_of_the_start(params):
    effects, mean = impulses(params.model, 6, 1.0)
    cooled, cooled_mean = impulses(params.model, 6, 0.6)
    assert effects.abs().min() > 1e-7
    assert cooled.tolist() == pytest.approx([effects[0].item(), *(0.6 * effects[1:]).tolist()], rel=1e-9)
    assert cooled_mean == mean

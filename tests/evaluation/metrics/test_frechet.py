from collections.abc import Callable

import numpy as np
import pytest
from scipy.linalg import sqrtm

from videomar.errors import DataError
from videomar.evaluation.metrics.frechet import frechet_distance, frechet_score

Features = np.ndarray


def by_matrix_root(a: Features, b: Features) -> float:
    """The textbook's formula with scipy's matrix root; needs covariances of full rank."""
    s, t = np.cov(a.T), np.cov(b.T)
    root = sqrtm(s @ t)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * np.trace(root).real)


def by_eigenvalues(a: Features, b: Features) -> float:
    """The same by the symmetric product's eigenvalues, singular covariances included."""
    s, t = np.cov(a.T), np.cov(b.T)
    values, vectors = np.linalg.eigh(s)
    half = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    shared = np.sqrt(np.clip(np.linalg.eigvalsh(half @ t @ half), 0, None)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * shared)


def drawn(n: int, d: int, shift: float, seed: int) -> Features:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + shift


@pytest.mark.parametrize(("n", "m", "d"), [(50, 60, 3), (300, 200, 24), (500, 500, 64)])
def test_frechet_distance_equals_the_matrix_root_to_a_millionth(n: int, m: int, d: int) -> None:
    a, b = drawn(n, d, 0, 1), drawn(m, d, 0.5, 2)
    assert frechet_distance(a, b) == pytest.approx(by_matrix_root(a, b), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("n", "m", "d"), [(50, 60, 3), (10, 8, 30), (2, 40, 5)])
def test_frechet_distance_equals_the_eigenvalues_for_few_clips_too(n: int, m: int, d: int) -> None:
    a, b = drawn(n, d, 0, 3), drawn(m, d, 0.5, 4)
    assert frechet_distance(a, b) == pytest.approx(by_eigenvalues(a, b), rel=1e-6, abs=1e-6)


def test_frechet_distance_of_known_gaussians() -> None:
    """Equal sets: 0; a shift: its square; twice the spread of one axis: (2 s - s)^2."""
    a = drawn(200, 6, 0, 0)
    shift = np.arange(6.0)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + shift) == pytest.approx((shift**2).sum())
    line = np.linspace(-1, 1, 50)[:, None]
    assert frechet_distance(line, 2 * line) == pytest.approx(line.var(ddof=1))


def test_frechet_distance_is_symmetric() -> None:
    a, b = drawn(30, 8, 0, 5), drawn(20, 8, 1, 6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))


@pytest.mark.parametrize(
    ("n", "d", "too_few"), [(99, 4, True), (100, 4, False), (100, 51, True), (102, 51, False)]
)
def test_frechet_score_says_when_clips_are_too_few_to_rank(n: int, d: int, too_few: bool) -> None:
    rng = np.random.default_rng(0)
    score = frechet_score(rng.normal(size=(n, d)), rng.normal(size=(200, d)), "drawn", 0, paired=False)
    assert score.too_few_to_rank == too_few
    assert ("too few to rank" in str(score)) == too_few
    assert f"{n} real and 200 generated clips, drawn" in str(score)


def test_frechet_interval_holds_the_distance_of_the_populations() -> None:
    """Of 20 draws of 120 clips, whose distance is more than twice too large, at most 3 miss the true one."""
    shift, inside, values = 0.2, 0, []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        a, b = rng.normal(size=(120, 8)), rng.normal(size=(120, 8)) + shift
        score = frechet_score(a, b, "drawn", seed, paired=False)
        inside += score.low <= 8 * shift**2 <= score.high
        values.append(score.value)
    assert inside >= 17
    assert np.mean(values) > 2 * 8 * shift**2


def test_frechet_interval_is_seeded_and_narrower_for_pairs() -> None:
    a = drawn(150, 5, 0, 7)
    b = a + np.random.default_rng(0).normal(0.3, 0.1, a.shape)
    apart, paired = (frechet_score(a, b, "drawn", 1, paired=way) for way in (False, True))
    assert paired == frechet_score(a, b, "drawn", 1, paired=True)
    assert paired.high - paired.low < 0.5 * (apart.high - apart.low)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:1], "two clips or more"),
        (lambda x: x[:, :3], "of one extractor"),
        (lambda x: x * np.nan, "not finite"),
    ],
)
def test_frechet_distance_refuses(change: Callable[[Features], Features], message: str) -> None:
    a = drawn(10, 4, 0, 0)
    with pytest.raises(DataError, match=message):
        frechet_distance(a, change(a))
    with pytest.raises(DataError, match="expected pairs"):
        frechet_score(a, a[:9], "drawn", 0, paired=True)

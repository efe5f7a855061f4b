from functools import cache
from math import log

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy, norm
from torch.distributions import Independent, Normal

from coterie.errors import ConfigError, DataError
from coterie.mechanisms.compromise import (
    MOST_PAIRS,
    Compromise,
    compromise,
    log_density_ratio,
    profile_gap,
    total_gaps,
)
from coterie.mechanisms.measurement import Budget
from coterie.mechanisms.numbers import uncertain
from coterie.models.posterior import Posterior
from histories import interactions_of
from training.small_run import experiment, run, small_split

N_ITEMS = 30


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def profile(items: list[int]) -> np.ndarray:
    x = np.zeros(N_ITEMS)
    x[items] = 1
    return x / x.sum()


def gap_of(u: list[int], v: list[int], w: float) -> float:
    counts = double(len(u)), double(len(v)), double(len(set(u) & set(v)))
    with np.errstate(divide="ignore"):
        odds = double(float(np.log(w) - np.log1p(-w)))
    return profile_gap(odds, *counts).item()


def dense_gap(u: list[int], v: list[int], w: float) -> float:
    p, q = profile(u), profile(v)
    mixture = w * p + (1 - w) * q
    return float(entropy(mixture) - w * entropy(p) - (1 - w) * entropy(q))


histories = st.lists(st.integers(0, N_ITEMS - 1), min_size=1, max_size=20, unique=True)
weights = st.floats(1e-6, 1 - 1e-6)


# The divergence of profiles


@given(histories, histories, weights)
@settings(max_examples=200, deadline=None)
def test_the_gap_is_scipys_entropy_formula_on_dense_profiles(
    u: list[int], v: list[int], w: float
) -> None:
    assert gap_of(u, v, w) == pytest.approx(dense_gap(u, v, w), abs=1e-12)


@given(histories, histories, weights)
@settings(max_examples=200, deadline=None)
def test_the_gap_is_bounded_symmetric_and_zero_for_equal_profiles(
    u: list[int], v: list[int], w: float
) -> None:
    gap = gap_of(u, v, w)
    assert 0 <= gap <= entropy([w, 1 - w]) + 1e-12 <= log(2) + 1e-11
    assert gap == pytest.approx(gap_of(v, u, 1 - w), abs=1e-12)
    assert gap_of(u, u, w) == 0
    if set(u) != set(v):
        assert gap > 0


@given(histories, histories)
@settings(max_examples=50, deadline=None)
def test_at_equal_weights_it_is_scipys_jensen_shannon(u: list[int], v: list[int]) -> None:
    expected = jensenshannon(profile(u), profile(v)) ** 2
    assert gap_of(u, v, 0.5) == pytest.approx(expected, abs=1e-12)


def test_disjoint_profiles_reach_ln_2_and_certain_weights_give_nothing() -> None:
    assert gap_of([0, 1], [2, 3, 4], 0.5) == pytest.approx(log(2))
    for odds in (-1e4, 1e4, -torch.inf, torch.inf):
        assert profile_gap(double(odds), double(4), double(9), double(2)).item() == 0


# Densities and totals


def gaussians(n: int, k: int, seed: int, scale: float = 1.0) -> Posterior:
    mu = scale * torch.randn(n, k, generator=generator(seed))
    return Posterior(mu, 0.7 * torch.randn(n, k, generator=generator(seed + 100)) - 0.5)


@pytest.mark.parametrize("k", [1, 200])
def test_the_density_ratio_is_torchs(k: int) -> None:
    a, b = gaussians(5, k, 0), gaussians(5, k, 1)
    noise = torch.randn(5, 7, k, generator=generator(), dtype=torch.float64)
    first, second = (
        Independent(Normal(p.mu.double()[:, None], (0.5 * p.logvar.double()).exp()[:, None]), 1)
        for p in (a, b)
    )
    z = first.mean + first.stddev * noise
    expected = first.log_prob(z) - second.log_prob(z)
    torch.testing.assert_close(log_density_ratio(noise, a, b), expected, rtol=1e-9, atol=1e-9)


def by_quadrature(mu: tuple[float, float], sigma: tuple[float, float], counts: list[int]) -> float:
    """``∫ (q_u + q_v) · JS_w dz``, with the divergence from dense profiles."""
    n_u, n_v, shared = counts
    u, v = list(range(n_u)), list(range(n_u - shared, n_u - shared + n_v))

    def integrand(z: float) -> float:
        q = [norm.pdf(z, m, s) for m, s in zip(mu, sigma, strict=True)]
        return float(sum(q) * dense_gap(u, v, q[0] / sum(q))) if sum(q) else 0.0

    return float(quad(integrand, -9, 11, points=list(mu), limit=200)[0])


@pytest.mark.parametrize("offset", [0.0, 0.7, 2.0, 4.0])
@pytest.mark.parametrize("counts", [[4, 6, 2], [1, 20, 1], [3, 9, 0], [5, 5, 5]])
def test_in_one_dimension_the_total_is_that_of_quadrature(offset: float, counts: list[int]) -> None:
    n, sigma = 200, (0.8, 1.3)
    logvar = torch.tensor([2 * log(s) for s in sigma])
    a = Posterior(torch.zeros(n, 1), logvar[0].expand(n, 1))
    b = Posterior(torch.full((n, 1), offset), logvar[1].expand(n, 1))
    found = total_gaps(
        a, b, torch.tensor([counts] * n), n_draws=200, generator=generator(3), pairs_at_once=17
    )
    expected = by_quadrature((0, offset), sigma, counts)
    assert found.gap.mean().item() == pytest.approx(expected, abs=4 * _error(found.gap) + 1e-12)
    if expected > 0:
        assert _error(found.gap) < 0.02 * expected, "or the test could not fail"
        spread = found.gap.std().item()
        assert found.gap_se.mean().item() == pytest.approx(spread, rel=0.2), "its own error"
    shared = quad(lambda z: min(norm.pdf(z, 0, sigma[0]), norm.pdf(z, offset, sigma[1])), -9, 11)
    assert found.overlap.mean().item() == pytest.approx(
        shared[0], abs=4 * _error(found.overlap) + 1e-6
    )


def _error(values: torch.Tensor) -> float:
    return float(values.std()) / len(values) ** 0.5


def test_equal_posteriors_pay_the_ceiling_and_distant_ones_nothing() -> None:
    posterior, far = gaussians(3, 50, 0), gaussians(3, 50, 1, scale=100)
    counts = torch.tensor([[4, 6, 2], [3, 9, 0], [5, 5, 5]])
    same = total_gaps(posterior, posterior, counts, n_draws=4, generator=generator())
    torch.testing.assert_close(same.gap, same.ceiling, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(same.overlap, torch.ones(3).double())
    assert same.ceiling[1].item() == pytest.approx(2 * log(2))
    assert same.ceiling[2].item() == 0
    apart = total_gaps(posterior, far, counts, n_draws=4, generator=generator())
    assert apart.gap.max() < 1e-12
    assert apart.overlap.max() < 1e-12
    torch.testing.assert_close(apart.ceiling, same.ceiling)


def test_what_totals_refuse() -> None:
    posterior, counts = gaussians(2, 3, 0), torch.tensor([[4, 6, 2]] * 2)
    with pytest.raises(ConfigError, match="n_draws of at least 2, got 1"):
        total_gaps(posterior, posterior, counts, n_draws=1, generator=generator())
    points = Posterior(posterior.mu, None)
    with pytest.raises(ConfigError, match="point"):
        total_gaps(points, posterior, counts, n_draws=4, generator=generator())


# The measure


@cache
def trained(name: str = "multi-vae") -> torch.nn.Module:
    return run(experiment(model={"name": name}, pia=float(name == "multi-vae"))).recommender.model


@cache
def measured() -> Compromise:
    return compromise(trained(), small_split().train, generator=generator())


def test_the_measure_on_a_trained_model() -> None:
    found, train = measured(), small_split().train
    frame, at = found.to_frame(), found.figures()
    half = frame["overlap"].to_numpy() / 2  # the mean of min(w, 1 − w)
    bound = 2 * entropy(np.stack([half, 1 - half]))  # JS_w ≤ H(w), which is concave
    assert (frame["gap"].to_numpy() <= bound + 1e-9).all()
    for row in frame.sample(20, seed=0).iter_rows(named=True):
        u, v = (set(train.row(row[name]).tolist()) for name in ("user", "other"))
        both = sorted(u | v)
        p, q = ([(item in one) / len(one) for item in both] for one in (u, v))
        assert row["ceiling"] == pytest.approx(2 * jensenshannon(p, q) ** 2, abs=1e-12)
    assert len(frame.filter(pl.col("kind") == "random")) == found.sample.used <= MOST_PAIRS
    for kind in ("random", "nearest"):
        part = frame.filter(pl.col("kind") == kind)
        assert at[f"gap_{kind}"] == pytest.approx(part["gap"].mean())
        assert at[f"gap_{kind}"] < at[f"ceiling_{kind}"]
        assert 0 < at[f"gap_{kind}_se"] < 0.2 * at[f"gap_{kind}"]
        assert uncertain(at[f"gap_{kind}"], at[f"gap_{kind}_se"]) in found.sentence()
    assert at["overlap_nearest"] > at["overlap_random"]


def test_same_seed_same_result_another_seed_another() -> None:
    again = compromise(trained(), small_split().train, generator=generator())
    assert again.to_frame().equals(measured().to_frame())
    other = compromise(trained(), small_split().train, generator=generator(1))
    assert not other.to_frame().equals(measured().to_frame())


def test_a_smaller_budget_takes_fewer_pairs() -> None:
    few = compromise(
        trained(), small_split().train, generator=generator(), budget=Budget(seconds=0.002)
    )
    assert 3 <= few.sample.used < measured().sample.used
    assert few.sample.available == 340 * 339 // 2


def test_point_posteriors_are_refused_in_a_clear_sentence() -> None:
    with pytest.raises(ConfigError, match="encodes each user as a point"):
        compromise(trained("multi-dae"), small_split().train, generator=generator())


def test_other_items_and_too_few_users() -> None:
    with pytest.raises(ConfigError, match="have 5 items"):
        compromise(trained(), interactions_of([[0], [1], [2], [3]], 5), generator=generator())
    few = small_split().train.rows(np.arange(3))
    with pytest.raises(DataError, match="at least 4 users"):
        compromise(trained(), few, generator=generator())


def test_a_gap_too_small_for_the_digits_is_said_to_be_small() -> None:
    frame = measured().to_frame().with_columns(gap=pl.lit(1e-7), overlap=pl.lit(1e-7))
    tiny = Compromise(frame, 32, measured().sample, measured().among)
    assert "lose under 0.0001 nats" in tiny.sentence()
    assert "rough" in tiny.warnings()[0]
    assert measured().warnings() == []
    tiny.plot()


def test_the_plot_has_labels_with_units() -> None:
    figure = measured().plot()
    assert ["L1" in axes.get_xlabel() for axes in figure.axes] == [True, False]
    assert "latent units" in figure.axes[1].get_xlabel()
    assert "nats" in figure.axes[0].get_ylabel()

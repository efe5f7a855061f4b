"""Distances between posteriors against POT, SciPy and closed forms."""

import sys

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, wasserstein_distance

from coterie.errors import ConfigError, DataError, MissingExtraError
from coterie.mechanisms.distances import deviations, pick, w1_bracket, w1_transport, w2
from coterie.models.posterior import Posterior


def gaussians(n: int, k: int, seed: int, *, spread: float = 0.5) -> Posterior:
    generator = torch.Generator().manual_seed(seed)
    mu = torch.randn(n, k, generator=generator)
    return Posterior(mu, spread * torch.randn(n, k, generator=generator) - 1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_w2_is_the_bures_distance_of_pot() -> None:
    a, b = gaussians(6, 5, 1), gaussians(6, 5, 2)
    expected = [
        ot.gaussian.bures_wasserstein_distance(
            a.mu[i].double().numpy(),
            b.mu[i].double().numpy(),
            np.diag(a.logvar[i].double().exp().numpy()),
            np.diag(b.logvar[i].double().exp().numpy()),
        )
        for i in range(6)
    ]
    np.testing.assert_allclose(w2(a, b).numpy(), expected, rtol=1e-5)


def test_of_points_all_distances_are_those_of_the_codes() -> None:
    a, b = Posterior(torch.tensor([[3.0, 0.0]]), None), Posterior(torch.tensor([[0.0, 4.0]]), None)
    bracket = w1_bracket(a, b)
    assert bracket.lower.item() == bracket.upper.item() == pytest.approx(5)
    spread = Posterior(b.mu, torch.log(torch.tensor([[4.0, 9.0]])) + torch.log(torch.tensor(4.0)))
    assert w2(a, spread).item() == pytest.approx((25 + 16 + 36) ** 0.5)


def test_rows_must_match() -> None:
    with pytest.raises(DataError, match=r"\[2, 3\] and \[1, 3\]"):
        w2(gaussians(2, 3, 0), gaussians(1, 3, 0))


values = st.lists(st.floats(-5, 5, width=32), min_size=12, max_size=12)


@given(values)
@settings(max_examples=60, deadline=None)
def test_distances_are_a_metric_and_the_bracket_is_ordered(flat: list[float]) -> None:
    mu, logvar = torch.tensor(flat, dtype=torch.float64).view(2, 3, 2)
    a, b, c = (Posterior(mu[i : i + 1], logvar[i : i + 1]) for i in range(3))
    assert w2(a, b) == w2(b, a)
    assert w2(a, a) == 0
    bracket = w1_bracket(a, b)
    assert bracket.lower <= bracket.upper
    assert w2(a, c) <= (w2(a, b) + w2(b, c)) * (1 + 1e-12)


def in_one_dimension(posterior: Posterior, n: int = 20_001) -> tuple[float, float, float]:
    """W1 of rows 0 and 1 by SciPy from quantiles, and the bracket."""
    levels = (np.arange(n) + 0.5) / n
    a, b = (
        norm.ppf(levels, posterior.mu[i].item(), deviations(posterior)[i].item()) for i in (0, 1)
    )
    bracket = w1_bracket(pick(posterior, np.array([0])), pick(posterior, np.array([1])))
    return wasserstein_distance(a, b), bracket.lower.item(), bracket.upper.item()


def test_with_equal_variances_transport_is_exact() -> None:
    posterior = Posterior(torch.tensor([[0.0], [1.5]]), torch.zeros(2, 1))
    truth, lower, upper = in_one_dimension(posterior)
    assert truth == pytest.approx(1.5, rel=1e-6)
    assert lower == upper == 1.5
    found = w1_transport(posterior, np.array([[0, 1]]), 8, generator())
    assert found.item() == pytest.approx(1.5, rel=1e-12)


@pytest.mark.parametrize("offset", [0.0, 0.5, 3.0])
def test_in_one_dimension_transport_estimates_scipys_w1(offset: float) -> None:
    posterior = Posterior(
        torch.tensor([[0.0], [offset]]), torch.tensor([[0.0], [2 * np.log(3)]]).float()
    )
    truth, lower, upper = in_one_dimension(posterior)
    assert lower < truth < upper or offset == 3.0
    found = w1_transport(posterior, np.array([[0, 1]] * 400), 32, generator())
    error = found.std().item() / 20
    assert abs(found.mean().item() - truth) < 4 * error + 1e-3
    assert error < 0.03


def test_in_many_dimensions_the_bias_stays_within_the_bracket() -> None:
    """Independent draws would give about ``σ sqrt(2 K)`` for equal posteriors."""
    k = 60
    posterior = Posterior(torch.zeros(3, k), torch.zeros(3, k))
    posterior.mu[1, 0] = 2
    posterior.logvar[2] = 2 * np.log(1.5)
    pairs = np.array([[0, 0], [0, 1]] + [[0, 2]] * 30)
    found = w1_transport(posterior, pairs, 16, generator())
    assert found[0] == pytest.approx(0, abs=1e-12)
    assert found[1] == pytest.approx(2, rel=1e-9)
    upper = 0.5 * k**0.5
    truth = (2**0.5 * 0.5) * np.exp(  # of isotropic Gaussians: E‖Δσ ε‖ (radial, so optimal)
        float(torch.lgamma(torch.tensor((k + 1) / 2)) - torch.lgamma(torch.tensor(k / 2)))
    )
    assert truth < upper
    assert found[2:].mean().item() == pytest.approx(truth, rel=0.02)


def test_transport_agrees_with_pot_on_given_draws() -> None:
    posterior, n = gaussians(2, 3, 5), 10
    half = torch.randn(n // 2, 3, generator=generator(7), dtype=torch.float64)
    noise = torch.cat([half, -half])
    u, v = (posterior.mu[i].double() + deviations(posterior)[i].double() * noise for i in (0, 1))
    costs = ot.dist(u.numpy(), v.numpy(), metric="euclidean")
    expected = ot.emd2(np.full(n, 1 / n), np.full(n, 1 / n), costs)
    found = w1_transport(posterior, np.array([[0, 1]]), n, generator(7))
    assert found.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("n_draws", [0, 1, 7])
def test_transport_needs_an_even_number_of_draws(n_draws: int) -> None:
    with pytest.raises(ConfigError, match="even"):
        w1_transport(gaussians(2, 3, 0), np.array([[0, 1]]), n_draws, generator())


def test_without_pot_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(MissingExtraError, match=r"coterie\[mechanisms\]"):
        w1_transport(gaussians(2, 3, 0), np.array([[0, 1]]), 4, generator())

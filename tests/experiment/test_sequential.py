"""Always-valid inference, against numerical integration and random walks."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from coterie.experiment.sequential import multiplier, p_value, price


@pytest.mark.parametrize(
    ("z", "s", "effect"), [(3.0, 0.01, 0.02), (2.2, 0.05, 0.02), (4, 0.01, 0.1)]
)
def test_the_p_value_is_one_over_the_mixtures_likelihood_ratio(z, s, effect):
    """MSPRT's definition: average the likelihood ratio over effects drawn from N(0, τ²)."""

    def ratio(theta):
        seen = z * s
        return norm.pdf(seen, theta, s) / norm.pdf(seen, 0, s) * norm.pdf(theta, 0, effect)

    mixture, _ = quad(ratio, -20 * effect, 20 * effect, points=[0, z * s], limit=400)
    assert p_value(z, s, effect) == pytest.approx(min(1.0, 1 / mixture), rel=1e-6)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_interval_and_p_value_are_one_thing(alpha):
    k = multiplier(0.013, 0.02, alpha)
    assert p_value(k, 0.013, 0.02) == pytest.approx(alpha)
    assert k > norm.ppf(1 - alpha / 2)


def test_tightest_near_the_planned_end():
    """Among mixtures, τ = 2.8 standard errors is within a percent of the tightest."""
    best = min(multiplier(1.0, tau, 0.05) for tau in np.geomspace(0.1, 30, 400))
    assert multiplier(1.0, 2.8, 0.05) < 1.01 * best


@pytest.mark.parametrize(("alpha", "effect"), [(0.05, 0.2), (0.1, 0.5)])
def test_random_walks_leave_the_interval_as_rarely_as_promised(alpha, effect):
    """Looked at after every one of 2 000 steps, from the first on; and a fixed interval is not."""
    rng = np.random.default_rng(0)
    steps = np.arange(1, 2001)
    means = rng.standard_normal((1500, 2000)).cumsum(axis=1) / steps
    bounds = np.array([multiplier(s, effect, alpha) * s for s in 1 / np.sqrt(steps)])
    left = (np.abs(means) > bounds).any(axis=1).mean()
    assert 0.2 * alpha < left <= alpha
    fixed = norm.ppf(1 - alpha / 2) / np.sqrt(steps)
    assert (np.abs(means) > fixed)[:, 20:].any(axis=1).mean() > 4 * alpha


def test_returning_users_leave_fewer_chances_to_err():
    """The same people each day: estimates resemble each other more than independent ones."""
    rng = np.random.default_rng(1)
    tests, users, days = 600, 200, 30
    people = rng.standard_normal((tests, users, 1))
    daily = people + rng.standard_normal((tests, users, days))
    totals = daily.cumsum(axis=2) / np.arange(1, days + 1)
    means, s = totals.mean(axis=1), totals.std(axis=1, ddof=1) / math.sqrt(users)
    bounds = np.vectorize(lambda se: multiplier(se, 0.25, 0.05) * se)(s)
    assert (np.abs(means) > bounds).any(axis=1).mean() <= 0.05


def test_the_price_of_deciding_at_any_time():
    ratio = price(0.05, 0.8)
    users = ratio * (norm.ppf(0.975) + norm.ppf(0.8)) ** 2  # in squared standard errors
    s = 1 / math.sqrt(users)
    assert norm.sf(multiplier(s, 1.0, 0.05) - 1 / s) == pytest.approx(0.8)
    assert 1.5 < ratio < 2.5


@pytest.mark.parametrize("s", [0.0, math.nan])
def test_without_a_standard_error_there_is_nothing(s):
    assert math.isnan(multiplier(s, 0.1, 0.05))
    assert math.isnan(p_value(1.0, s, 0.1))

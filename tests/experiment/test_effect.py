"""Estimates and intervals, against SciPy, a bootstrap over users, OLS, and repeated experiments."""

import math

import numpy as np
import pytest
from scipy import stats

from coterie.experiment.effect import Effect, Estimate, Indices, estimates
from coterie.experiment.moments import Moments

MEAN, RATIO = Indices(0), Indices(0, 1)


def users(n, rng, *, lift=0.0):
    """Clicks, impressions, and both before, of the same users: ``[n, 4]``."""
    rate, taste = rng.lognormal(1.0, 0.8, n), rng.beta(2, 10, n)
    before = rng.poisson(rate)
    seen = rng.poisson(rate) + 1
    return np.column_stack(
        [
            rng.binomial(seen, np.minimum(taste * (1 + lift), 1)),
            seen,
            rng.binomial(before, taste),
            before,
        ]
    ).astype(float)


def effect_of(control, treatment, at):
    return Effect(*estimates([Moments.of(control), Moments.of(treatment)], at))


@pytest.fixture
def arms():
    rng = np.random.default_rng(1)
    return users(900, rng), users(400, rng, lift=0.3)


def test_a_mean_is_welchs_test(arms):
    control, treatment = arms
    found = effect_of(control, treatment, MEAN)
    welch = stats.ttest_ind(treatment[:, 0], control[:, 0], equal_var=False)
    interval = welch.confidence_interval(0.9)
    assert found.p_value() == pytest.approx(welch.pvalue, rel=1e-9)
    assert found.degrees_of_freedom == pytest.approx(welch.df)
    ours = found.difference_interval(found.multiplier(0.1))
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high))


def test_a_ratio_is_a_bootstrap_over_users():
    rng = np.random.default_rng(2)
    values = users(3000, rng)
    (found,) = estimates([Moments.of(values)], RATIO)
    assert found.value == pytest.approx(values[:, 0].sum() / values[:, 1].sum())
    drawn = []
    for _ in range(2000):
        some = values[rng.integers(0, len(values), len(values))]
        drawn.append(some[:, 0].sum() / some[:, 1].sum())
    assert found.se == pytest.approx(np.std(drawn), rel=0.05)
    events = values[:, 1].sum()
    naive = math.sqrt(found.value * (1 - found.value) / events)
    assert found.se > 1.15 * naive  # treating impressions as independent would be wrong


def test_a_bootstrap_gives_the_lifts_interval():
    rng = np.random.default_rng(3)
    control, treatment = users(2500, rng), users(2500, rng, lift=0.2)
    found = effect_of(control, treatment, RATIO)
    lifts = []
    for _ in range(2000):
        one, other = (
            a[rng.integers(0, len(a), len(a))][:, :2].sum(axis=0) for a in (control, treatment)
        )
        lifts.append((other[0] / other[1]) / (one[0] / one[1]) - 1)
    interval = found.lift_interval(found.multiplier(0.05))
    low, high = np.quantile(lifts, [0.025, 0.975])
    width = high - low
    assert interval.low == pytest.approx(low, abs=0.1 * width)
    assert interval.high == pytest.approx(high, abs=0.1 * width)


@pytest.mark.parametrize("lift", [-0.2, 0.0, 0.05, 0.3])
def test_interval_and_p_value_never_disagree(lift):
    rng = np.random.default_rng(4)
    found = effect_of(users(500, rng), users(500, rng, lift=lift), RATIO)
    p = found.p_value()
    for alpha, excluded in ((p * 1.001, True), (p * 0.999, False)):
        multiplier = found.multiplier(alpha)
        assert (0.0 not in found.lift_interval(multiplier)) == excluded
        assert (0.0 not in found.difference_interval(multiplier)) == excluded


def test_fieller_inverts_the_test_of_every_lift():
    found = Effect(Estimate(100, 2.0, 0.3), Estimate(100, 2.5, 0.2))
    interval = found.lift_interval(1.7)
    for lift in (interval.low, interval.high):
        gap = 2.5 - (1 + lift) * 2.0
        assert abs(gap) == pytest.approx(1.7 * math.hypot(0.2, (1 + lift) * 0.3))


def test_a_control_near_zero_sets_no_bounds():
    interval = Effect(Estimate(100, 0.1, 0.2), Estimate(100, 0.4, 0.2)).lift_interval(2.0)
    assert (interval.low, interval.high) == (-math.inf, math.inf)


def test_nothing_to_compare():
    flat = Effect(Estimate(10, 0.0, 0.0), Estimate(10, 0.0, 0.0))
    assert math.isnan(flat.lift)
    assert math.isnan(flat.z)
    assert math.isnan(flat.p_value())
    (none,) = estimates([Moments.of(np.zeros((5, 2)))], RATIO)
    assert math.isnan(none.value)


def test_cuped_is_what_ols_leaves():
    """One covariate: the adjusted difference is the regression's treatment coefficient."""
    rng = np.random.default_rng(5)
    control, treatment = users(700, rng), users(500, rng, lift=0.3)
    found = effect_of(control, treatment, Indices(0, None, (2,)))
    both = np.vstack([control, treatment])
    treated = np.repeat([0.0, 1.0], [700, 500])
    design = np.column_stack([np.ones(1200), treated, both[:, 2]])
    coefficients, *_ = np.linalg.lstsq(design, both[:, 0], rcond=None)
    assert found.difference == pytest.approx(coefficients[1])
    residuals = both[:, 0] - coefficients[2] * both[:, 2]
    welch = stats.ttest_ind(residuals[700:], residuals[:700], equal_var=False)
    assert found.se == pytest.approx(float(abs(found.difference / welch.statistic)))
    assert found.se < 0.9 * effect_of(control, treatment, MEAN).se


def test_cuped_of_a_ratio_residualises_the_linearised_values():
    rng = np.random.default_rng(6)
    arms = [users(900, rng), users(900, rng, lift=0.2)]
    found = estimates([Moments.of(arm) for arm in arms], Indices(0, 1, (2, 3)))
    linear = []
    for arm in arms:
        ratio = arm[:, 0].sum() / arm[:, 1].sum()
        linear.append((arm[:, 0] - ratio * arm[:, 1]) / arm[:, 1].mean())
    centred = np.vstack([arm[:, 2:] - arm[:, 2:].mean(axis=0) for arm in arms])
    beta, *_ = np.linalg.lstsq(centred, np.concatenate(linear), rcond=None)
    everyone = np.vstack(arms)[:, 2:].mean(axis=0)
    for arm, one, estimate in zip(arms, linear, found, strict=True):
        shift = beta @ (arm[:, 2:].mean(axis=0) - everyone)
        assert estimate.value == pytest.approx(arm[:, 0].sum() / arm[:, 1].sum() - shift)
        left = one - arm[:, 2:] @ beta
        assert estimate.se == pytest.approx(left.std(ddof=1) / math.sqrt(len(arm)))


@pytest.mark.parametrize("at", [Indices(0, None, (2,)), Indices(0, 1, (2, 3))])
def test_cuped_is_never_biased_and_its_standard_error_is_true(at):
    """Over repeated experiments: the mean lift is the planted one, its spread the claimed one."""
    rng = np.random.default_rng(7)
    plain = Indices(at.numerator, at.denominator)
    found, raw = [], []
    for _ in range(600):
        control, treatment = users(400, rng), users(400, rng, lift=0.25)
        found.append(effect_of(control, treatment, at))
        raw.append(effect_of(control, treatment, plain))
    differences = np.array([one.difference for one in found])
    spread = differences.std(ddof=1)
    reference = users(400_000, rng), users(400_000, rng, lift=0.25)
    truth = effect_of(*reference, at)
    assert abs(differences.mean() - truth.difference) < 3.5 * math.hypot(
        spread / math.sqrt(len(found)), truth.se
    )
    assert np.mean([one.se for one in found]) == pytest.approx(spread, rel=0.1)
    assert spread < np.std([one.difference for one in raw])


def test_a_covariate_that_says_nothing_twice_changes_nothing():
    """The same column twice has no unique β; the adjustment is the same."""
    rng = np.random.default_rng(8)
    control, treatment = users(300, rng), users(300, rng)
    once = effect_of(control, treatment, Indices(0, None, (2,)))
    wide = [np.column_stack([arm, arm[:, 2]]) for arm in (control, treatment)]
    twice = effect_of(*wide, Indices(0, None, (2, 4)))
    assert twice.difference == pytest.approx(once.difference)
    assert twice.se == pytest.approx(once.se)

"""Paired tests against SciPy, exact enumeration and their own size; Holm against its definition."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from coterie.errors import ConfigError, DataError
from coterie.evaluation.significance import (
    differences_by_user,
    holm,
    paired_bootstrap,
    paired_t_test,
)

SKEWED = np.random.default_rng(0).exponential(size=40) - 0.7


@pytest.mark.parametrize("n", [2, 5, 300])
def test_t_test_is_scipys(n):
    rng = np.random.default_rng(n)
    ours, theirs = rng.random(n) + 0.05, rng.random(n)
    found, expected = paired_t_test(ours - theirs), stats.ttest_rel(ours, theirs)
    interval = expected.confidence_interval(0.95)
    assert found.n == n
    assert found.mean == pytest.approx((ours - theirs).mean())
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    wide = paired_t_test(ours - theirs, confidence=0.99)
    assert wide.low == pytest.approx(expected.confidence_interval(0.99).low)


def test_a_tiny_p_is_not_rounded_to_zero():
    differences = np.random.default_rng(0).normal(0.5, 1, 2000)
    assert 0 < paired_t_test(differences).p < 1e-80


@pytest.mark.parametrize(("interval", "theirs"), [("bca", "BCa"), ("percentile", "percentile")])
@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_bootstrap_intervals_are_scipys(interval, theirs, confidence):
    found = paired_bootstrap(
        SKEWED, rng=1, n_resamples=100_000, interval=interval, confidence=confidence
    )
    expected = stats.bootstrap(
        (SKEWED,),
        np.mean,
        method=theirs,
        n_resamples=100_000,
        confidence_level=confidence,
        rng=np.random.default_rng(2),
    ).confidence_interval
    error = SKEWED.std() / math.sqrt(len(SKEWED))
    assert found.low == pytest.approx(expected.low, abs=0.04 * error)
    assert found.high == pytest.approx(expected.high, abs=0.04 * error)
    assert found.mean == pytest.approx(SKEWED.mean())


def test_the_two_intervals_differ_where_differences_are_skewed():
    bca, plain = (paired_bootstrap(SKEWED, rng=1, interval=kind) for kind in ("bca", "percentile"))
    assert bca.low > plain.low
    assert bca.high > plain.high
    assert bca.p == plain.p


def test_bootstrap_p_against_all_resamples():
    """Of 5 users there are 5⁵ resamples, so that the p-value is known exactly."""
    differences = np.array([0.3, 0.1, -0.2, 0.45, 0.12])
    centred = differences - differences.mean()
    drawn = centred[np.array(list(itertools.product(range(5), repeat=5)))]
    with np.errstate(divide="ignore"):
        t = drawn.mean(axis=1) / drawn.std(axis=1)
    exact = np.mean(np.abs(t) >= abs(differences.mean()) / differences.std())
    found = paired_bootstrap(differences, rng=3, n_resamples=200_000)
    assert found.p == pytest.approx(exact, abs=4 * math.sqrt(exact / 200_000))


def test_bootstrap_is_that_of_its_seed_and_of_any_block(monkeypatch):
    first = paired_bootstrap(SKEWED, rng=7, n_resamples=500)
    assert paired_bootstrap(SKEWED, rng=np.random.default_rng(7), n_resamples=500) == first
    assert paired_bootstrap(SKEWED, rng=8, n_resamples=500) != first
    monkeypatch.setattr("coterie.evaluation.significance.BLOCK", 90)  # two resamples at a time
    assert paired_bootstrap(SKEWED, rng=7, n_resamples=500) == first


def test_bootstrap_p_is_never_zero():
    differences = 5 + np.random.default_rng(0).random(50)
    assert paired_bootstrap(differences, rng=0, n_resamples=999).p == 1 / 1000


def rejections(test, draw, trials, seed):
    rng = np.random.default_rng(seed)
    return sum(test(draw(rng)).p < 0.05 for _ in range(trials))


@pytest.mark.parametrize(
    ("test", "draw", "trials"),
    [
        (paired_t_test, lambda rng: rng.normal(size=5), 3000),
        (paired_t_test, lambda rng: rng.exponential(size=300) - 1, 3000),
        (
            lambda d: paired_bootstrap(d, rng=0, n_resamples=399),
            lambda rng: rng.normal(size=60),
            1000,
        ),
        (
            lambda d: paired_bootstrap(d, rng=0, n_resamples=399),
            lambda rng: rng.choice([0.0, 0.0, 0.0, -0.4, 0.1, 0.3], 300),  # like metrics: ties
            1000,
        ),
    ],
    ids=["t, 5 normal", "t, 300 skewed", "bootstrap, normal", "bootstrap, ties"],
)
def test_size_under_the_null(test, draw, trials):
    """Without a difference, 5 % are rejected at 5 %: within 3.5 standard errors."""
    error = math.sqrt(0.05 * 0.95 / trials)
    share = rejections(test, draw, trials, seed=11) / trials
    assert share == pytest.approx(0.05, abs=3.5 * error)


def test_power():
    def moved(rng):
        return rng.normal(0.5, 1, size=60)

    assert rejections(paired_t_test, moved, 200, 1) > 180
    assert rejections(lambda d: paired_bootstrap(d, rng=0, n_resamples=199), moved, 200, 1) > 180


@pytest.mark.parametrize("value", [0.0, 0.25, -0.1])
@pytest.mark.parametrize("test", [paired_t_test, lambda d: paired_bootstrap(d, rng=0)])
def test_all_differences_equal(value, test):
    found = test(np.full(7, value))
    assert (found.mean, found.low, found.high) == (value, value, value)
    assert found.p == 1 if value == 0 else found.p <= 1 / 10_001


@pytest.mark.parametrize("test", [paired_t_test, lambda d: paired_bootstrap(d, rng=0)])
def test_too_few(test):
    alone = test(np.array([0.2]))
    assert (alone.n, alone.mean) == (1, 0.2)
    assert all(map(math.isnan, (alone.low, alone.high, alone.p)))
    nobody = test(np.empty(0))
    assert nobody.n == 0
    assert math.isnan(nobody.mean)


@pytest.mark.parametrize("test", [paired_t_test, lambda d: paired_bootstrap(d, rng=0)])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_nan_is_an_error(test, wrong):
    with pytest.raises(DataError, match="1 of 3 differences"):
        test(np.array([0.1, wrong, 0.2]))
    with pytest.raises(DataError, match=r"\[n\]"):
        test(np.zeros((2, 2)))


def test_wrong_settings():
    with pytest.raises(ConfigError, match="n_resamples"):
        paired_bootstrap(SKEWED, rng=0, n_resamples=0)
    with pytest.raises(ConfigError, match="interval"):
        paired_bootstrap(SKEWED, rng=0, interval="basic")
    with pytest.raises(ConfigError, match="confidence"):
        paired_t_test(SKEWED, confidence=95)


def test_holm_worked_example():
    """Four p-values in steps 4, 3, 2, 1; a larger one is never corrected to less."""
    found = holm([0.01, 0.04, 0.03, 0.005])
    assert found == pytest.approx([3 * 0.01, 2 * 0.03, 2 * 0.03, 4 * 0.005])
    assert holm([0.6, 0.5]) == pytest.approx([1, 1])
    assert holm([0.02]) == pytest.approx([0.02])
    assert len(holm([])) == 0


def test_holm_leaves_out_what_was_not_tested():
    found = holm([0.01, math.nan, 0.04])
    assert found[[0, 2]] == pytest.approx([0.02, 0.04])
    assert math.isnan(found[1])
    with pytest.raises(ConfigError, match="between 0 and 1"):
        holm([0.1, 1.1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.999))
def test_holm_rejects_as_its_steps_do(p_values, alpha):
    """Holm's own words: go from the smallest on while p ≤ α / (hypotheses that are left)."""
    rejected = np.zeros(len(p_values), dtype=bool)
    for step, at in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[at] * (len(p_values) - step) > alpha:
            break
        rejected[at] = True
    assert (holm(p_values) <= alpha).tolist() == rejected.tolist()


def test_a_user_of_several_runs_counts_once():
    ours = [(["a", "b"], np.array([0.4, 0.2])), (["c", "a"], np.array([0.3, 0.8]))]
    theirs = [(["b", "a"], np.array([0.1, 0.2])), (["a", "c"], np.array([0.2, 0.3]))]
    found = differences_by_user(ours, theirs)
    assert found == pytest.approx([((0.4 - 0.2) + (0.8 - 0.2)) / 2, 0.2 - 0.1, 0.0])


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([[1, 2]], [[1, 3]], "Run 1: the models were tested on different users"),
        ([[1, 2]], [[1, 2, 3]], "different users"),
        ([[1, 2], [1]], [[1, 2]], "the same runs"),
        ([[1, 1]], [[1, 1]], "twice"),
    ],
)
def test_users_must_be_the_same(ours, theirs, expected):
    def run(ids):
        return np.array(ids), np.zeros(len(ids))

    with pytest.raises(DataError, match=expected):
        differences_by_user([run(ids) for ids in ours], [run(ids) for ids in theirs])


def test_no_runs_no_users():
    assert len(differences_by_user([], [])) == 0

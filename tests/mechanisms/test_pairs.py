"""Pairs of users: what they share, and statistics that allow for common users."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from coterie.mechanisms.pairs import rank_correlation, shared_items, standard_error
from histories import dense_of, interactions_of, random_histories


def test_shared_items_are_those_of_the_dense_matrix() -> None:
    histories = random_histories(40, 25, seed=3)
    pairs = np.stack(np.triu_indices(40, 1), 1)
    x = dense_of(histories, 25).numpy()
    expected = (x[pairs[:, 0]] * x[pairs[:, 1]]).sum(1)
    pairs = np.concatenate([pairs, pairs])  # more than one chunk
    found = shared_items(interactions_of(histories, 25), pairs)
    np.testing.assert_array_equal(found, np.tile(expected, 2))


def test_the_error_of_a_mean_allows_for_common_users() -> None:
    """Values made of the two users' own effects: the truth by drawing users anew."""
    rng, n = np.random.default_rng(0), 30
    pairs = np.stack(np.triu_indices(n, 1), 1)
    means, errors = [], []
    for _ in range(400):
        effects = rng.normal(size=n)
        drawn = effects[pairs].sum(1) + rng.normal(size=len(pairs))
        means.append(drawn.mean())
        errors.append(standard_error(drawn, pairs))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.12)
    naive = drawn.std() / len(pairs) ** 0.5
    assert np.mean(errors) > 3 * naive, "or the test could not tell"
    apart = np.arange(2000).reshape(-1, 2)
    drawn = rng.normal(size=1000)
    assert standard_error(drawn, apart) == pytest.approx(drawn.std(ddof=1) / 1000**0.5)
    assert np.isnan(standard_error(drawn[:1], apart[:1]))


def test_rank_correlation_is_spearmans_with_ties() -> None:
    rng, pairs = np.random.default_rng(1), np.arange(400).reshape(-1, 2)
    x = rng.integers(0, 15, 200)
    y = x + rng.normal(size=200) * 6
    found = rank_correlation(x, y, pairs)
    assert found.estimate == pytest.approx(spearmanr(x, y).statistic)
    assert found.low < found.estimate < found.high
    perfect = rank_correlation(x, x, pairs)
    assert (perfect.low, perfect.high) == (perfect.estimate, perfect.estimate)
    assert perfect.estimate == pytest.approx(1)
    assert np.isnan(rank_correlation(np.ones(200), y, pairs).estimate)


@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_the_interval_covers_the_truth_as_often_as_it_says(slope: float) -> None:
    rng, n = np.random.default_rng(2), 150
    pairs = np.arange(2 * n).reshape(-1, 2)
    rho = slope / (1 + slope**2) ** 0.5
    truth = 6 / np.pi * np.arcsin(rho / 2)  # Spearman's correlation of a bivariate normal
    covered, found = [], []
    for _ in range(400):
        x = rng.normal(size=n)
        one = rank_correlation(x, slope * x + rng.normal(size=n), pairs)
        covered.append(one.low <= truth <= one.high)
        found.append(one)
    assert 0.91 <= np.mean(covered) <= 0.98
    width = np.mean([one.high - one.low for one in found])
    assert width == pytest.approx(2 * 1.96 * np.std([one.estimate for one in found]), rel=0.12)

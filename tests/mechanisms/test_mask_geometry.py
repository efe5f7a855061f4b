from dataclasses import replace
from itertools import combinations, product
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from coterie.errors import ConfigError, DataError
from coterie.mechanisms.mask_geometry import (
    MaskGeometry,
    mask_geometry,
)
from coterie.mechanisms.masked_distance import (
    masked_bounds,
    masked_distance_mean,
    masked_distance_pmf,
    masked_odds,
)
from coterie.mechanisms.measurement import Budget
from histories import dense_of, interactions_of, random_histories

COUNTS = st.integers(0, 60)
KEEP = st.floats(0.02, 1.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_enumeration(d: int, c: int, rho: float, *, same_mask: bool) -> np.ndarray:
    """P(D = 0 … d + c): every pair of masks over the d + c items, with its probability."""
    u = np.array([i % 2 for i in range(d)] + [1] * c)  # differing items belong to u or to v
    v = np.array([1 - i % 2 for i in range(d)] + [1] * c)
    found = np.zeros(d + c + 1)
    masks = [np.array(mask, dtype=int) for mask in product((0, 1), repeat=d + c)]
    for a in masks:
        for b in [a] if same_mask else masks:
            drawn = np.concatenate([a] if same_mask else [a, b])
            chance = rho ** drawn.sum() * (1 - rho) ** (len(drawn) - drawn.sum())
            found[int(np.abs(u * a - v * b).sum())] += chance
    return found


@pytest.mark.parametrize("same_mask", [False, True])
@pytest.mark.parametrize(("d", "c"), [(0, 0), (1, 0), (0, 1), (2, 1), (1, 3), (3, 2), (0, 4)])
def test_the_law_is_what_all_masks_together_give(d: int, c: int, same_mask: bool) -> None:
    expected = by_enumeration(d, c, 0.3, same_mask=same_mask)
    np.testing.assert_allclose(
        masked_distance_pmf(d, c, 0.3, same_mask=same_mask), expected, atol=1e-14
    )
    odds = masked_odds(d, c, 0.3, same_mask=same_mask)
    found = [odds.contraction, odds.unchanged, odds.expansion]
    assert [x.shape for x in found] == [()] * 3
    summed = [expected[:d].sum(), expected[d], expected[d + 1 :].sum()]
    np.testing.assert_allclose(found, summed, atol=1e-14)
    mean = masked_distance_mean(d, c, 0.3, same_mask=same_mask)
    np.testing.assert_allclose(mean, expected @ np.arange(d + c + 1), atol=1e-14)


def test_one_shared_and_one_differing_item_by_hand() -> None:
    # D = 2 needs the differing item kept (1/2) and the shared one kept by one user only (1/2).
    np.testing.assert_allclose(masked_distance_pmf(1, 1), [1 / 4, 1 / 2, 1 / 4])
    assert masked_distance_mean(1, 1) == 1  # d = 2ρc: unchanged on average


@pytest.mark.parametrize(("d", "c", "rho"), [(3, 4, 0.5), (12, 5, 0.8), (5, 12, 0.3)])
def test_the_law_is_what_real_masks_give(d: int, c: int, rho: float) -> None:
    rng, n = np.random.default_rng(0), 200_000
    u = np.array([1] * (d // 2) + [0] * (d - d // 2) + [1] * c)
    v = np.array([0] * (d // 2) + [1] * (d - d // 2) + [1] * c)
    a, b = rng.random((2, n, d + c)) < rho
    for other, same_mask in ((b, False), (a, True)):
        distance = np.abs(u * a - v * other).sum(1)
        found = np.bincount(distance, minlength=d + c + 1) / n
        law = masked_distance_pmf(d, c, rho, same_mask=same_mask)
        assert (np.abs(found - law) <= 5 * np.sqrt(law * (1 - law) / n) + 1e-12).all()


@given(d=COUNTS, c=COUNTS, rho=KEEP, same_mask=st.booleans())
@settings(max_examples=150, deadline=None)
def test_law_odds_and_mean_agree(d: int, c: int, rho: float, same_mask: bool) -> None:
    law = masked_distance_pmf(d, c, rho, same_mask=same_mask)
    odds = masked_odds(d, c, rho, same_mask=same_mask)
    assert len(law) == d + c + 1
    assert law.sum() == pytest.approx(1, abs=1e-12)
    assert odds.contraction == pytest.approx(law[:d].sum(), abs=1e-12)
    assert odds.unchanged == pytest.approx(law[d], abs=1e-12)
    assert odds.expansion == pytest.approx(law[d + 1 :].sum(), abs=1e-12)
    mean = masked_distance_mean(d, c, rho, same_mask=same_mask)
    assert mean == pytest.approx(law @ np.arange(len(law)), abs=1e-9)


@given(d=COUNTS, c=COUNTS, rho=KEEP, same_mask=st.booleans())
@settings(max_examples=150, deadline=None)
def test_hoeffding_bounds_hold(d: int, c: int, rho: float, same_mask: bool) -> None:
    odds = masked_odds(d, c, rho, same_mask=same_mask)
    bounds = masked_bounds(d, c, rho, same_mask=same_mask)
    slack = 1e-12
    assert 0 <= bounds.least_contraction <= odds.contraction + slack
    assert odds.contraction - slack <= bounds.most_contraction <= 1
    assert 0 <= bounds.least_expansion <= odds.expansion + slack
    assert odds.expansion - slack <= bounds.most_expansion <= 1


def test_bounds_tell_the_two_regimes_apart() -> None:
    bounds = masked_bounds([400, 100], [50, 400])  # d > c contracts at ρ = 1/2, d < c expands
    assert bounds.least_contraction[0] > 0.99
    assert bounds.most_expansion[0] < 0.01
    assert bounds.least_expansion[1] > 0.99
    assert bounds.most_contraction[1] < 0.01
    # By hand: Δ = 400 − 200 − 25 = 175 of 450 indicators.
    assert bounds.most_expansion[0] == pytest.approx(np.exp(-2 * 175**2 / 450))
    assert masked_bounds(1, 0).least_contraction == pytest.approx(1 - np.exp(-2 * 0.5**2))


@pytest.mark.parametrize(("d", "c", "rho"), [(4000, 4000, 0.5), (1500, 3000, 0.25), (2500, 1, 0.9)])
def test_thousands_of_items_are_exact(d: int, c: int, rho: float) -> None:
    new = 2 * rho * (1 - rho)
    # P(D < d) = Σ_j P(N = j) P(Binomial(d, ρ) < d − j), the other way round, and over all terms.
    j = np.arange(c + 1)
    expected = (binom.pmf(j, c, new) * binom.cdf(d - 1 - j, d, rho)).sum()
    law = masked_distance_pmf(d, c, rho)
    assert masked_odds(d, c, rho).contraction == pytest.approx(expected, abs=1e-10)
    assert law[:d].sum() == pytest.approx(expected, abs=1e-10)


def test_thousands_of_items_in_whole_numbers() -> None:
    d, c, x = 1500, 3000, 1503  # at ρ = 1/4 a shared item comes to differ with probability 3/8
    ways = sum(
        comb(d, i) * 3 ** (d - i) * comb(c, x - i) * 3 ** (x - i) * 5 ** (c - x + i)
        for i in range(d + 1)
    )
    law = masked_distance_pmf(d, c, 0.25)
    assert law[x] == pytest.approx(ways / (4**d * 8**c), rel=1e-10)


def test_vectors_are_the_scalars(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    d, c = rng.integers(0, 200, (40, 1)), rng.integers(0, 90, (1, 30))
    whole = masked_odds(d, c, 0.7)
    assert whole.expansion.shape == (40, 30)
    for row, column in [(0, 0), (3, 29), (39, 7)]:
        one = masked_odds(d[row, 0], c[0, column], 0.7)
        assert whole.contraction[row, column] == one.contraction
        assert whole.unchanged[row, column] == one.unchanged
        assert whole.expansion[row, column] == one.expansion
    monkeypatch.setattr("coterie.mechanisms.masked_distance.TERMS_AT_ONCE", 100)
    np.testing.assert_array_equal(masked_odds(d, c, 0.7).contraction, whole.contraction)
    assert masked_odds([], [], 0.7).contraction.shape == (0,)


def test_no_mask_and_one_mask_never_expand() -> None:
    d, c = np.array([0, 3, 50]), np.array([4, 0, 500])
    for odds in (masked_odds(d, c, 1.0), masked_odds(d, c, 0.4, same_mask=True)):
        np.testing.assert_array_equal(odds.expansion, 0)
    np.testing.assert_array_equal(masked_odds(d, c, 1.0).unchanged, 1)
    contraction = masked_odds(d, c, 0.4, same_mask=True).contraction
    np.testing.assert_allclose(contraction, 1 - 0.4**d, atol=1e-14)


@pytest.mark.parametrize("rho", [0.0, -0.1, 1.01, float("nan")])
def test_keep_probabilities_out_of_range(rho: float) -> None:
    with pytest.raises(ConfigError, match="keep_probability"):
        masked_odds(1, 1, rho)
    with pytest.raises(ConfigError, match="keep_probability"):
        mask_geometry(interactions_of([[0]] * 6, 2), keep_probability=rho, generator=seeded())


def test_counts_must_be_whole_and_not_negative() -> None:
    with pytest.raises(ConfigError, match="integers of at least 0"):
        masked_odds([3, -1], 2)
    with pytest.raises(ConfigError, match="float64"):
        masked_distance_mean(2.5, 1)


# ── On data ──

HISTORIES = random_histories(40, 50, seed=3, longest=30)
DATA = interactions_of(HISTORIES, 50)


@pytest.fixture(scope="module")
def measured() -> MaskGeometry:
    return mask_geometry(DATA, keep_probability=0.6, n_masks=200, generator=seeded(5))


def test_counts_are_those_of_the_dense_matrix(measured: MaskGeometry) -> None:
    x = dense_of(HISTORIES, 50).numpy()
    assert measured.sample.used == measured.sample.available == 39 * 38 // 2
    pairs = {tuple(pair) for pair in measured.pairs.tolist()}
    assert pairs == set(combinations(range(1, 40), 2))  # user 0 has no history
    u, v = x[measured.pairs.T]
    np.testing.assert_array_equal(measured.differing, np.abs(u - v).sum(1))
    np.testing.assert_array_equal(measured.shared, (u * v).sum(1))


def test_masks_follow_the_theory_pair_by_pair(measured: MaskGeometry) -> None:
    d, c, n = measured.differing, measured.shared, measured.masked.shape[1]
    new = 2 * 0.6 * 0.4
    variance = d * 0.6 * 0.4 + c * new * (1 - new)
    z = (measured.masked.mean(1) - measured.expected) / np.sqrt(variance / n)
    assert np.abs(z).max() < 4.8  # of 741
    assert z.std() == pytest.approx(1, abs=0.12)
    np.testing.assert_allclose(measured.masked.var(1, ddof=1).sum(), variance.sum(), rtol=0.02)
    for found, odds in (
        ((measured.masked < d[:, None]).mean(1), measured.odds.contraction),
        ((measured.masked == d[:, None]).mean(1), measured.odds.unchanged),
        ((measured.masked > d[:, None]).mean(1), measured.odds.expansion),
    ):
        assert (np.abs(found - odds) <= 5 * np.sqrt(odds * (1 - odds) / n) + 0.02).all()
        assert found.mean() == pytest.approx(odds.mean(), abs=0.005)


def test_one_mask_for_both_is_binomial(measured: MaskGeometry) -> None:
    d, n = measured.differing, measured.masked.shape[1]
    assert (measured.masked_alike <= d[:, None]).all()
    z = (measured.masked_alike.mean(1) - 0.6 * d) / np.sqrt(np.maximum(d * 0.24 / n, 1e-12))
    assert np.abs(z).max() < 4.8
    np.testing.assert_allclose(
        measured.masked_alike.var(1, ddof=1).sum(), 0.24 * d.sum(), rtol=0.02
    )


def test_figures_are_means_over_the_pairs(measured: MaskGeometry) -> None:
    figures, d, c = measured.figures(), measured.differing, measured.shared
    assert figures["contracting_share"] == pytest.approx((d > 1.2 * c).mean())
    assert figures["expanding_share"] == pytest.approx((d < 1.2 * c).mean())
    assert figures["contraction"] == pytest.approx(measured.odds.contraction.mean())
    ratios = [0.6 + 0.48 * b / a for a, b in zip(d, c, strict=True) if a]
    assert figures["expected_ratio"] == pytest.approx(np.mean(ratios))
    assert figures["measured_ratio"] == pytest.approx(figures["expected_ratio"], abs=0.005)
    assert abs(figures["gap_in_standard_errors"]) < 4
    assert all(np.isfinite(value) for value in figures.values())


def test_the_frame_has_tenths_by_distance(measured: MaskGeometry) -> None:
    frame = measured.to_frame()
    assert frame["pairs"].sum() == len(measured.pairs)
    assert len(frame) == 10
    assert (frame["most_differing"][:-1] <= frame["least_differing"][1:]).all()
    weighted = (frame["contraction"] * frame["pairs"]).sum() / len(measured.pairs)
    assert weighted == pytest.approx(measured.figures()["contraction"])


def test_twins_expand_and_strangers_contract() -> None:
    twins = [[*range(start, start + 12), 40 + start % 7 + at] for start in (0, 20) for at in (0, 1)]
    data = interactions_of([*twins, [39]], 60)  # twins differ in 2 items and share 12
    found = mask_geometry(data, generator=seeded())
    near = found.shared == 12
    assert near.sum() == 2
    assert (found.differing[near] == 2).all()
    assert (found.expected[near] > 2).all()
    assert (found.expected[~near] < found.differing[~near]).all()
    assert found.figures()["expanding_share"] == pytest.approx(0.2)
    assert "20.0% expand" in found.sentence()


def test_same_seed_same_result_and_other_seed_another() -> None:
    small = Budget(seconds=5e-5)
    one, again, other = (
        mask_geometry(DATA, generator=seeded(seed), budget=small) for seed in (1, 1, 2)
    )
    assert one.sample == again.sample
    assert 10 <= one.sample.used < one.sample.available
    assert one.sentence() == again.sentence()
    assert one.figures() == pytest.approx(again.figures(), abs=0, nan_ok=True)
    np.testing.assert_array_equal(one.masked, again.masked)
    assert one.to_dict() != other.to_dict()


def test_blocks_do_not_change_counts(
    measured: MaskGeometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coterie.mechanisms.mask_geometry.PAIRS_AT_ONCE", 7)
    again = mask_geometry(DATA, generator=seeded(5), n_masks=1)
    np.testing.assert_array_equal(again.differing, measured.differing)
    np.testing.assert_array_equal(again.shared, measured.shared)


def test_dependent_masks_are_reported(measured: MaskGeometry) -> None:
    assert measured.warnings() == []
    wrong = replace(measured, masked=measured.masked_alike)  # as if both users had one mask
    assert "standard errors apart" in wrong.warnings()[0]


def test_equal_histories_are_announced() -> None:
    found = mask_geometry(interactions_of([[0, 1, 2]] * 6, 4), generator=seeded())
    assert "15 of 15 pairs have the same history" in found.warnings()[0]
    assert found.figures()["contraction"] == 0
    assert found.figures()["expanding_share"] == 1
    found.plot()


def test_too_few_users_and_masks() -> None:
    with pytest.raises(DataError, match="at least 10 pairs of users, got 6"):
        mask_geometry(interactions_of([[0], [1], [2], [3], []], 5), generator=seeded())
    with pytest.raises(DataError, match="got 0"):
        mask_geometry(interactions_of([[], []], 5), generator=seeded())
    with pytest.raises(ConfigError, match="n_masks"):
        mask_geometry(DATA, n_masks=0, generator=seeded())


def test_the_plot_has_a_map_and_probabilities(measured: MaskGeometry) -> None:
    figure = measured.plot()
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:2] == ["Expected distance after masks, ρ = 0.6", "What a mask does to a pair"]
    line = figure.axes[0].lines[0]
    np.testing.assert_allclose(line.get_xdata(), 1.2 * np.asarray(line.get_ydata()))

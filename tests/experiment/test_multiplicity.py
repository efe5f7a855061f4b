import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from coterie.experiment.multiplicity import benjamini_hochberg, holm

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@settings(max_examples=6, deadline=None)  # statsmodels takes a quarter of a second for each
@given(P_VALUES)
def test_as_statsmodels_has_them(p_values):
    for ours, theirs in ((holm, "holm"), (benjamini_hochberg, "fdr_bh")):
        expected = multipletests(p_values, method=theirs)[1]
        np.testing.assert_allclose(ours(p_values), expected, atol=1e-12)


def test_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert benjamini_hochberg([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.04, 0.04])


def test_what_is_not_there_does_not_count():
    for correct in (holm, benjamini_hochberg):
        found = correct([0.01, float("nan"), 0.02])
        assert np.isnan(found[1])
        assert found[[0, 2]] == pytest.approx(correct([0.01, 0.02]))
        assert len(correct([])) == 0


def test_the_promises_hold():
    """Of 20 nulls Holm lets any pass in 5 % of families; BH: 5 % of alarms are false, at most."""
    rng = np.random.default_rng(0)
    nulls = rng.random((2000, 20))
    assert np.mean([holm(p).min() < 0.05 for p in nulls]) == pytest.approx(0.05, abs=0.015)
    mixed = np.hstack([nulls[:, :15], rng.beta(0.05, 10, (2000, 5))])
    alarms = np.array([benjamini_hochberg(p) < 0.05 for p in mixed])
    false = alarms[:, :15].sum(axis=1) / np.maximum(alarms.sum(axis=1), 1)
    assert 0.02 < false.mean() < 0.05
    assert alarms[:, 15:].mean() > 0.8

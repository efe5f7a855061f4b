import numpy as np
import pytest
from scipy.stats import binom, chi2

from coterie.experiment.mismatch import ALARM, sample_ratio


def test_pearsons_statistic_by_hand():
    found = sample_ratio(np.array([5100, 2400, 2500]), (0.5, 0.25, 0.25))
    statistic = 100**2 / 5000 + 100**2 / 2500
    assert found.p_value == pytest.approx(chi2.sf(statistic, 2))
    assert found.expected == (5000, 2500, 2500)


def test_one_percent_too_many_is_found():
    assert not sample_ratio(np.array([10_000, 10_100]), (0.5, 0.5)).alarm
    assert sample_ratio(np.array([1_000_000, 1_010_000]), (0.5, 0.5)).alarm


def test_false_alarms_are_as_rare_as_promised():
    """Exactly: the binomial probability of all counts that raise the alarm."""
    n, share = 2000, 0.3
    counts = np.arange(n + 1)
    alarms = np.array(
        [sample_ratio(np.array([k, n - k]), (share, 1 - share)).alarm for k in counts]
    )
    assert binom.pmf(counts[alarms], n, share).sum() == pytest.approx(ALARM, rel=0.3)


def test_nobody_is_no_alarm():
    assert sample_ratio(np.array([0, 0]), (0.5, 0.5)).p_value == 1

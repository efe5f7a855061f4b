import numpy as np
import pytest

from coterie.experiment import moments
from coterie.experiment.moments import Moments, pooled_mean


@pytest.fixture
def values():
    return np.random.default_rng(0).lognormal(0, 1, (501, 4)) + np.array([0, 1e6, 0, 0])


def test_as_numpy_has_them(values):
    found = Moments.of(values)
    np.testing.assert_allclose(found.mean, values.mean(axis=0))
    np.testing.assert_allclose(found.cov, np.cov(values.T), rtol=1e-9)


def test_pieces_do_not_matter(values, monkeypatch):
    whole = Moments.of(values)
    monkeypatch.setattr(moments, "ROWS", 100)
    np.testing.assert_allclose(Moments.of(values).cov, whole.cov, rtol=1e-12)


def test_by_arm(values):
    arm = np.arange(501) % 3
    arms = Moments.by_arm(values, arm, 4)
    assert [found.n for found in arms] == [167, 167, 167, 0]
    np.testing.assert_allclose(arms[1].mean, values[1::3].mean(axis=0))
    np.testing.assert_allclose(pooled_mean(arms), values.mean(axis=0))
    assert np.isnan(arms[3].mean).all()


def test_one_user_has_no_variance():
    assert np.isnan(Moments.of(np.ones((1, 2))).cov).all()

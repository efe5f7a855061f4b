import numpy as np
import pytest

from coterie.errors import ConfigError
from coterie.evaluation.cohorts import DEFAULT_COHORTS, Cohort


def test_the_default_cohorts_cover_each_length_from_five_on_once() -> None:
    lengths = np.arange(0, 500)
    groups = np.array([cohort.holds(lengths) for cohort in DEFAULT_COHORTS])
    np.testing.assert_array_equal(groups.sum(axis=0), (lengths >= 5).astype(int))
    first, last = groups.argmax(axis=1), 499 - groups[:, ::-1].argmax(axis=1)
    assert list(zip(first.tolist(), last.tolist(), strict=True)) == [
        (5, 10),
        (11, 50),
        (51, 100),
        (101, 499),
    ]


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'high'"):
        Cohort.read({"name": "all", "low": 0, "hihg": 3})

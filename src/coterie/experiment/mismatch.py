"""Sample ratio mismatch: whether the arms got the users that their weights promise."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chisquare

ALARM = 0.001
"""Fabijan et al., "Diagnosing sample ratio mismatch in online controlled experiments", KDD 2019."""


@dataclass(frozen=True)
class Mismatch:
    """Observed against expected users.

    Parameters
    ----------
    observed
        Users by arm.
    expected
        The same total, divided by the weights.
    p_value
        Of Pearson's chi-square test; 1 without users.
    """

    observed: tuple[int, ...]
    expected: tuple[float, ...]
    p_value: float

    def to_dict(self) -> dict[str, Any]:
        """What every answer calls ``sample_ratio_mismatch``."""
        return {**asdict(self), "alarm": self.alarm}

    @property
    def alarm(self) -> bool:
        """Whether the arms cannot be compared: p < .001."""
        return self.p_value < ALARM


def sample_ratio(observed: NDArray[np.int64], shares: Sequence[float]) -> Mismatch:
    """Test users by arm ``[A]`` against the weights ``[A]``."""
    expected = observed.sum() * np.asarray(shares) / sum(shares)
    p = float(chisquare(observed, expected).pvalue) if observed.sum() else 1.0
    return Mismatch(tuple(map(int, observed)), tuple(map(float, expected)), p)

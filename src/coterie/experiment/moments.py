"""Sufficient statistics of an arm: number of users, means and covariances of their values."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROWS = 100_000  # users at once, so that the centred copy stays small

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Of ``V`` values of ``n`` users.

    Parameters
    ----------
    n
        Users; the covariance is of use from two on.
    mean
        float64 ``[V]``; NaN without users.
    cov
        Covariance with divisor ``n − 1``, float64 ``[V, V]``; NaN with fewer than two users.
    """

    n: int
    mean: Floats
    cov: Floats

    @classmethod
    def of(cls, values: Floats) -> "Moments":
        """Of values ``[n, V]``; centred first, so that large means cost no digits."""
        n, width = values.shape
        if n == 0:
            return cls(0, np.full(width, np.nan), np.full((width, width), np.nan))
        mean = values.mean(axis=0)
        cross = np.zeros((width, width))
        for start in range(0, n, ROWS):
            centred = values[start : start + ROWS] - mean
            cross += centred.T @ centred
        return cls(n, mean, cross / (n - 1) if n > 1 else np.full((width, width), np.nan))

    @classmethod
    def by_arm(cls, values: Floats, arm: NDArray[np.int64], n_arms: int) -> tuple["Moments", ...]:
        """One per arm, of values ``[U, V]`` and arms ``[U]``."""
        return tuple(cls.of(values[arm == place]) for place in range(n_arms))


def pooled_mean(arms: Iterable[Moments]) -> Floats:
    """Mean over all users of the arms, ``[V]``."""
    there = [arm for arm in arms if arm.n]
    total: Floats = np.average([arm.mean for arm in there], axis=0, weights=[a.n for a in there])
    return total

"""Pairs of users: random and nearest ones, what they share, and statistics over pairs.

Pairs with a user in common are not independent; standard errors here allow for that.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from scipy.stats import rankdata

from coterie.data.interactions import Interactions
from coterie.mechanisms.distances import pick, w1_bracket
from coterie.mechanisms.encoding import encode
from coterie.mechanisms.measurement import (
    NOMINAL_RATE,
    Budget,
    SampleSize,
    choose,
    choose_pairs,
    with_histories,
)
from coterie.mechanisms.neighbours import nearest_users
from coterie.models.posterior import Posterior
from coterie.models.vae import VAE

MOST_PAIRS = 4000  # of each kind: more would hardly narrow the intervals


@dataclass(frozen=True, eq=False)
class SampledPairs:
    """Pairs among a sample of users, with what they are measured on.

    Parameters
    ----------
    users
        Internal indices, int64 ``[n]``, ascending.
    posterior
        Theirs, with clean input, ``[n, K]``.
    random
        Random pairs of positions in ``users``, int64 ``[P, 2]``.
    nearest
        Users and whoever of the sample is nearest to them by W2, int64 ``[≤ P, 2]``.
    """

    users: np.ndarray
    posterior: Posterior
    random: np.ndarray
    nearest: np.ndarray
    sample: SampleSize

    @property
    def both(self) -> np.ndarray:
        """The random, then the nearest pairs, int64 ``[≤ 2P, 2]``."""
        return np.concatenate([self.random, self.nearest])

    def frame(self, user_items: Interactions) -> pl.DataFrame:
        """One row per pair: users, kind, items, L1 distance of the histories, bracket of W1."""
        pairs = self.users[self.both]
        shared, lengths = shared_items(user_items, pairs), user_items.history_lengths[pairs]
        bracket = w1_bracket(*(pick(self.posterior, side) for side in self.both.T))
        return pl.DataFrame(
            {
                "user": pairs[:, 0],
                "other": pairs[:, 1],
                "kind": ["random"] * len(self.random) + ["nearest"] * len(self.nearest),
                "shared": shared,
                "l1": lengths.sum(1) - 2 * shared,
                "w1_lower": bracket.lower.double().numpy(),
                "w2": bracket.upper.double().numpy(),
            }
        )


def sample_pairs(
    model: VAE,
    user_items: Interactions,
    *,
    generator: torch.Generator,
    budget: Budget,
    operations: float,
    most: int = MOST_PAIRS,
) -> SampledPairs:
    """As many users as a third of the budget can compare with each other, and pairs of them.

    ``operations`` is what each pair costs; at most ``most`` of each kind are taken.
    """
    everyone = with_histories(user_items)
    per_other = 8 * model.config.latent_dim + 200  # the products of [μ, σ], and the search
    reach = int((budget.seconds / 3 * NOMINAL_RATE / per_other) ** 0.5)
    size = budget.share(1 / 3).most(
        len(everyone),
        operations=per_other * max(reach, 1),
        memory=64 * model.config.latent_dim,
        least=4,
        unit="users",
    )
    users = choose(everyone, size.used, generator)
    posterior = encode(model, user_items, users)
    affordable = budget.share(1 / 3).most(
        len(users) * (len(users) - 1) // 2,
        operations=2 * operations,
        memory=200,
        least=3,
        unit="pairs of users",
    )
    used = min(affordable.used, most)
    random = choose_pairs(len(users), used, generator)
    nearest = nearest_users(posterior, 1).indices[:, 0].numpy()
    nearest = np.sort(np.stack([np.arange(len(users)), nearest], 1), axis=1)
    nearest = choose(np.unique(nearest[:, 0] * len(users) + nearest[:, 1]), used, generator)
    nearest = np.stack(np.divmod(nearest, len(users)), axis=1)
    every = len(everyone) * (len(everyone) - 1) // 2
    sample = SampleSize(used, every, "pairs of users")
    return SampledPairs(users, posterior, random, nearest, sample)


def shared_items(user_items: Interactions, pairs: np.ndarray) -> np.ndarray:
    """How many items each pair of rows shares, int64 ``[P]``, by sparse products."""
    matrix, counts = user_items.to_scipy(), np.zeros(len(pairs), dtype=np.int64)
    for start in range(0, len(pairs), 1024):
        rows = pairs[start : start + 1024]
        products = matrix[rows[:, 0]].multiply(matrix[rows[:, 1]])
        counts[start : start + 1024] = products.sum(axis=1)
    return counts


def standard_error(values: np.ndarray, users: np.ndarray) -> float:
    """Standard error of a mean over pairs, robust to pairs that share a user.

    ``Var = (Σ_user (Σ_{its pairs} e)² − Σ_pairs e²) / P²`` with ``e`` the deviations from the mean
    (Aronow, Samii & Assenova, Political Analysis 2015), but at least the error of independent
    pairs; NaN of fewer than two.

    Parameters
    ----------
    values
        ``[P]``.
    users
        int64 ``[P, 2]``.
    """
    n = len(values)
    if n < 2:
        return float("nan")
    deviations = np.asarray(values, dtype=np.float64) - np.mean(values)
    of_user = np.bincount(np.unique(users, return_inverse=True)[1].ravel(), deviations.repeat(2))
    independent = float((deviations**2).sum())
    dyadic = float((of_user**2).sum()) - independent
    return float(np.sqrt(max(dyadic, independent * n / (n - 1))) / n)


@dataclass(frozen=True)
class Correlation:
    """A rank correlation and its 95 % interval; NaN where one of the two does not vary."""

    estimate: float
    low: float
    high: float


def rank_correlation(x: np.ndarray, y: np.ndarray, pairs: np.ndarray) -> Correlation:
    """Spearman's correlation over pairs of users.

    The interval is Fisher's, with the standard error from each pair's influence on the estimate
    and :func:`standard_error`.
    """
    n = len(x)
    a, b = ((rankdata(values) - (n + 1) / 2) / n for values in (x, y))
    scale = a.std() * b.std()
    if scale == 0:
        return Correlation(np.nan, np.nan, np.nan)
    influence = (a * b + _mean_above(x, b) + _mean_above(y, a)) / scale
    estimate = float(np.clip((a * b).mean() / scale, -1, 1))
    if abs(estimate) > 1 - 1e-9:
        return Correlation(estimate, estimate, estimate)
    width = 1.96 * standard_error(influence, pairs) / (1 - estimate**2)
    low, high = np.tanh(np.arctanh(estimate) + np.array([-width, width]))
    return Correlation(estimate, float(low), float(high))


def _mean_above(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean over all j of ``values[j]`` where ``keys[j] > keys[i]``; half where they are equal."""
    _, group = np.unique(keys, return_inverse=True)
    sums = np.bincount(group, values)
    above: np.ndarray = (sums.sum() - np.cumsum(sums) + sums / 2)[group] / len(values)
    return above

"""The law of the distance between two masked histories: exact, and bounded.

Two users differ in ``d`` items and share ``c``. A mask keeps each item with probability ρ. Under
independent masks a differing item still differs if it is kept (ρ), and a shared one differs
newly if one user keeps it and the other does not (2ρ(1 − ρ)). So the masked L1 distance is
``D ~ Binomial(d, ρ) + Binomial(c, 2ρ(1 − ρ))``; under one mask for both, ``Binomial(d, ρ)``.
Source: arXiv 2511.06781, Theorem 2.6; the exact law is our derivation.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from coterie.errors import ConfigError

TERMS_AT_ONCE = 1_000_000  # of the sums over shared items


@dataclass(frozen=True, eq=False)
class MaskOdds:
    """What a mask does to a distance; arrays of one shape, probabilities that sum to 1."""

    contraction: np.ndarray  # P(D < d)
    unchanged: np.ndarray  # P(D = d)
    expansion: np.ndarray  # P(D > d)


@dataclass(frozen=True, eq=False)
class MaskBounds:
    """Lower and upper bounds of the probabilities that a distance contracts, or expands."""

    least_contraction: np.ndarray
    most_contraction: np.ndarray
    least_expansion: np.ndarray
    most_expansion: np.ndarray


def masked_distance_pmf(
    differing: int, shared: int, keep_probability: float = 0.5, *, same_mask: bool = False
) -> np.ndarray:
    """P(D = 0), …, P(D = d + c), float64 ``[d + c + 1]``.

    Source: the setting of Theorem 2.6 of arXiv 2511.06781; the exact law is our derivation.

    Parameters
    ----------
    differing, shared
        d and c, the items that one of two users has, and that both have.
    keep_probability
        ρ in (0, 1], the probability to KEEP an item.
    same_mask
        One mask for both users, instead of one each.
    """
    from scipy.stats import binom

    d, c = _counts(differing, shared)
    appearing = appearing_probability(keep_probability, same_mask)
    left = binom.pmf(np.arange(d + 1), d, keep_probability)
    new = binom.pmf(np.arange(c + 1), c, appearing)
    return np.convolve(left, new)  # direct: sums of positive terms lose no digits, unlike an FFT


def masked_distance_mean(
    differing: ArrayLike,
    shared: ArrayLike,
    keep_probability: float = 0.5,
    *,
    same_mask: bool = False,
) -> np.ndarray:
    """``E[D] = ρd + 2ρ(1 − ρ)c``, in items; parameters as of :func:`masked_odds`."""
    d, c = _counts(differing, shared)
    return np.asarray(keep_probability * d + appearing_probability(keep_probability, same_mask) * c)


def masked_odds(
    differing: ArrayLike,
    shared: ArrayLike,
    keep_probability: float = 0.5,
    *,
    same_mask: bool = False,
) -> MaskOdds:
    """Exact probabilities that a masked distance is less than, equal to, or more than d.

    A distance contracts if more differing items are hidden than shared ones come to differ, so
    ``P(D < d) = P(N < Binomial(d, 1 − ρ))`` with ``N ~ Binomial(c, 2ρ(1 − ρ))``: a sum over N.
    Terms further than 4√c + 1 from the mean of N are left out; by Hoeffding they are less than
    3e-14 together. Source: Theorem 2.6 of arXiv 2511.06781; the exact form is ours.

    Parameters
    ----------
    differing, shared
        d and c, integers of any shapes that broadcast.
    keep_probability
        ρ in (0, 1], the probability to KEEP an item.
    same_mask
        One mask for both users, instead of one each: then nothing ever expands.

    Raises
    ------
    ConfigError
        ρ is outside (0, 1], or a count is negative or not an integer.
    """
    d, c = np.broadcast_arrays(*_counts(differing, shared))
    appearing = appearing_probability(keep_probability, same_mask)
    shape, d, c = d.shape, d.ravel(), c.ravel() if appearing else np.zeros(d.size, dtype=np.int64)
    width = int(c.max(initial=0)) + 1
    keys, where = np.unique(d * width + c, return_inverse=True)  # each (d, c) once
    odds = np.zeros((3, len(keys)))
    middle = keys % width * appearing
    reach = 4 * np.sqrt(keys % width) + 1
    low = np.maximum(np.ceil(middle - reach), 0).astype(np.int64)
    high = np.minimum(np.floor(middle + reach), keys % width).astype(np.int64)
    chunks = np.cumsum(high - low + 1) // TERMS_AT_ONCE
    for part in np.split(np.arange(len(keys)), np.flatnonzero(np.diff(chunks)) + 1):
        if len(part):
            at = np.divmod(keys[part], width)
            odds[:, part] = _sums(*at, low[part], high[part], 1 - keep_probability, appearing)
    contraction, unchanged, expansion = (row[where].reshape(shape) for row in odds)
    return MaskOdds(contraction, unchanged, expansion)


def masked_bounds(
    differing: ArrayLike,
    shared: ArrayLike,
    keep_probability: float = 0.5,
    *,
    same_mask: bool = False,
) -> MaskBounds:
    """Hoeffding's bounds of the probabilities to contract and to expand.

    D is a sum of d + c independent indicators whose mean lies ``Δ = d − E[D]`` below d, so
    ``P(D ≥ d) ≤ exp(−2Δ²/(d + c))`` if Δ > 0, and ``P(D ≤ d)`` likewise if Δ < 0. Source: Theorem
    2.6 of arXiv 2511.06781. Parameters and errors as of :func:`masked_odds`.
    """
    d, c = np.broadcast_arrays(*_counts(differing, shared))
    gap = d - masked_distance_mean(d, c, keep_probability, same_mask=same_mask)
    indicators = np.maximum(d if same_mask else d + c, 1)
    tail = np.exp(-2 * gap**2 / indicators)
    near, far = gap < 0, gap > 0
    return MaskBounds(
        np.where(far, 1 - tail, 0.0),
        np.where(near, tail, 1.0),
        np.where(near, 1 - tail, 0.0),
        np.where(far, tail, 1.0),
    )


def appearing_probability(keep_probability: float, same_mask: bool) -> float:
    """The probability that a shared item comes to differ."""
    if not 0 < keep_probability <= 1:
        raise ConfigError(f"keep_probability must be in (0, 1], got {keep_probability}.")
    return 0.0 if same_mask else 2 * keep_probability * (1 - keep_probability)


def _counts(*counts: ArrayLike) -> list[Any]:
    arrays = [np.asarray(count) for count in counts]
    for array in arrays:
        if array.size and (array.dtype.kind not in "iu" or (array < 0).any()):
            raise ConfigError(
                "Numbers of differing and shared items must be integers of at least 0, got "
                f"{array.ravel()[:3]} of type {array.dtype}."
            )
    return [array.astype(np.int64) for array in arrays]


def _sums(
    d: np.ndarray, c: np.ndarray, low: np.ndarray, high: np.ndarray, hidden: float, new: float
) -> np.ndarray:
    """The three probabilities ``[3, n]``, from the terms N = low … high of each (d, c)."""
    from scipy.stats import binom

    sizes = high - low + 1
    starts = np.cumsum(sizes) - sizes
    n = np.arange(sizes.sum()) + np.repeat(low - starts, sizes)
    d, weight = np.repeat(d, sizes), binom.pmf(n, np.repeat(c, sizes), new)
    fewer, same, more = binom.cdf(n - 1, d, hidden), binom.pmf(n, d, hidden), binom.sf(n, d, hidden)
    return np.add.reduceat(np.stack([more, same, fewer]) * weight, starts, axis=1)
